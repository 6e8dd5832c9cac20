"""A person's own examples, used beside the network: hold a letter for a second, and it is read better from then on.

What is kept of a frame is the network's embedding, not the picture. A hand is compared by the cosine with the mean of
each letter's examples (Mensink et al., "Distance-based image classification", TPAMI 2013), and the letter's logit
moves by how near it is. What this gains is in docs/live.md.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX
from horovod_asl.live.reader import Read
from horovod_asl.live.translator import Translation, Translator
from horovod_asl.system.files import write_atomically

_STRENGTH, _NEUTRAL = 20.0, 0.5
"""By how much a logit moves per cosine, and the cosine that moves nothing: found on nine people."""
_LESSON_S = 1.0
_MOST = 64
"""Frames kept a letter, of the last lessons."""


def default_file() -> Path:
    """Where examples are kept on this machine."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "horovod_asl" / "examples.npz"


Kept = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Of one letter: embeddings float32 (n, width), and in which position each was read, bool (n,)."""


class Examples:
    """The examples of one person, in a file of this machine alone. Threads may share them.

    Args:
        file: where they are kept; None: in the user's folder of data.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or default_file()
        self._kept = _load(self._file)  # replaced as a whole: another thread may be reading it

    @property
    def counts(self) -> Mapping[str, int]:
        """How many frames are kept of each letter."""
        return {letter: len(held) for letter, (_, held) in sorted(self._kept.items())}

    def add(self, letter: str, read: Read) -> None:
        """Keep one frame of a letter, in memory."""
        new = read.embeddings, read.as_held
        known = self._kept.get(letter, (new[0][:0], new[1][:0]))
        embeddings, as_held = (np.concatenate(pair)[-_MOST:] for pair in zip(known, new, strict=True))
        self._kept = {**self._kept, letter: (embeddings, as_held)}

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        arrays: dict[str, Any] = {}
        for letter, (embeddings, as_held) in self._kept.items():
            arrays |= {f"{letter} embeddings": embeddings, f"{letter} as_held": as_held}
        content = io.BytesIO()
        np.savez(content, **arrays)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, content.getvalue())
        except OSError as error:
            raise UserError(f"{self._file} cannot be written ({error.strerror})") from error

    def forget(self) -> None:
        """Delete all examples, and the file."""
        self._kept = {}
        self._file.unlink(missing_ok=True)

    def adjusted(self, read: Read) -> Read:
        """The same with the logits moved by the examples. A hand that is like one of them shows a letter."""
        logits, letter_probability = read.logits.copy(), read.letter
        for letter, (embeddings, as_held) in self._kept.items():
            near = [
                _cosine(embedding, embeddings[as_held == held].mean(0))
                for embedding, held in zip(read.embeddings, read.as_held, strict=True)
                if (as_held == held).any()
            ]
            if near:
                likeness = float(np.mean(near)) - _NEUTRAL
                logits[CLASS_INDEX[letter]] += np.float32(_STRENGTH * likeness)
                letter_probability = max(letter_probability, min(likeness / (1 - _NEUTRAL), 1.0))
        return replace(read, logits=logits, letter=letter_probability)


def _load(file: Path) -> dict[str, Kept]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            letters = {name.partition(" ")[0] for name in stored.files}
            return {letter: (stored[f"{letter} embeddings"], stored[f"{letter} as_held"]) for letter in letters}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged: delete it, and teach the letters again") from error


class Teacher:
    """Lessons: what the hand shows for a second is kept as a letter. Meanwhile nothing is spelled."""

    def __init__(self, examples: Examples, translator: Translator) -> None:
        self._examples, self._translator = examples, translator
        self._letter: str | None = None
        self._begun_s: float | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many frames are kept of each letter."""
        return self._examples.counts

    def begin(self, letter: str) -> None:
        """The hand of the next second is this letter."""
        self._letter, self._begun_s = letter, None
        self._translator.spells = False

    def see(self, seen: Translation) -> tuple[str, float] | None:
        """The letter of a lesson that goes on or ends with this frame, and how much of it is done, 0 to 1."""
        letter = self._letter
        if letter is None:
            return None
        if seen.read is None:
            return letter, 0.0 if self._begun_s is None else self._done(seen)
        if self._begun_s is None:
            self._begun_s = seen.time_s
        self._examples.add(letter, seen.read)
        done = self._done(seen)
        if done >= 1:
            self._letter, self._translator.spells = None, True
            self._examples.save()
        return letter, done

    def forget(self) -> None:
        """Delete all examples."""
        self._letter, self._translator.spells = None, True
        self._examples.forget()

    def _done(self, seen: Translation) -> float:
        return min((seen.time_s - (self._begun_s or 0.0)) / _LESSON_S, 1.0)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-9))
