"""Which class a folder, or a file's name, means: by its own name (`a`, `A`, `Space`), by --classes FILE, or by
--class-from-name REGEX.

FILE is text. Each line is `FOLDER: CLASS` (or `FOLDER,CLASS`); or each line is a class alone, in the natural order of
the folders that have no class by their own names (0, 1, 2, 10). Empty lines and lines that begin with # are ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES, canonical_class

_PAIR = re.compile(r"(?P<word>.*\S)\s*[:,;\t]\s*(?P<meaning>[^:,;\t]*)")
_MOST_LISTED = 8
OURS = "A … Z, del, nothing, space"


@dataclass(frozen=True, eq=False)
class ClassNames:
    """How names tell classes; `classes_by` makes it of the two flags, `fitted_to` fits it to a source's folders."""

    file: str = ""
    """The name of FILE; empty without --classes."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """The class of each folder (or word of a file's name), in lower case."""
    in_order: tuple[str, ...] = ()
    """The classes of a FILE without folders, which `fitted_to` turns into meanings."""
    pattern: re.Pattern[str] | None = None
    """Its group finds the class in a file's name."""

    def class_of(self, word: str) -> str | None:
        """The class that a word means, by FILE or by itself; None if it means none."""
        return self.meanings.get(word.strip().casefold()) or canonical_class(word)

    def is_given(self, word: str) -> bool:
        """Whether FILE says what the word means."""
        return word.strip().casefold() in self.meanings

    def in_name(self, name: str) -> tuple[str | None, str]:
        """The word of a file's name (without folders) that `pattern` finds, and the rest of the name's stem."""
        assert self.pattern is not None
        match = self.pattern.search(name)
        word = match[self._group] if match else None
        if match is None or not word:
            return None, ""
        start, end = match.span(self._group)
        stem = PurePosixPath(name).stem
        return word, stem[:start] + stem[end:]

    @cached_property
    def _group(self) -> str | int:
        assert self.pattern is not None
        return "class" if "class" in self.pattern.groupindex else 1

    def fitted_to(self, words: Iterable[str], what: str) -> ClassNames:
        """With the classes of a FILE in order given to those of `words` (of the source `what`) that need one.

        UserError if FILE has more classes or fewer than there are such words.
        """
        wanted = natural_order({word for word in words if canonical_class(word) is None})
        if not self.in_order or not wanted:
            return self
        if len(wanted) != len(self.in_order):
            raise UserError(
                f"--classes {self.file} holds {len(self.in_order)} classes, but {what} has {len(wanted)} folders or "
                f"words to give them to ({some_of(wanted)}): write lines `FOLDER: CLASS`"
            )
        meanings = dict(zip((word.casefold() for word in wanted), self.in_order, strict=True))
        return ClassNames(self.file, meanings, (), self.pattern)

    def line(self, words: Iterable[str]) -> str:
        """`classes.txt: 0 → A, 1 → B`: those of `words` that FILE gives a class; empty if none."""
        used = natural_order({word for word in words if self.is_given(word)})
        return f"{self.file}: {', '.join(f'{word} → {self.class_of(word)}' for word in used)}" if used else ""


USUAL = ClassNames()


def classes_by(file: Path | None, pattern: str | None) -> ClassNames:
    """What --classes and --class-from-name say. UserError if the file or the expression cannot be used."""
    meanings, in_order = _read(file) if file else ({}, ())
    return ClassNames(
        file=str(file or ""),
        meanings=meanings,
        in_order=in_order,
        pattern=None if pattern is None else _compiled(pattern),
    )


def refuse_idle_classes(classes: ClassNames, lines: Iterable[str]) -> None:
    """UserError if none of these lines, of what the sources hold, says that FILE gave a class."""
    if classes.file and not any(line.startswith(f"{classes.file}: ") for line in lines):
        raise UserError(f"--classes {classes.file} names no folder that is here: correct it or leave it out")


def natural_order(words: Iterable[str]) -> list[str]:
    """In order, with numbers by value: 2 before 10."""

    def key(word: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", word)
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]

    return sorted(words, key=key)


def _read(file: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """The meanings, or the classes in order, that a FILE holds."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {file} cannot be read ({getattr(error, 'strerror', error)})") from error
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(n, line.removeprefix("- ")) for n, line in lines if not line.startswith("#")]
    pairs = [(n, match, line) for n, line in lines for match in [_PAIR.fullmatch(line)]]
    meanings: dict[str, str] = {}
    in_order: list[str] = []
    for number, match, line in pairs:
        name = _class(file, number, match["meaning"] if match else line)
        if match is None:
            in_order.append(name)
        elif meanings.setdefault(_bare(match["word"]).casefold(), name) != name:
            raise UserError(f"--classes {file}, line {number}: {_bare(match['word'])} has another class above")
    if bool(meanings) == bool(in_order):
        raise UserError(
            f"--classes {file} must hold lines `FOLDER: CLASS`, or a class a line in the order of the folders"
        )
    return meanings, tuple(in_order)


def _class(file: Path, number: int, text: str) -> str:
    name = canonical_class(_bare(text))
    if name is None:
        raise UserError(f"--classes {file}, line {number}: {_bare(text)!r} is no class; the classes are {OURS}")
    return name


def _bare(text: str) -> str:
    return text.strip().strip("'\"").strip()


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--class-from-name {pattern!r} is no regular expression: {error}") from error
    if not compiled.groups:
        raise UserError(
            f"--class-from-name {pattern!r} has no group: put parentheses round the part of a file's name that is "
            "the class, as in '^([a-z])_'"
        )
    return compiled


def some_of(words: list[str]) -> str:
    """`0, 1, 2 … 25`, or all of a few."""
    if len(words) <= _MOST_LISTED:
        return ", ".join(words)
    return f"{', '.join(words[:3])} … {words[-1]}"


def counts_line(labels: Iterable[int]) -> str:
    """`A 70, B 65`: photos per class, in the order of the classes."""
    counts = Counter(labels)
    return ", ".join(f"{name} {counts[label]}" for label, name in enumerate(CLASSES) if counts[label])
