"""What the frames of a film show → letters, as they are signed.

The evidence of a frame is the network's probabilities, mixed with an even chance so that no single frame decides, and
weighed by the time that it stands for, so that the frame rate does not matter. Between letters lies what moves, what
the network calls `nothing`, and the time without a hand. `decoder.Search` finds the likeliest letters. A letter is
taken as soon as its hold is long enough for the signer's pace, or the next one has begun.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from horovod_asl.labels import CLASS_INDEX
from horovod_asl.live.decoder import Frame, Search, Segment
from horovod_asl.live.language import START, SYMBOLS, shipped_letter_model
from horovod_asl.live.motion import Motion
from horovod_asl.live.tracker import Sighting

_COLUMNS = np.array([CLASS_INDEX[name] for name in SYMBOLS])
_NOTHING = CLASS_INDEX["nothing"]


@dataclass(frozen=True)
class Settings:
    """The prices of the search, in nats, found on films of people and of drawn hands (docs/live.md)."""

    doubt: float = 0.1
    """How much of an even chance is mixed into a frame's probabilities."""
    between_still: float = 0.2
    """The evidence that a still hand is between letters; less than any letter that is seen well."""
    between_moving: float = 0.8
    """The same of a hand in full motion."""
    moving: float = 12.0
    """The speed, in palm lengths a second, at which a hand moves rather than holds."""
    frame_s: float = 0.07
    """The time that a frame's evidence is of; a longer or shorter one weighs by its length."""
    entry: float = 2.0
    """The price of a letter."""
    language: float = 0.7
    """The weight of the language model."""
    again: float = 4.0
    """The price of the same letter once more, without a slide or a release."""
    slowest_hold_s: float = 0.35
    """How long the first letters are held before they are taken."""
    quickest_hold_s: float = 0.12
    gap_s: float = 0.8
    """A hand that is away for longer ends a word."""


@dataclass(frozen=True)
class Letter:
    """A letter that was signed: `A` to `Z`, `space` or `del`; its time in seconds; the mean probability meanwhile."""

    label: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Held:
    """The letter that is being held, its probability, and how much of the hold that takes it is done, 0 to 1."""

    label: str
    confidence: float
    progress: float


class Speller:
    """The letters of one film.

    Args:
        language: see `language.letter_model`; None: the one that ships.
    """

    def __init__(self, language: NDArray[np.float64] | None = None, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        language = shipped_letter_model() if language is None else language
        self._search = Search(
            self._settings.language * language, np.full(len(SYMBOLS), self._settings.entry)
        )
        self._motion = Motion()
        self._frames: list[_Seen] = []  # since the last letter that was taken
        self._context = START, START
        self._last: Letter | None = None
        self._pace_s = 2.0
        self._now_s = self._hand_s = -1e9
        self.held: Held | None = None

    def feed(self, sighting: Sighting) -> list[Letter]:
        """The letters that are complete with this frame, in order."""
        step_s = sighting.time_s - self._now_s
        self._now_s = sighting.time_s
        seen = _Seen(sighting.time_s, _probabilities(sighting), self._motion.speed(sighting), step_s)
        self._frames.append(seen)
        self._search.extend(self._evidence(seen))
        letters = self._take()
        if sighting.logits is not None:
            self._hand_s = sighting.time_s
        elif self._last is not None and sighting.time_s - self._hand_s >= self._settings.gap_s:
            letters += self._end_word()
        return letters

    def finish(self) -> list[Letter]:
        """The letters that are left when the film ends."""
        return self._take(ended=True)

    def _evidence(self, seen: _Seen) -> Frame:
        settings = self._settings
        weight = min(seen.step_s, 2 * settings.frame_s) / settings.frame_s
        mixed = (1 - settings.doubt) * seen.row + settings.doubt / len(seen.row)
        moving = min(seen.speed / settings.moving, 1.0)
        still = settings.between_still + moving * (settings.between_moving - settings.between_still)
        between = max(still, float(mixed[_NOTHING]))
        return Frame(weight * np.log(mixed[_COLUMNS]), weight * float(np.log(between)), settings.again)

    def _take(self, *, ended: bool = False) -> list[Letter]:
        """The letters of the likeliest path that are over, and the one that was held for long enough."""
        segments, _, within = self._search.segments() if len(self._search) else ([], None, False)
        new = [segment for segment in segments if segment.first >= 0]
        self.held = self._held_now(segments[-1]) if within and not ended else None
        if not ended and within and new and (self.held is None or self.held.progress < 1):
            new.pop()
        letters = [self._letter(segment) for segment in new]
        if new:
            self._restart_after(new)
        for letter in letters:
            self._keep_pace(letter)
        return letters

    def _held_now(self, segment: Segment) -> Held:
        hold_s = float(
            np.clip(0.35 * self._pace_s, self._settings.quickest_hold_s, self._settings.slowest_hold_s)
        )
        taken = segment.first < 0
        progress = 1.0 if taken else (self._now_s - self._frames[segment.first].time_s) / hold_s
        return Held(SYMBOLS[segment.symbol], self._confidence(segment), min(progress, 1.0))

    def _restart_after(self, taken: list[Segment]) -> None:
        """Search on from the end of the last letter that was taken."""
        for segment in taken:
            self._context = self._context[1], segment.symbol
        self._frames = self._frames[taken[-1].last + 1 :]
        self._search.restart(self._context, within=True)
        for seen in self._frames:
            self._search.extend(self._evidence(seen))

    def _end_word(self) -> list[Letter]:
        ended, self._context = self._last, (START, START)
        self._frames = []
        self._search.restart(self._context, within=False)
        self._last = None
        if ended is None or ended.label == "space":
            return []
        return [Letter("space", ended.end_s, self._now_s, 1.0)]

    def _keep_pace(self, letter: Letter) -> None:
        if self._last is not None:
            since_s = min(letter.start_s - self._last.start_s, 2.0)
            self._pace_s += 0.3 * (since_s - self._pace_s)
        self._last = letter

    def _letter(self, segment: Segment) -> Letter:
        times = self._frames[segment.first].time_s, self._frames[segment.last].time_s
        return Letter(SYMBOLS[segment.symbol], *times, self._confidence(segment))

    def _confidence(self, segment: Segment) -> float:
        frames = self._frames[max(segment.first, 0) : segment.last + 1]
        column = _COLUMNS[segment.symbol]
        return float(np.mean([seen.row[column] for seen in frames])) if frames else 1.0


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame: its time, the network's probabilities float64 (29,), the hand's speed, the time since the last one."""

    time_s: float
    row: NDArray[np.float64]
    speed: float
    step_s: float


def _probabilities(sighting: Sighting) -> NDArray[np.float64]:
    """float64 (29,); without a hand all of it on `nothing`."""
    if sighting.logits is None:
        return np.asarray(np.eye(len(CLASS_INDEX))[_NOTHING])
    powers = np.exp(sighting.logits.astype(np.float64) - sighting.logits.max())
    row: NDArray[np.float64] = powers / powers.sum()
    return row
