"""Evidence frame by frame → the likeliest letters: Viterbi's search, with a model of which letter follows which two.

Every frame is either within a letter or between letters. A path through the frames pays for each letter that it
begins, by the language model and a fixed price; it earns each frame's evidence. So a letter must be seen long enough
to pay for itself, which is how transitions, flicker and single mistaken frames fall out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
NEVER = -1e9


@dataclass(frozen=True)
class Segment:
    """A letter of the likeliest path: its symbol, and its first and last frame."""

    symbol: int
    first: int
    last: int


State = tuple[int, int]
"""The last symbol of a path and the one before it; a path that has begun none has the start in place of a symbol."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The evidence of one frame, in nats.

    Attributes:
        within: float64 (symbols,), that it lies within each symbol's hold.
        between: that it lies between letters.
        again: the price of beginning the last symbol once more in this frame.
    """

    within: Scores
    between: float
    again: float


class Search:
    """Viterbi's search over the frames since the last letter that was taken.

    Args:
        language: float64 (symbols + 1, symbols + 1, symbols), the logarithm of how likely a symbol is after two
            others; the last index stands for the start.
        entry: float64 (symbols,), the price of beginning each symbol.
    """

    def __init__(self, language: Scores, entry: Scores) -> None:
        self._language, self._entry = language, entry
        self._symbols = len(entry)
        start = self._symbols
        self.restart((start, start), within=False)

    def restart(self, state: State, *, within: bool) -> None:
        """Forget all frames. The path so far ends in this state, within its last symbol or between letters."""
        self._held = [np.full((self._symbols + 1, self._symbols), NEVER)]
        self._free = [np.full((self._symbols + 1, self._symbols + 1), NEVER)]
        (self._held if within else self._free)[0][state] = 0.0
        self._held_from: list[NDArray[np.int8]] = []
        self._free_from: list[NDArray[np.bool_]] = []

    def __len__(self) -> int:
        return len(self._held_from)

    def rewind(self, frames: int) -> None:
        """Forget all but the first frames."""
        for states in (self._held, self._free):
            del states[frames + 1 :]
        for pointers in (self._held_from, self._free_from):
            del pointers[frames:]

    def extend(self, frame: Frame) -> None:
        """One frame more."""
        held, free = self._held[-1], self._free[-1]
        symbols = np.arange(self._symbols)
        straight = np.full_like(free, NEVER)
        straight[:, :-1] = held
        opened = np.maximum(free, straight)
        begin = opened[:, :, None] + self._language  # (the one before last, the last, the new one)
        begin[:, symbols, symbols] += free[:, :-1] - opened[:, :-1] - frame.again
        best = begin.argmax(0)
        entered = np.take_along_axis(begin, best[None], 0)[0] - self._entry
        stays = held >= entered
        self._held.append(np.where(stays, held, entered) + frame.within)
        self._free.append(opened + frame.between)
        self._held_from.append(np.where(stays, -1, best).astype(np.int8))
        self._free_from.append(straight > free)

    def segments(self) -> tuple[list[Segment], bool]:
        """The letters that the likeliest path begins or ends here, and whether it is within a letter now.

        A letter that was held before the first frame has `first` −1.
        """
        held, free = self._held[-1], self._free[-1]
        within = bool(held.max() >= free.max())
        scores = held if within else free
        before, last = np.unravel_index(int(scores.argmax()), scores.shape)
        state = (int(before), int(last))
        ends_within, found, end = within, list[Segment](), len(self) - 1
        for frame in reversed(range(len(self))):
            left = self._free_from[frame][state]
            if not within:
                if left:  # with this frame it left its letter
                    within, end = True, frame - 1
                continue
            came = int(self._held_from[frame][state])
            if came < 0:
                continue
            found.append(Segment(state[1], frame, end))
            previous = (came, state[0])
            within = state[1] != previous[1] and bool(self._free_from[frame][previous])
            state, end = previous, frame - 1
        if within:
            found.append(Segment(state[1], -1, end))
        return found[::-1], ends_within
