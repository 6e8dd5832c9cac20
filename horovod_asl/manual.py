"""`--help`: a command's manual, its paragraphs wrapped to the terminal."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from horovod_asl.options import Option, options_of, section_of
from horovod_asl.synonyms import synonyms_of

_LEAST_COLUMNS, _NARROW_COLUMNS = 40, 70
_CONFIG = "Read options from a YAML file; a flag to its right wins."


def manual(
    config_class: type[Any],
    *,
    prog: str,
    description: str | None,
    shows_all: bool = False,
    columns: int | None = None,
) -> str:
    """The manual of a command.

    Args:
        config_class: the dataclass of its options; a string under a field is the option's text.
        prog: `horovod-asl train`.
        description: paragraphs, which are wrapped, and indented examples, which are not.
        shows_all: all options, not those alone that `config_class.COMMON` names, where it has that.
        columns: the width; None: the terminal's, where there is none 80.
    """
    width = max(_LEAST_COLUMNS, columns or shutil.get_terminal_size().columns)
    options = options_of(config_class)
    common = None if shows_all else getattr(config_class, "COMMON", None)
    parts = [_wrapped(_usage(options, prog), width, hang=len("usage: "))]
    parts += _paragraphs(description or "", width)
    words = [option for option in options if option.is_positional]
    if words:
        parts.append(_group("arguments", ((one.label, _text(one)) for one in words), width))
    shown = [one for one in options if common is None or one.name in common or one.is_required]
    for name, about, rows in _groups(config_class, shown, left_out=len(options) - len(shown)):
        parts.append(_group(f"{name}: {about}" if about else name, rows, width))
    return "\n\n".join(parts)


def _groups(
    config_class: type[Any], options: Sequence[Option], *, left_out: int
) -> Iterable[tuple[str, str, list[tuple[str, str]]]]:
    """Name, purpose and rows: first of the options at the top, what must be given before the rest."""
    flags = [option for option in options if not option.is_positional]
    top = [option for option in flags if option.section is None]
    top.sort(key=lambda option: not option.is_required)
    own = [(_invocation(option), _text(option)) for option in top]
    own += [("--config FILE", _CONFIG), ("-h, --help", "Show this manual and leave.")]
    own += [("--help-all", f"Show {left_out} more options, too.")] if left_out else []
    yield "options", "", own
    for field in dataclasses.fields(config_class):
        section = section_of(field)
        if section is not None:
            rows = [(_invocation(option), _text(option)) for option in flags if option.section == field.name]
            if rows:
                yield field.name, (inspect.getdoc(section) or "").partition("\n")[0], rows


def _usage(options: Sequence[Option], prog: str) -> str:
    words = [option.label for option in options if option.is_positional]
    needed = [_invocation(option) for option in options if option.is_required and not option.is_positional]
    return " ".join(["usage:", prog, *words, *needed, "[OPTIONS]"])


def _invocation(option: Option) -> str:
    if option.is_switch:
        return f"--[no-]{option.flag[2:]}"
    return f"{option.flag} {option.label}"


def _text(option: Option) -> str:
    """What it is for, its choices where they do not stand beside the flag, its default and its other names."""
    parts = [option.help()]
    if option.choices and not option.label.startswith("{"):
        parts.append(f"One of {', '.join(option.choices)}.")
    notes = [*_default(option), *(f"also {name}" for name in synonyms_of(option))]
    return " ".join([*parts, *([f"({'; '.join(notes)})"] if notes else [])])


def _default(option: Option) -> list[str]:
    if option.is_required:
        return [] if option.is_positional else ["required"]
    if option.is_switch:
        return ["default: on"] if option.default else []
    if option.default is None or option.default == ():
        return []
    value = " ".join(map(str, option.default)) if option.is_list else option.default
    return [f"default: {value:g}" if isinstance(value, float) else f"default: {value}"]


def _group(title: str, rows: Iterable[tuple[str, str]], width: int) -> str:
    """Under the title a row each: the flag, and beside it, or below where that is too narrow, its text."""
    margin = 28 if width >= _NARROW_COLUMNS else 8
    lines = [_wrapped(title, width)]
    for name, text in rows:
        block = textwrap.indent(_wrapped(text, width - margin), " " * margin)
        first = f"  {_bold(name)}"
        if len(name) + 4 <= margin:
            lines.append(first + block[len(name) + 2 :])
        else:
            lines += [first, block] if text else [first]
    return "\n".join(lines)


def _paragraphs(description: str, width: int) -> list[str]:
    """Paragraphs wrapped; those whose lines are indented are examples, and stay as they are."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(description))
    return [part if part.startswith("  ") else _wrapped(part, width) for part in parts if part]


def _wrapped(text: str, width: int, *, hang: int = 0) -> str:
    """Lines of at most `width` columns; a number is not parted from its unit."""
    whole = re.sub(r"(\d) (%|px|s\b)|(default:) ", "\\1\\3\u00a0\\2", " ".join(text.split()))
    lines = textwrap.fill(
        whole, width, break_long_words=False, break_on_hyphens=False, subsequent_indent=" " * hang
    )
    return lines.replace("\u00a0", " ")


def _bold(text: str) -> str:
    """In bold on a terminal that can."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"
