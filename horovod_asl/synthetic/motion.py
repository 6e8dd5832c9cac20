"""A hand in time: its joint angles, view, forearm and place, in rows 120 times a second.

People reach by movements of minimum jerk (Flash & Hogan, J. Neurosci. 5, 1985): slow, fast, slow. The digits do not
start together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from horovod_asl.synthetic.pose import (
    DIGITS,
    Pose,
    Proportions,
    Skeleton,
    pose_skeleton,
    rotation_matrix,
)

Array = NDArray[np.float64]
Place = tuple[float, float]
"""In heights of the frame, from its upper left corner: x, y."""

STEP_S = 1 / 120
_LENGTHS = (5, 4, 4, 4, 4, 3, 3, 2)  # thumb, four fingers, view, forearm, place
_ENDS = np.cumsum(_LENGTHS)
_PALM = [0, 5, 9, 13, 17]
_NEAREST = 4.5  # as `flesh` has it: the camera's distance in hand lengths
_LATEST = 0.2  # of a movement: so much later does a digit start, or earlier does it arrive
_KNOT_S = 0.3
_SWAY = np.repeat((1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 0.0, 0.004), _LENGTHS)  # degrees; the place in frame heights


@dataclass(frozen=True)
class Posture:
    """A hand at one time: how it is held, and where the middle of its palm is in the frame."""

    pose: Pose
    place: Place

    def row(self) -> Array:
        """The same as (29,) float64."""
        pose = self.pose
        digits = [getattr(pose, name) for name in DIGITS]
        return np.concatenate([*digits, pose.view, pose.forearm, self.place]).astype(np.float64)

    @classmethod
    def of_row(cls, row: Array) -> Posture:
        """What `row` was made of."""
        *parts, place = (tuple(map(float, part)) for part in np.split(row, _ENDS[:-1]))
        return cls(Pose(*parts), (place[0], place[1]))


def minimum_jerk(share: Array) -> Array:
    """How far a movement has come, 0–1, after a share of its time; outside of 0–1 it rests."""
    t = np.clip(share, 0.0, 1.0)
    return np.asarray(t**3 * (10 - 15 * t + 6 * t * t))


@dataclass(frozen=True)
class Span:
    """A letter, and from when to when it is held (J and Z: drawn), in seconds."""

    label: str
    start_s: float
    end_s: float


class Track:
    """The rows of a film, added piece by piece.

    Args:
        start: where the hand is at first.
        rng: draws which digit is late in a movement.
    """

    def __init__(self, start: Posture, rng: np.random.Generator) -> None:
        self._rng = rng
        self._rows = [start.row()[None]]
        self._count = 1
        self.end_s = 0.0
        self.spans: list[Span] = []

    @property
    def last(self) -> Array:
        """The row that was added last."""
        return np.asarray(self._rows[-1][-1])

    def hold(self, seconds: float, label: str | None = None) -> None:
        """Stay."""
        self._add(np.repeat(self.last[None], self._steps(seconds), axis=0), seconds, label)

    def move(self, to: Posture, seconds: float) -> None:
        """Go to another posture."""
        start, goal = self.last, to.row()
        late, early = self._rng.uniform(0.0, _LATEST, (2, len(_LENGTHS))).repeat(_LENGTHS, axis=1)
        share = np.linspace(0.0, 1.0, self._steps(seconds) + 1)[1:, None]
        done = minimum_jerk((share - late) / (1 - late - early))
        self._add(start + done * (goal - start), seconds, None)

    def follow(self, postures: list[Posture], seconds: float, label: str | None = None) -> None:
        """Pass these at equal intervals, the last of them at the end."""
        rows = np.array([posture.row() for posture in postures])
        at = np.linspace(0.0, len(rows) - 1.0, self._steps(seconds) + 1)[1:]
        numbers = np.arange(len(rows))
        self._add(np.stack([np.interp(at, numbers, column) for column in rows.T], axis=1), seconds, label)

    def _steps(self, seconds: float) -> int:
        """How many rows there are until so many seconds from the end: what is rounded off does not add up."""
        return max(round((self.end_s + seconds) / STEP_S) + 1 - self._count, 0)

    def _add(self, rows: Array, seconds: float, label: str | None) -> None:
        if len(rows):
            self._rows.append(rows)
        self._count += len(rows)
        if label is not None:
            self.spans.append(Span(label, self.end_s, self.end_s + seconds))
        self.end_s += seconds

    def rows(self) -> Array:
        """All rows, (n, 29), the first at time 0, with the sway and tremor of a living hand."""
        rows = np.concatenate(self._rows)
        return rows + _SWAY * _slow_noise(len(rows), rows.shape[1], self._rng)

    def label_at(self, time_s: float) -> str | None:
        """The letter that is held at this time."""
        for span in self.spans:
            if span.start_s <= time_s < span.end_s:
                return span.label
        return None


def _slow_noise(count: int, columns: int, rng: np.random.Generator) -> Array:
    """Noise of unit variance, about, that changes within `_KNOT_S`: (count, columns)."""
    every = round(_KNOT_S / STEP_S)
    knots = rng.standard_normal((count // every + 4, columns))
    share = (np.arange(count) % every / every)[:, None]
    at = np.arange(count) // every
    before, here, after = (knots[at + number] for number in range(3))
    # A quadratic spline through the knots' middles: no kink anywhere.
    return np.asarray(0.5 * ((1 - share) ** 2 * before + share**2 * after) + (0.5 + share - share**2) * here)


def at_time(rows: Array, time_s: float) -> Array:
    """The row of a time: (29,); before the first and after the last the hand rests."""
    at = min(max(time_s / STEP_S, 0.0), len(rows) - 1.0)
    low = min(int(at), len(rows) - 2)
    return np.asarray(rows[low] + (at - low) * (rows[low + 1] - rows[low]))


@dataclass(frozen=True)
class HandInFrame:
    """A hand as the camera sees it: `skeleton` in the camera's frame, `forearm` (3,), `wrist` (2,) a place."""

    skeleton: Skeleton
    forearm: Array
    wrist: Array

    def joints(self, hand_length: float) -> Array:
        """Where the joints are in the frame, (21, 2), of a hand of this length in frame heights."""
        flat = self.skeleton.joints[:, :2] * [1, -1] / (1 - self.skeleton.joints[:, 2:] / _NEAREST)
        return np.asarray(self.wrist + hand_length * flat)


def in_frame(posture: Posture, proportions: Proportions, hand_length: float) -> HandInFrame:
    """Forward kinematics: the hand of one row."""
    pose = posture.pose
    skeleton = pose_skeleton(pose, proportions).turned(rotation_matrix(*pose.view))
    middle = skeleton.joints[_PALM, :2].mean(0) * [1, -1]
    return HandInFrame(skeleton, np.array(pose.forearm), np.array(posture.place) - hand_length * middle)
