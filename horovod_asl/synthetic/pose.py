"""A parametric right hand: 21 joints in MediaPipe's order, posed by joint angles for each of the 29 classes.

Hand frame: x to the thumb's side, y along the fingers, z out of the palm; the unit is the hand's length from
wrist to middle fingertip. Looking at the palm, x is right, y is up and z points at the viewer, which is also
the camera's frame. Bone lengths are near those of Buchholz, Armstrong & Goldstein, "Anthropometric data for
describing the kinematics of the human hand", Ergonomics 35 (1992). Flexion is positive towards the palm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Angles = tuple[float, ...]

DIGITS = ("thumb", "index", "middle", "ring", "pinky")

_ROOTS = np.array(
    [
        [0.085, 0.10, 0.02],
        [0.122, 0.455, 0.0],
        [0.036, 0.465, -0.012],
        [-0.048, 0.44, -0.008],
        [-0.122, 0.40, 0.008],
    ]
)
# Three bones per digit. The last stops a fingertip's radius short, for the drawn tip is round.
_BONES = np.array(
    [
        [0.235, 0.180, 0.115],
        [0.235, 0.143, 0.075],
        [0.258, 0.168, 0.085],
        [0.240, 0.160, 0.085],
        [0.192, 0.112, 0.072],
    ]
)
# Radii at the four joints of each digit.
_RADII = np.array(
    [
        [0.074, 0.058, 0.050, 0.038],
        [0.053, 0.047, 0.041, 0.034],
        [0.053, 0.048, 0.042, 0.035],
        [0.051, 0.045, 0.040, 0.033],
        [0.046, 0.039, 0.034, 0.029],
    ]
)


@dataclass(frozen=True)
class Proportions:
    """How one person's hand differs from the average one: factors, 1 is average."""

    finger_length: float = 1.0
    palm_width: float = 1.0
    thickness: float = 1.0


AVERAGE = Proportions()


@dataclass(frozen=True)
class Pose:
    """Joint angles and orientation of one sign, all in degrees.

    `thumb` is (spread from the fingers' direction, lift out of the palm, roll of the pad from facing the
    fingers to facing the palm, flexion at MCP, flexion at IP). A finger is (abduction to the thumb's side,
    flexion at MCP, at PIP, at DIP). `view` turns the hand in the camera's frame: yaw about its long axis,
    then pitch, then roll in the picture, anticlockwise. `forearm` is the direction from the wrist to the
    elbow in the camera's frame.
    """

    thumb: Angles
    index: Angles
    middle: Angles
    ring: Angles
    pinky: Angles
    view: Angles = (0.0, 0.0, 0.0)
    forearm: Angles = (0.0, -1.0, -0.12)

    @property
    def fingers(self) -> Array:
        """The four fingers' angles, index to pinky: (4, 4) float64, degrees."""
        return np.array([self.index, self.middle, self.ring, self.pinky])


@dataclass(frozen=True)
class Skeleton:
    """A posed hand: where each joint is and how each bone lies.

    `joints` (21, 3); `radii` (21,), the flesh's half-width there; `frames` (5, 3, 3, 3): per digit and bone
    the unit vectors across, along and out of the pad; `basis` (3, 3): the palm's own three. All float64.
    """

    joints: Array
    radii: Array
    frames: Array
    basis: Array

    def turned(self, rotation: Array) -> Skeleton:
        """The same hand turned about its wrist by a (3, 3) rotation."""
        return replace(
            self,
            joints=self.joints @ rotation.T,
            frames=self.frames @ rotation.T,
            basis=self.basis @ rotation.T,
        )


def rotation_matrix(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Array:
    """The (3, 3) rotation that yaws about y, then pitches about x, then rolls about z."""
    (sy, sp, sr), (cy, cp, cr) = np.sin(a := np.radians([yaw_deg, pitch_deg, roll_deg])), np.cos(a)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(roll @ pitch @ yaw)


def bone_lengths(proportions: Proportions = AVERAGE) -> Array:
    """The lengths of three bones per digit, root to tip: (5, 3) float64, hand lengths."""
    return np.asarray(_BONES * proportions.finger_length)


def _cross(a: Array, b: Array) -> Array:
    """The cross product of the last axes: np.cross, without its overhead."""
    return a[..., [1, 2, 0]] * b[..., [2, 0, 1]] - a[..., [2, 0, 1]] * b[..., [1, 2, 0]]


def _digit_bases(pose: Pose) -> tuple[Array, Array]:
    """Per digit, the directions along the unflexed digit and out of its pad: two (5, 3) arrays."""
    along, pad = np.zeros((5, 3)), np.zeros((5, 3))
    abduction = np.radians(pose.fingers[:, 0])
    along[1:, 0], along[1:, 1], pad[1:, 2] = np.sin(abduction), np.cos(abduction), 1.0
    spread, lift, roll = np.radians(pose.thumb[:3])
    along[0] = np.sin(spread) * np.cos(lift), np.cos(spread) * np.cos(lift), np.sin(lift)
    facing_fingers = np.array([-np.cos(spread), np.sin(spread), 0.0])
    pad[0] = np.cos(roll) * facing_fingers - np.sin(roll) * _cross(along[0], facing_fingers)
    return along, pad


def pose_skeleton(pose: Pose, proportions: Proportions = AVERAGE) -> Skeleton:
    """Forward kinematics: the hand in its own frame, palm to the viewer, wrist at the origin."""
    along, pad = _digit_bases(pose)
    flexion = np.zeros((5, 3))
    flexion[0, 1:] = pose.thumb[3:]  # the thumb's first bone is its metacarpal, set by spread and lift
    flexion[1:] = pose.fingers[:, 1:]
    angle = np.radians(np.cumsum(flexion, axis=1))[:, :, None]
    bone = np.cos(angle) * along[:, None] + np.sin(angle) * pad[:, None]
    pads = np.cos(angle) * pad[:, None] - np.sin(angle) * along[:, None]
    roots = _ROOTS * [proportions.palm_width, 1.0, 1.0]
    chain = roots[:, None] + np.cumsum(bone * bone_lengths(proportions)[:, :, None], axis=1)
    digits = np.concatenate([roots[:, None], chain], axis=1)
    joints = np.concatenate([np.zeros((1, 3)), digits.reshape(20, 3)])
    radii = np.concatenate([[0.085], _RADII.ravel()]) * proportions.thickness
    return Skeleton(joints, radii, np.stack([_cross(bone, pads), bone, pads], axis=2), np.eye(3))


def jittered(pose: Pose, rng: np.random.Generator, degrees: float) -> Pose:
    """The pose as another hand would hold it: normal noise of about `degrees` on each joint."""
    noise = rng.normal(0.0, degrees, (5, 5))
    bend = [1.0, 1.0, 1.0, 0.6]
    fingers = pose.fingers + noise[1:, :4] * ([0.4, *bend[1:]])
    thumb = np.array(pose.thumb) + 0.6 * noise[0]
    return replace(
        pose,
        thumb=tuple(thumb),
        **{name: tuple(row) for name, row in zip(DIGITS[1:], fingers, strict=True)},
    )


_UP = (0.0, 3.0, 6.0, 4.0)
_FIST = (0.0, 82.0, 102.0, 58.0)
_OVER = (0.0, 90.0, 75.0, 12.0)  # a finger laid over the thumb
_CURVE = (0.0, 38.0, 48.0, 30.0)
_ROUND = (0.0, 58.0, 58.0, 32.0)
_TUCKED = (0.0, 62.0, 108.0, 48.0)
_DROOP = (0.0, 68.0, 14.0, 8.0)
_CUPPED = (0.0, 32.0, 42.0, 22.0)
_DOWN_RIGHT = (0.55, -0.83, -0.1)


def _pose(
    thumb: Angles,
    index: Angles = _FIST,
    middle: Angles = _FIST,
    ring: Angles = _FIST,
    pinky: Angles = _FIST,
    view: Angles = (0.0, 0.0, 0.0),
    forearm: Angles = (0.0, -1.0, -0.12),
) -> Pose:
    """A fist, but for what is said."""
    return Pose(thumb, index, middle, ring, pinky, view, forearm)


# The thumbs that touch another finger were fitted: a random search over the five angles for the point of
# contact, with a penalty for flesh within flesh.
POSES: MappingProxyType[str, Pose] = MappingProxyType(
    {
        "A": _pose((22, 12, 20, 6, 0)),
        "B": _pose((20, 39, 21, 60, 70), (-2, 3, 4, 2), _UP, _UP, (3, 3, 5, 4)),
        "C": _pose((40, 50, 60, 15, 15), _CURVE, _CURVE, _CURVE, _CURVE, view=(68, 0, 0)),
        "D": _pose(
            (18, 64, 20, 11, 52), _UP, (0, 60, 62, 28), (0, 64, 64, 30), (0, 68, 66, 30), view=(50, 0, 0)
        ),
        "E": _pose((22, 52, 1, 60, 70), _TUCKED, _TUCKED, _TUCKED, _TUCKED),
        "F": _pose(
            (17, 46, -10, -7, 45),
            (10, 50, 62, 30),
            (4, 8, 8, 5),
            (-5, 3, 8, 5),
            (-16, 0, 8, 5),
            view=(26, 0, 0),
        ),
        "G": _pose((25, 25, 20, 0, 0), (0, 12, 6, 4), view=(10, 0, 68), forearm=_DOWN_RIGHT),
        "H": _pose((18, 45, -8, 32, 62), (-2, 8, 4, 3), (2, 8, 4, 3), view=(10, 0, 62), forearm=_DOWN_RIGHT),
        "I": _pose((19, 54, 3, 29, 65), pinky=_UP),
        "J": _pose((19, 54, 3, 29, 65), pinky=(-4, 3, 6, 4), view=(-8, 0, 52), forearm=(0.4, -0.9, -0.1)),
        "K": _pose((22, 20, 0, 27, 35), (8, 2, 5, 3), (-7, 30, 6, 4)),
        "L": _pose((75, 8, 10, -8, -8), (2, 2, 4, 3)),
        "M": _pose((21, 31, -10, 58, 48), _OVER, _OVER, (2, 88, 75, 12), (-6, 88, 102, 58)),
        "N": _pose((32, 28, -10, 58, 60), _OVER, (1, 90, 75, 12), (-4, 84, 102, 58)),
        "O": _pose((3, 62, 77, -1, 57), _ROUND, _ROUND, _ROUND, _ROUND, view=(62, 0, 0)),
        "P": _pose(
            (36, 39, 26, 56, 22), (5, 8, 6, 4), (-4, 62, 8, 4), view=(-72, 0, 92), forearm=_DOWN_RIGHT
        ),
        "Q": _pose((25, 50, 40, 5, 10), (0, 25, 14, 8), view=(-72, 0, 100), forearm=_DOWN_RIGHT),
        "R": _pose((18, 45, -8, 32, 62), (-10, 15, 4, 3), (13, -2, 4, 3), view=(8, 0, 0)),
        "S": _pose((19, 54, 3, 29, 65)),
        "T": _pose((18, 26, -10, 34, -8), (6, 62, 98, 55), (-3, 84, 102, 58)),
        "U": _pose((18, 45, -8, 32, 62), (-2, 2, 4, 3), (2, 2, 4, 3)),
        "V": _pose((18, 45, -8, 32, 62), (10, 2, 4, 3), (-10, 2, 4, 3)),
        "W": _pose((4, 52, 25, 31, 72), (12, 2, 4, 3), (0, 2, 4, 3), (-12, 2, 4, 3), (0, 75, 90, 45)),
        "X": _pose((-4, 66, 66, 21, 66), (0, 12, 88, 50), view=(25, 0, 0)),
        "Y": _pose((65, 8, 10, -5, -8), pinky=(-22, 2, 4, 3)),
        "Z": _pose((-4, 66, 66, 21, 66), (2, 4, 4, 3), view=(5, 0, -38)),
        "del": _pose(
            (5, 22, 20, 5, 5), _DROOP, _DROOP, _DROOP, _DROOP, view=(-62, 0, 88), forearm=_DOWN_RIGHT
        ),
        "nothing": _pose((45, 15, 0, 0, 0), _UP, _UP, _UP, _UP),
        "space": _pose(
            (70, 45, 30, -5, -5), _CUPPED, _CUPPED, _CUPPED, _CUPPED, view=(72, 0, 78), forearm=_DOWN_RIGHT
        ),
    }
)
"""One pose per class. `nothing` has an open hand, which is never drawn."""
