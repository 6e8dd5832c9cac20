"""Frames of one person → text: the tracker, the speller, and the text with its edits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from horovod_asl.hands.record import Pixels
from horovod_asl.live.reader import HandNetwork, Read
from horovod_asl.live.speller import Held, Letter, Speller
from horovod_asl.live.tracker import Sighting, Tracker

_TOP = 3
_UNSURE = 0.5
"""A frame whose likeliest class has less than this probability is called unsure."""


@dataclass(frozen=True, eq=False)
class Translation:
    """What one frame shows, and the text with it.

    Attributes:
        time_s: of the frame.
        joints: float32 (21, 2), fractions of the frame's width and height; None without a hand.
        handedness: of the person's own hand, `left` or `right`, in a frame that is not mirrored; None without a hand.
        problem: `no_hand`, `cut_off`, `too_dark`, `two_hands`, `no_letter`, `unsure`, or None.
        top: the three likeliest classes with their probabilities, likeliest first; empty without a hand.
        held: the letter that is being held.
        taken: the letters that this frame completed.
        text: all text so far. The word that is being spelled may still change.
        read: what the network says of the hand, without the person's own examples; None without a hand.
        world: float32 (21, 3), the joints in metres about the hand's centre, as MediaPipe gives them; None without a
            hand. The page compares a learner's fingers with them.
    """

    time_s: float
    joints: NDArray[np.float32] | None
    handedness: str | None
    problem: str | None
    top: list[tuple[str, float]]
    held: Held | None
    taken: list[Letter]
    text: str
    world: NDArray[np.float32] | None = None
    read: Read | None = None


class Adjusts(Protocol):
    """Examples of a person, see `calibration.Examples`."""

    def adjusted(self, read: Read, /) -> Read:
        """The same with the logits moved by the examples."""


class Translator:
    """The text that one person signs. It belongs to one thread; the network may be shared.

    Attributes:
        spells: whether letters are read; False while the person teaches a letter.
        practises: whether letters are read but not written, see `practise`.
    """

    def __init__(self, network: HandNetwork, examples: Adjusts | None = None) -> None:
        self._network, self._examples = network, examples
        self._tracker, self._speller = Tracker(network), Speller()
        self._text = ""  # what changes no more
        self._settled: list[Letter] = []
        self.spells = True
        self.practises = False

    @property
    def text(self) -> str:
        """All text so far."""
        return _written(self._text, [] if self.practises else self._speller.current)

    @property
    def letters(self) -> list[Letter]:
        """All letters so far, edits apart."""
        return [*self._settled, *self._speller.current]

    def see(self, frame: Pixels, time_s: float) -> Translation:
        """Read an RGB frame uint8 (H, W, 3). The time must grow; frames may be left out."""
        sighting = self._tracker.see(frame, time_s)
        read = sighting.read
        if read is not None and self._examples is not None:
            sighting = replace(sighting, read=self._examples.adjusted(read))
        known = len(self.letters)
        if self.spells:
            self._settle(self._speller.feed(sighting))
        top = self._top(sighting)
        points = sighting.points
        return Translation(
            time_s,
            None if points is None else (points / [sighting.aspect, 1]).astype(np.float32),
            None if points is None else ("right" if sighting.right else "left"),
            sighting.problem or _doubt(top),
            top,
            self._speller.held if self.spells else None,
            self.letters[known:],
            self.text,
            sighting.world,
            read,
        )

    def finish(self) -> list[Letter]:
        """The letters that are left when the film ends."""
        known = len(self.letters)
        self._settle(self._speller.finish())
        return self.letters[known:]

    def close(self) -> None:
        """Let the models of the tracker go."""
        self._tracker.close()

    def undo(self) -> None:
        """Take the last character back."""
        self._settle(self._speller.settle())
        self._text = self._text[:-1]

    def space(self) -> None:
        """End the word."""
        self._settle(self._speller.settle())
        self._text = _spaced(self._text)

    def clear(self) -> None:
        """Begin anew."""
        self._settle(self._speller.settle())
        self._text = ""

    def replace_word(self, word: str) -> None:
        """Put `word` in place of the one that is being spelled, and end it."""
        self._settle(self._speller.settle())
        self._text = self._text[: self._text.rfind(" ") + 1] + word + " "

    def practise(self, on: bool) -> None:
        """From now on letters are read but not written, or they are written again."""
        self._settle(self._speller.settle())
        self.practises = on

    def _settle(self, letters: list[Letter]) -> None:
        if not self.practises:
            self._text = _written(self._text, letters)
        self._settled += letters

    def _top(self, sighting: Sighting) -> list[tuple[str, float]]:
        if sighting.read is None:
            return []
        shares = sighting.read.probabilities
        return [(self._network.classes[k], float(shares[k])) for k in np.argsort(-shares)[:_TOP]]


def _doubt(top: list[tuple[str, float]]) -> str | None:
    """Why a hand that is in sight is not read."""
    if top and top[0][0] == "nothing":
        return "no_letter"
    return "unsure" if top and top[0][1] < _UNSURE else None


def _written(text: str, letters: list[Letter]) -> str:
    """The text with these letters added; `del` takes one back."""
    for letter in letters:
        if letter.label == "space":
            text = _spaced(text)
        elif letter.label == "del":
            text = text[:-1]
        else:
            text += letter.label
    return text


def _spaced(text: str) -> str:
    return text if not text or text.endswith(" ") else text + " "
