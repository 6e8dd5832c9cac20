"""One page's translator: frames and orders in, answers out. All of it happens in one thread.

What is read of a frame, and how letters become a text, is `live`'s; here it becomes the messages of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from horovod_asl.live.translator import Translation
from horovod_asl.photos.decode import PhotoError, Pixels, decode_upright
from horovod_asl.web.limits import Limits
from horovod_asl.web.messages import (
    TEXT_FULL,
    BadMessageError,
    Calibrate,
    Edit,
    Forget,
    Frame,
    Order,
    Practise,
    ReplaceWord,
)

Answer = dict[str, Any]

_JPEG, _SCAN = b"\xff\xd8\xff", b"\xff\xda"
_MOST_SCANS = 20
"""Of one JPEG. A page's frame has one, a progressive photo ten; each may cost a pass over all pixels."""


class TextTranslator(Protocol):
    """What a page needs of `live.translator.Translator`; the tests have a simpler one."""

    @property
    def text(self) -> str:
        """All text so far."""

    def see(self, frame: Pixels, time_s: float, /) -> Translation:
        """Read the next frame, uint8 (height, width, 3) RGB."""

    def undo(self) -> None:
        """Take the last letter back."""

    def space(self) -> None:
        """End the word."""

    def clear(self) -> None:
        """Begin a new text."""

    def replace_word(self, word: str) -> None:
        """Put `word` in the place of the last one."""

    def practise(self, on: bool, /) -> None:
        """Read letters without writing them, or write again."""

    def close(self) -> None:
        """Let go of what it holds."""


class Teacher(Protocol):
    """Examples of one person's letters: who keeps them, and how they are used, is `live`'s."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many examples of each letter are kept."""

    def begin(self, letter: str) -> None:
        """The hand of the next second is this letter."""

    def see(self, seen: Translation, /) -> tuple[str, float] | None:
        """The letter of a lesson that goes on or ends with this frame, and how much of it is done, 0 to 1."""

    def forget(self) -> None:
        """Delete all examples."""


class PageReader:
    """Answers the frames and orders of one page."""

    def __init__(
        self,
        translator: TextTranslator,
        suggest: Callable[[str], Sequence[str]],
        limits: Limits,
        teacher: Teacher | None = None,
    ) -> None:
        self._translator, self._suggest, self._limits, self._teacher = translator, suggest, limits, teacher
        self._last_ms = -1.0
        self._suggested: tuple[str, list[str]] = ("", [])

    def read(self, frame: Frame) -> list[Answer]:
        """The `reading` of a frame, to which the session adds which frame it was; before it, how a lesson goes.

        Raises:
            BadMessageError: it is no JPEG, is larger than allowed, or is not newer than the one before; or the text
                is full.
        """
        if frame.sent_ms <= self._last_ms:
            raise BadMessageError("bad_frame", "this frame is not newer than the one before")
        self._require_room()
        pixels = self._decoded(frame.jpeg)
        self._last_ms = frame.sent_ms
        seen = self._translator.see(pixels, frame.sent_ms / 1000)
        lesson = None if self._teacher is None else self._teacher.see(seen)
        return [
            *([] if lesson is None else [self._lesson(*lesson)]),
            _reading(seen) | {"suggestions": self._suggestions()},
        ]

    def obey(self, order: Order) -> Answer:
        """Carry an order out, and say what came of it.

        Raises:
            BadMessageError: the text is full, or there is nobody to teach.
        """
        match order:
            case Edit(action="undo"):
                self._translator.undo()
            case Edit(action="space"):
                self._require_room()
                self._translator.space()
            case Edit(action="clear"):
                self._translator.clear()
            case ReplaceWord(word=word):
                self._translator.replace_word(word.upper())
            case Practise(on=on):
                self._translator.practise(on)
            case Calibrate(letter=letter):
                self._required_teacher().begin(letter)
                return self._lesson(letter, 0.0)
            case Forget():
                self._required_teacher().forget()
                return self._lesson(None, 0.0)
        return {"type": "text", "text": self._translator.text, "suggestions": self._suggestions()}

    def greet(self) -> list[Answer]:
        """What a page is told first: how many examples of its person's letters are kept."""
        return [] if self._teacher is None else [self._lesson(None, 0.0)]

    def close(self) -> None:
        """The page is gone."""
        self._translator.close()

    def _required_teacher(self) -> Teacher:
        if self._teacher is None:
            raise BadMessageError("no_calibration", "this server cannot learn a hand")
        return self._teacher

    def _lesson(self, letter: str | None, progress: float) -> Answer:
        counts = {} if self._teacher is None else dict(self._teacher.counts)
        return {"type": "calibration", "letter": letter, "progress": round(progress, 3), "counts": counts}

    def _require_room(self) -> None:
        if len(self._translator.text) >= self._limits.text_characters:
            raise BadMessageError(TEXT_FULL, "the text is full: clear it to go on")

    def _decoded(self, jpeg: bytes) -> Pixels:
        if not jpeg.startswith(_JPEG) or jpeg.count(_SCAN) > _MOST_SCANS:
            raise BadMessageError("bad_frame", "a frame must be a plain JPEG")
        try:
            return decode_upright(
                jpeg, self._limits.frame_px, max_megapixels=self._limits.frame_megapixels
            )
        except PhotoError as error:
            raise BadMessageError("bad_frame", f"this frame cannot be read: {error}") from error

    def _suggestions(self) -> list[str]:
        text = self._translator.text
        if text != self._suggested[0]:
            self._suggested = (text, list(self._suggest(text)))
        return self._suggested[1]


def _reading(seen: Translation) -> Answer:
    held = seen.held and {
        "label": seen.held.label,
        "confidence": round(seen.held.confidence, 3),
        "progress": round(seen.held.progress, 3),
    }
    taken = [
        {"label": one.label, "start_s": one.start_s, "end_s": one.end_s, "confidence": one.confidence}
        for one in seen.taken
    ]
    return {
        "type": "reading",
        "joints": _rows(seen.joints),
        "world": _rows(seen.world),
        "handedness": seen.handedness,
        "problem": seen.problem,
        "top": [[label, round(float(share), 4)] for label, share in seen.top],
        "held": held,
        "taken": taken,
        "text": seen.text,
    }


def _rows(points: NDArray[np.float32] | None) -> list[list[float]] | None:
    return None if points is None else [[round(float(value), 4) for value in point] for point in points]
