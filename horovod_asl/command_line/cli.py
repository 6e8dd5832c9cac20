"""Flags and YAML to a typed, frozen config: tyro reads the flags, and a YAML file is flags in another spelling.

`--config FILE` is expanded in place into the flags that its keys name, so both go through one validation:
unknown keys and wrong types are refused alike, and a flag to the right of `--config` wins over the file. `~` is
expanded in every path of the result, because a shell expands it at the beginning of a word alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import tyro

from horovod_asl.command_line.config_file import flags_of_file
from horovod_asl.command_line.flags import checked, join_repeated
from horovod_asl.command_line.manual import manual
from horovod_asl.command_line.options import options_of
from horovod_asl.errors import UserError

ConfigT = TypeVar("ConfigT")


def parse(
    config_class: type[ConfigT],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    default: ConfigT | None = None,
) -> ConfigT:
    """Parse `argv` into `config_class`.

    Args:
        config_class: a frozen dataclass; nested dataclasses become groups of flags without a prefix.
        argv: the arguments after the command's name; `--config FILE` may stand anywhere among them.
        prog: the name that usage shows, such as `horovod-asl train`.
        description: the manual above the flags, usually the command's module docstring.
        default: values in place of the dataclass's own defaults.

    Raises:
        UserError: the YAML file is missing, is not a mapping, or holds a key that the config lacks; a flag or a
            value is refused, by tyro or by the config itself; a path begins with `~` and the name of no user.
        SystemExit: after `--help` or `--help-all`, with code 0.
    """
    if asks_for_help(argv):
        print(manual(config_class, prog=prog, description=description, shows_all="--help-all" in argv))
        raise SystemExit(0)
    words = join_repeated(config_class, checked(config_class, argv, prog=prog))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                config_class,
                args=_with_values(config_class, _expand_config_files(config_class, words)),
                prog=prog,
                default=default if default is not None else tyro.MISSING_NONPROP,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        raise _own_error(stop) or UserError(_one_line(complaint.getvalue(), config_class, prog)) from None
    result: ConfigT = _with_homes(config)
    return result


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command is to show its manual."""
    return bool({"-h", "--help", "--help-all"} & {*argv})


def expand_home(text: str) -> str:
    """The path with `~` or `~USER` at its beginning replaced by that home folder.

    Raises:
        UserError: there is no such user, or the home is not known, and no file of that very name is here.
    """
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path's own raises a RuntimeError, and drops `./`
    first = text.partition("/")[0]
    if not expanded.startswith("~") or (first != "~" and Path(first).exists()):
        return expanded
    reason = (
        "your home folder is not known here; set HOME"
        if first == "~"
        else f"there is no user {first[1:]} on this machine"
    )
    raise UserError(f"{text}: {reason}, or write the whole path")


def value_of(config_class: type[Any], argv: Sequence[str], flag: str) -> str | None:
    """The value of `flag` (`--resume`) among the arguments and in their config files, the last one; None without any.

    Nothing else is looked at: the other arguments may only make sense once this one is known.

    Raises:
        UserError: as `parse`, of a config file.
    """
    value = ""
    words = _expand_config_files(config_class, list(argv))
    for word, after in pairwise([*words, ""]):
        if word == flag:
            value = after
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return None if value in ("", "None") else value


def named_flags(config_class: type[Any], argv: Sequence[str]) -> dict[str, str]:
    """The flags among the arguments and in their config files by their names without dashes, each with the word after
    it, the last one of each; `--flag None` counts as left out.

    Raises:
        UserError: as `parse`, of a config file.
    """
    named: dict[str, str] = {}
    words = _expand_config_files(config_class, checked(config_class, argv, prog="horovod-asl"))
    for word, after in pairwise([*words, ""]):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            named[name.replace("_", "-")] = value if equals else after
    return {name: value for name, value in named.items() if value != "None"}


def command(*words: str | Path) -> str:
    """`horovod-asl WORDS`, to be pasted into a shell: quoted, and by its path where the shell does not know it."""
    return f"{_program()} {shlex.join(map(str, words))}"


def _program() -> str:
    """`horovod-asl`; by its path where its environment is not active in the user's shell, as after `make train`."""
    if os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "horovod-asl"
    program, here = Path(sys.executable).with_name("horovod-asl"), Path.cwd()
    if not program.is_file():
        return f"{shlex.quote(sys.executable)} -m horovod_asl"
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))


def require_writable(path: Path, flag: str) -> None:
    """Refuse a place where `flag`'s file can't be written, before the work whose outcome it is to hold.

    Raises:
        UserError: a folder is there, its own folder is missing, or writing is not allowed.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a file in it, such as {path / 'scores.json'}")
    if not folder.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {folder}; make it, or name another place")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: choose another place")


def write_text(path: Path, text: str, flag: str) -> None:
    """Write `flag`'s file; UserError where the disk refuses it after all."""
    write_bytes(path, text.encode(), flag)


def write_bytes(path: Path, content: bytes, flag: str) -> None:
    """As `write_text`."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror or error})") from error


def fail(message: str) -> None:
    """Print a user's mistake as one line on standard error."""
    with contextlib.suppress(OSError):  # the exit code tells those who read no standard error
        print(f"error: {message}", file=sys.stderr, flush=True)


def _own_error(stop: BaseException) -> UserError | None:
    """The config's own complaint, raised while tyro was building it; None where tyro itself complains."""
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__context__
    return cause


def _one_line(complaint: str, config_class: type[Any], prog: str) -> str:
    """tyro's box of a fault as one line; what is missing is named without its text."""
    text = " ".join(" ".join(line.strip("│╭╮╰╯ ") for line in complaint.splitlines()[1:]).split())
    fault = text.partition(" ─")[0].rstrip(".")
    if fault.startswith("Missing from"):
        needed = [option for option in options_of(config_class) if option.is_required]
        missing = [option.shown for option in needed if f" {option.shown} " in f"{fault} "]
        fault = f"{prog} needs {' and '.join(missing)}"
    return f"{fault} ({prog} --help lists all)"


def _with_homes(config: Any) -> Any:
    """The config with `~` expanded in each path that it or one of its groups holds."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    places = {field.name for field in dataclasses.fields(config) if field.metadata.get("is_place")}
    expanded = {name: _expanded(value, is_place=name in places) for name, value in values.items()}
    changed = {name: value for name, value in expanded.items() if value != values[name]}
    return dataclasses.replace(config, **changed) if changed else config


def _expanded(value: Any, *, is_place: bool) -> Any:
    if dataclasses.is_dataclass(value):
        return _with_homes(value)
    if isinstance(value, tuple):
        return tuple(_expanded(item, is_place=is_place) for item in value)
    if isinstance(value, Path):
        return _spelled(Path(expand_home(str(value))))
    if isinstance(value, str) and is_place:
        name, equals, place = value.partition("=")
        return f"{name}={expand_home(place)}" if equals and "/" not in name else expand_home(value)
    return value


def _spelled(path: Path) -> Path:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path} is no file name in this locale ({error.encoding}): set LC_ALL=C.UTF-8, or name another"
        ) from error
    return path


def _expand_config_files(config_class: type[Any], argv: list[str]) -> list[str]:
    expanded: list[str] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        if word == "--config" or word.startswith("--config="):
            inline = word.partition("=")[2]
            if not inline and position + 1 == len(argv):
                raise UserError("--config needs the path of a YAML file")
            name = inline or argv[position + 1]
            expanded += flags_of_file(config_class, Path(expand_home(name)))
            position += 1 if inline else 2
        else:
            expanded.append(word)
            position += 1
    return expanded


def _with_values(config_class: type[Any], argv: list[str]) -> list[str]:
    """The arguments with `--hands` and `--no-hands` of a `bool | None` as `--hands=True` and `--hands=False`.

    Only a plain `bool` has such a pair of flags in tyro; one of None too would need a value.
    """
    values: dict[str, str] = {}
    for option in options_of(config_class):
        if option.is_switch and option.may_be_none:
            values |= {option.flag: f"{option.flag}=True", f"--no-{option.flag[2:]}": f"{option.flag}=False"}
    return [values.get(word, word) for word in argv]
