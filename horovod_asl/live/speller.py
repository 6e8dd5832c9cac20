"""What the frames of a film show → letters, as they are signed.

The evidence of a frame is the network's probabilities, mixed with an even chance so that no single frame decides, and
weighed by the time that it stands for, so that the frame rate does not matter. Between letters lies what moves, what
the network calls `nothing`, and the time without a hand. `decoder.Search` finds the likeliest letters. A letter
counts as soon as its hold is long enough for the signer's pace, or the next one has begun.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from horovod_asl.labels import CLASS_INDEX
from horovod_asl.live.decoder import Frame, Search, Segment
from horovod_asl.live.language import START, SYMBOLS, shipped_letter_model
from horovod_asl.live.motion import Motion, Place
from horovod_asl.live.strokes import STILL, TIPS, Stroke, Strokes
from horovod_asl.live.tracker import Sighting

_COLUMNS = np.array([CLASS_INDEX[name] for name in SYMBOLS])
_NOTHING = CLASS_INDEX["nothing"]
_STROKE_SURE = 0.9
_MOST_FRAMES = 240


@dataclass(frozen=True)
class Settings:
    """The prices of the search, in nats, found on films of people and of drawn hands (docs/live.md)."""

    doubt: float = 0.1
    """How much of an even chance is mixed into a frame's probabilities."""
    between_still: float = 0.05
    """The evidence that a still hand is between letters; less than any letter that is seen well."""
    between_moving: float = 0.8
    """The same of a hand in full motion."""
    moving: float = 12.0
    """The speed, in palm lengths a second, at which a hand moves rather than holds."""
    frame_s: float = 0.07
    """The time that a frame's evidence is of; a longer or shorter one weighs by its length."""
    entry: float = 1.0
    """The price of a letter."""
    sure: float = 0.5
    """A letter is read with this probability on the mean, or left out."""
    language: float = 0.6
    """The weight of the language model."""
    again: float = 4.0
    """The price of the same letter once more, without a slide or a release."""
    repeat: float = 8.0
    """How much a slide or a release takes off that price."""
    drawn: float = 1.2
    """J and Z are read only where the finger that draws them has just gone this far, in palm lengths."""
    twice: float = 0.7
    """A letter is signed twice only if it is seen for this many times the signer's pace."""
    slowest_hold_s: float = 0.35
    """How long the first letters are held before they are taken."""
    quickest_hold_s: float = 0.12
    gap_s: float = 0.8
    """A hand that is away for longer ends a word."""
    settled_s: float = 5.0
    """A letter that ended longer ago changes no more."""


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

    The letters of the word that is being spelled may still change, as what follows tells more about them; a space, a
    gap, or `Settings.settled_s` settles them.

    Args:
        language: see `language.letter_model`; None: the one that ships.
    """

    def __init__(self, language: NDArray[np.float64] | None = None, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        language = shipped_letter_model() if language is None else language
        self._search = Search(
            self._settings.language * language, np.full(len(SYMBOLS), self._settings.entry)
        )
        self._motion, self._strokes = Motion(), Strokes()
        self._frames: list[_Seen] = []  # since the last letter that is settled
        self._context = START, START
        self._begun_s: float | None = None  # when the last letter began
        self._pace_s = 0.7
        self._path_end: tuple[int, float] | None = None  # the last letter of the likeliest path, and when it began
        self._hand_s: float | None = None  # when a hand was last seen
        self.current: list[Letter] = []
        self.held: Held | None = None

    def feed(self, sighting: Sighting) -> list[Letter]:
        """The letters that this frame settles, in order; then `current` and `held` are those of this frame."""
        step_s = sighting.time_s - self._frames[-1].time_s if self._frames else self._settings.frame_s
        place = self._motion.feed(sighting)
        seen = _Seen(sighting.time_s, _probabilities(sighting), 0.0, step_s)
        self._extend(seen if place is None else self._in_motion(seen, place))
        stroke = self._strokes.feed(sighting, place)
        if stroke is not None:
            self._redo(stroke)
        self._read()
        if sighting.read is not None:
            self._hand_s = sighting.time_s
        return self._settled(sighting.time_s)

    def finish(self) -> list[Letter]:
        """The letters that are left when the film ends."""
        self._read(ended=True)
        return self.settle()

    def settle(self) -> list[Letter]:
        """The letters of the word so far, which change no more; what is held goes on being held."""
        letters, self.current = self.current, []
        segments = self._segments()[: len(letters)]
        if segments:
            self._go_on_after(segments)
        return letters

    def _in_motion(self, seen: _Seen, place: Place) -> _Seen:
        settings, motion = self._settings, self._motion
        symbol, begun_s = self._path_end or (-1, seen.time_s)
        same = symbol >= 0 and int(seen.row.argmax()) == _COLUMNS[symbol]
        long_enough = same and seen.time_s - begun_s > settings.twice * self._pace_s
        moved = tuple(letter for letter, tip in TIPS.items() if motion.travel(tip) >= settings.drawn)
        return replace(seen, speed=place.speed, repeats=long_enough and motion.repeats(begun_s), moved=moved)

    def _extend(self, seen: _Seen) -> None:
        self._frames.append(seen)
        self._search.extend(self._evidence(seen))

    def _redo(self, stroke: Stroke) -> None:
        """Read the last frames as a movement."""
        first = max(0, len(self._frames) - stroke.frames)
        redone = [replace(seen, stroke=stroke.letter) for seen in self._frames[first:]]
        del self._frames[first:]
        self._search.rewind(first)
        for seen in redone:
            self._extend(seen)

    def _evidence(self, seen: _Seen) -> Frame:
        settings = self._settings
        weight = min(seen.step_s, 2 * settings.frame_s) / settings.frame_s
        row = seen.letters
        mixed = (1 - settings.doubt) * row + settings.doubt / len(row)
        still = 1 - sum(row[CLASS_INDEX[letter]] for letter in STILL)  # J and Z are letters in motion
        moving = still * min(seen.speed / settings.moving, 1.0)
        between = settings.between_still + moving * (settings.between_moving - settings.between_still)
        between = max(between, float(mixed[_NOTHING]))
        again = settings.again - settings.repeat * seen.repeats
        return Frame(weight * np.log(mixed[_COLUMNS]), weight * float(np.log(between)), again)

    def _segments(self) -> list[Segment]:
        segments, _ = self._search.segments()
        return [segment for segment in segments if self._is_letter(segment)]

    def _is_letter(self, segment: Segment) -> bool:
        """Whether it begins in these frames, and was read well enough."""
        return segment.first >= 0 and self._confidence(segment) >= self._settings.sure

    def _read(self, *, ended: bool = False) -> None:
        """The word as the likeliest path has it now; its last letter counts once it was held for long enough."""
        segments, within = self._search.segments()
        self.held = self._held_now(segments[-1]) if within and not ended else None
        new = [segment for segment in segments if self._is_letter(segment)]
        self._path_end = (new[-1].symbol, self._frames[new[-1].first].time_s) if new else None
        if new and new[-1] is segments[-1] and self.held is not None and self.held.progress < 1:
            new.pop()
        before = len(self.current)
        self.current = [self._letter(segment) for segment in new]
        for letter in self.current[before:]:
            self._keep_pace(letter)

    def _held_now(self, segment: Segment) -> Held:
        settings = self._settings
        hold_s = float(np.clip(0.35 * self._pace_s, settings.quickest_hold_s, settings.slowest_hold_s))
        held_s = self._frames[-1].time_s - self._frames[max(segment.first, 0)].time_s
        progress = 1.0 if segment.first < 0 else min(held_s / hold_s, 1.0)
        return Held(SYMBOLS[segment.symbol], self._confidence(segment), progress)

    def _settled(self, now_s: float) -> list[Letter]:
        if self._hand_s is not None and now_s - self._hand_s >= self._settings.gap_s:
            return self._end_word(now_s)
        if self.current and self.current[-1].label == "space":
            return self.settle()
        if not self.current and len(self._frames) > _MOST_FRAMES:
            self._forget()
        late = [letter for letter in self.current if letter.end_s < now_s - self._settings.settled_s]
        if not late or len(self._frames) % 16:
            return []
        self._go_on_after(self._segments()[: len(late)])
        self.current = self.current[len(late) :]
        return late

    def _forget(self) -> None:
        """Nothing was spelled for long: only the last frames may still begin a letter."""
        last = self._frames[-_MOST_FRAMES // 8 :]
        self._frames = []
        self._search.restart(self._context, within=self._context[1] != START)
        for seen in last:
            self._extend(seen)

    def _end_word(self, now_s: float) -> list[Letter]:
        letters = self.current
        self._frames, self.current, self._hand_s = [], [], None
        self._search.restart((START, START), within=False)
        ended = bool(letters) or self._context != (START, START)
        last = letters[-1].label if letters else ""
        self._context = START, START
        return [*letters, Letter("space", now_s, now_s, 1.0)] if ended and last != "space" else letters

    def _go_on_after(self, settled: list[Segment]) -> None:
        """Search on from the end of the last letter that is settled."""
        for segment in settled:
            self._context = self._context[1], segment.symbol
        later = self._frames[settled[-1].last + 1 :]
        self._frames = []
        self._search.restart(self._context, within=True)
        for seen in later:
            self._extend(seen)

    def _keep_pace(self, letter: Letter) -> None:
        if self._begun_s is not None:
            self._pace_s += 0.3 * (min(letter.start_s - self._begun_s, 2.0) - self._pace_s)
        self._begun_s = letter.start_s

    def _letter(self, segment: Segment) -> Letter:
        times = self._frames[segment.first].time_s, self._frames[segment.last].time_s
        return Letter(SYMBOLS[segment.symbol], *times, self._confidence(segment))

    def _confidence(self, segment: Segment) -> float:
        frames = self._frames[max(segment.first, 0) : segment.last + 1]
        column = _COLUMNS[segment.symbol]
        return float(np.mean([seen.letters[column] for seen in frames])) if frames else 1.0


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame: its time, the network's probabilities float64 (29,), the hand's speed, the time since the last one.

    `repeats`: the hand has just slid or let go. `moved`: the letters whose finger has just gone far enough to draw
    them. `stroke`: the letter of whose movement it is a part, or "".
    """

    time_s: float
    row: NDArray[np.float64]
    speed: float
    step_s: float
    repeats: bool = False
    moved: tuple[str, ...] = ()
    stroke: str = ""

    @cached_property
    def letters(self) -> NDArray[np.float64]:
        """The probabilities in the light of the movement: J or Z in one, without one I or D.

        The network, which sees one frame, cannot tell.
        """
        row = self.row.copy()
        if self.stroke:
            row[:] = (1 - _STROKE_SURE) / (len(row) - 1)
            row[CLASS_INDEX[self.stroke]] = _STROKE_SURE
            return row
        for moved, still in STILL.items():
            if moved not in self.moved:
                row[CLASS_INDEX[still]] += row[CLASS_INDEX[moved]]
                row[CLASS_INDEX[moved]] = 0.0
        return row


def _probabilities(sighting: Sighting) -> NDArray[np.float64]:
    """float64 (29,); without a hand all of it on `nothing`."""
    if sighting.read is None:
        return np.asarray(np.eye(len(CLASS_INDEX))[_NOTHING])
    return sighting.read.probabilities
