"""A source → its text: the frames pass a translator one by one, up to the end, the damage, or Ctrl-C."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from horovod_asl.live.speller import Letter
from horovod_asl.live.translator import Translation, Translator
from horovod_asl.photos.film_stream import DamagedFilmError, FilmFrame
from horovod_asl.translation.source import Source, thinned

PROBLEMS = {
    "no_hand": "no hand in sight",
    "cut_off": "the hand is cut off by the edge",
    "too_dark": "too dark",
    "two_hands": "two hands",
    "no_letter": "no letter",
    "unsure": "unsure",
}
"""What `Translation.problem` says, in words."""


@dataclass(frozen=True, eq=False)
class Step:
    """A frame, and what was read of it."""

    frame: FilmFrame
    seen: Translation


class FilmText:
    """Iterate over its steps; then it holds the outcome. Who breaks off may go on later where the other stopped.

    Args:
        source: within its `with`.
        translator: a new one.
        show: gets what each frame shows, as it is read.
        stopped: asked before each frame; True ends the work.

    Attributes:
        seconds: from the first frame to the last that was read.
        frames: that were read.
        fault: why the source ended before its time; None where it did not.
    """

    def __init__(
        self,
        source: Source,
        translator: Translator,
        show: Callable[[Translation], None] = lambda seen: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._translator = source, translator
        self._show, self._stopped = show, stopped
        self.seconds = 0.0
        self.frames = 0
        self.fault: str | None = None
        self._problems: Counter[str] = Counter()
        self._steps = self._read_all()

    @property
    def text(self) -> str:
        """All text so far."""
        return self._translator.text

    @property
    def letters(self) -> list[Letter]:
        """All letters so far, in order; those of the last word may still change."""
        return self._translator.letters

    def __iter__(self) -> FilmText:
        return self

    def __next__(self) -> Step:
        """The next frame that is read; those of a source with more than `MOST_FPS` are thinned out."""
        return next(self._steps)

    def why_nothing(self) -> str:
        """What was wrong with most frames, for a film without a letter; empty if nothing was."""
        if not self._problems:
            return ""
        problem, count = self._problems.most_common(1)[0]
        return f"{PROBLEMS.get(problem, problem)} in {count} of {self.frames} frames"

    def _read_all(self) -> Iterator[Step]:
        try:
            for frame in thinned(iter(self._source)):
                if self._stopped():
                    break
                yield self._read(frame)
        except DamagedFilmError as error:
            self.fault = str(error)
        self._translator.finish()

    def _read(self, frame: FilmFrame) -> Step:
        seen = self._translator.see(frame.pixels, frame.time_s)
        self.seconds = frame.time_s
        self.frames += 1
        if seen.problem is not None:
            self._problems[seen.problem] += 1
        self._show(seen)
        return Step(frame, seen)


@contextmanager
def stopped_by_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C only makes what this gives return True, and a second one interrupts."""
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
