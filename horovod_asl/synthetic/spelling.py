"""A text → the movements of the hand that spells it: holds, transitions, J and Z, double letters, rests.

Everything is of a right-handed signer, as the viewer sees it; films of left-handed ones are mirrored. J and Z are
written as the signer sees them, so the viewer sees their mirror images, and a double letter slides to the signer's
right, which is the viewer's left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.synthetic.motion import Place, Posture, Track, in_frame, minimum_jerk
from horovod_asl.synthetic.pose import Pose, Proportions
from horovod_asl.synthetic.signers import MOVING, held

Array = NDArray[np.float64]
Spaces = Literal["sign", "gap"]

DELETE = "<"
"""In a text: the sign `del`."""
RELAXED = Pose(
    (42, 20, 30, 12, 12), (4, 22, 30, 16), (0, 26, 34, 18), (-4, 30, 36, 18), (-8, 32, 36, 18), (25, 20, 5)
)
"""A hand that does nothing."""
BELOW = 1.35
"""A place whose y is this is out of the frame, and so is the hand."""
_AWAY_S = (1.0, 1.5)
_RAISED_S = 0.5
_MOMENTS = 61  # of J and Z
_JITTER = 0.12  # of the letters' lengths


@dataclass(frozen=True)
class Signer:
    """Who signs: `seed`, `recording` and `variety` as for `signers.pose_of`; the hand's length and place."""

    seed: int
    recording: int
    variety: float
    proportions: Proportions
    hand_length: float
    """In frame heights."""
    home: Place
    """Where the palm's middle is."""

    def posture(self, label: str) -> Posture:
        """The sign as it is held."""
        pose = held(label, seed=self.seed, recording=self.recording, variety=self.variety)
        return Posture(pose, self.home)

    def lowered(self, y: float) -> Posture:
        """The hand at rest, its palm at this height; see `BELOW`."""
        return Posture(RELAXED, (self.home[0], y))


@dataclass(frozen=True, eq=False)
class _Movement:
    """A letter that a fingertip writes: `tip` is its joint; `path` (n, 2) in hand lengths, y down.

    Between the points of `path`, and between the `views` (m, 3), lie equal times.
    """

    tip: int
    path: Array
    views: Array
    strokes: int
    """The fingertip stops after each."""
    seconds: tuple[float, float]
    """The quickest and the slowest."""


def _hook() -> Array:
    """Down, then round to the viewer's right, and a little up; its points are equally far from each other."""
    angle = np.radians(np.linspace(180, 0, 25))
    bow = np.stack([0.26 + 0.26 * np.cos(angle), 0.34 + 0.22 * np.sin(angle)], axis=1)
    points = np.concatenate([[[0.0, 0.0]], bow, [[0.52, 0.26]]])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.linspace(0.0, length[-1], 25)
    return np.stack([np.interp(even, length, column) for column in points.T], axis=1)


_MOVEMENTS = {
    "J": _Movement(
        tip=20,
        path=_hook(),
        # The little finger goes down and forward; then the forearm turns until the back of the hand shows.
        views=np.array([[-8, 0, 30], [0, 25, 38], [40, 28, 25], [95, 20, -15], [140, 10, -50]], np.float64),
        strokes=1,
        seconds=(0.35, 0.8),
    ),
    "Z": _Movement(
        tip=8,
        path=np.array([[0.3, 0.0], [-0.3, 0.0], [0.3, 0.45], [-0.3, 0.45]]),
        views=np.array([[5, 10, -40], [5, 20, 15], [10, 40, -50], [10, 40, 20]], np.float64),
        strokes=3,
        seconds=(0.45, 0.9),
    ),
}


def letters_of(text: str) -> list[str]:
    """The labels of a text; UserError for what cannot be signed."""
    names = {" ": "space", DELETE: "del"}
    wrong = sorted({letter for letter in text if letter not in names and not "A" <= letter <= "Z"})
    if wrong or not text.strip():
        fault = f"cannot spell {' '.join(map(repr, wrong))}" if wrong else "there is nothing to spell"
        raise UserError(f"{fault}: the manual alphabet has A to Z, and words are set apart by spaces")
    return [names.get(letter, letter) for letter in text]


def spell(
    text: str, signer: Signer, *, letters_per_second: float, spaces: Spaces, rng: np.random.Generator
) -> Track:
    """The hand comes, spells and goes.

    A letter takes 1 ÷ `letters_per_second` from the end of the one before to its own end, on the average; J and Z
    have their own time. UserError for a text with anything but A to Z, spaces and `DELETE`.
    """
    labels = letters_of(text)
    track = Track(signer.lowered(BELOW), rng)
    track.hold(float(rng.uniform(0.3, 0.8)))
    lengths = 1 / letters_per_second * _jitter(len(labels), rng)
    before: str | None = None
    for label, length_s in zip(labels, lengths, strict=True):
        if label == "space" and spaces == "gap":
            _rest(track, signer, float(rng.uniform(*_AWAY_S)))
            before = None
            continue
        _sign(track, signer, label, before, float(length_s), rng)
        before = label
    _rest(track, signer, 1.0)
    return track


def _jitter(count: int, rng: np.random.Generator) -> Array:
    factors = np.exp(rng.normal(0.0, _JITTER, count))
    return np.asarray(factors / factors.mean())


def _rest(track: Track, signer: Signer, seconds: float) -> None:
    """The hand leaves the frame for so long."""
    track.move(signer.lowered(BELOW), _RAISED_S)
    track.hold(seconds)


def _sign(
    track: Track, signer: Signer, label: str, before: str | None, length_s: float, rng: np.random.Generator
) -> None:
    move_s = float(np.clip(0.45 * length_s, 0.1, 0.4)) if before is not None else _RAISED_S
    hold_s = length_s - move_s if before is not None else 0.55 * length_s
    if label in MOVING:
        postures = _written(label, signer)
        track.move(postures[0], move_s)
        track.follow(postures, float(np.clip(hold_s, *_MOVEMENTS[label].seconds)), label)
        return
    posture = replace(signer.posture(label), place=_near(signer, rng))
    if label == before:
        posture = _again(track, signer, posture, move_s, rng)
    else:
        track.move(posture, move_s)
    track.hold(hold_s, label)


def _near(signer: Signer, rng: np.random.Generator) -> Place:
    x, y = np.array(signer.home) + rng.normal(0.0, 0.03 * signer.hand_length, 2)
    return float(x), float(y)


def _again(
    track: Track, signer: Signer, posture: Posture, move_s: float, rng: np.random.Generator
) -> Posture:
    """The same letter once more: it slides to the side, or the fingers let go for a moment."""
    last = Posture.of_row(track.last)
    if rng.random() < 0.5:
        posture = replace(posture, place=(last.place[0] - rng.uniform(0.25, 0.4) * signer.hand_length, last.place[1]))
        track.move(posture, move_s)
    else:
        opened = 0.55 * last.row() + 0.45 * replace(last, pose=replace(RELAXED, view=last.pose.view)).row()
        track.move(Posture.of_row(opened), 0.5 * move_s)
        track.move(posture, 0.5 * move_s)
    return posture


def _written(label: str, signer: Signer) -> list[Posture]:
    """J or Z at equal intervals: the hand's place is such that the fingertip lies on the path.

    Over the whole movement the palm is at the signer's home on the average.
    """
    movement = _MOVEMENTS[label]
    shares = _shares(np.linspace(0.0, 1.0, _MOMENTS), movement.strokes)
    views = _along(movement.views, shares)
    poses = [
        held(label, seed=signer.seed, recording=signer.recording, variety=signer.variety, view=view)
        for view in views
    ]
    length = signer.hand_length
    hands = [in_frame(Posture(pose, signer.home), signer.proportions, length) for pose in poses]
    tips = np.array([hand.joints(length)[movement.tip] for hand in hands])
    places = length * _along(movement.path, shares) - tips
    places += np.array(signer.home) - places.mean(0)
    return [Posture(pose, (float(x), float(y))) for pose, (x, y) in zip(poses, places, strict=True)]


def _shares(times: Array, strokes: int) -> Array:
    """How much of the path is written at each time, both 0–1: the fingertip stops after each stroke."""
    stroke = np.minimum(np.floor(times * strokes), strokes - 1)
    return np.asarray((stroke + minimum_jerk(times * strokes - stroke)) / strokes)


def _along(points: Array, shares: Array) -> Array:
    """Between points (n, k) at equal intervals: (len(shares), k)."""
    at = np.linspace(0.0, 1.0, len(points))
    return np.stack([np.interp(shares, at, column) for column in points.T], axis=1)
