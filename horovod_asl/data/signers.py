"""How people differ in signing: the view, the bend of fingers, and which moment of J and Z a photo caught.

The built-in sample's recordings differ in who signs, not in how. For a training that is to read strangers the drawn
signers get ways of their own (`prepare --synthetic-variety`): the camera stands elsewhere for each of them, each
signs each letter a little in their own way, and J and Z, which are movements, are drawn at moments of them.
"""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
from numpy.typing import NDArray

from horovod_asl.data.hand import POSES, Pose, jittered
from horovod_asl.labels import CLASS_INDEX, NUM_CLASSES

Angles = NDArray[np.float64]
"""Yaw, pitch and roll of a hand in degrees, (3,), as `hand.Pose.view`."""

_HANGING = (0.0, 88.0, 18.0, 8.0)  # a finger that is bent at its knuckle, and hardly else
_CAMERA_SIGMA_DEG = np.array([10.0, 8.0, 6.0])
_SIGN_SIGMA_DEG = np.array([8.0, 5.0, 6.0])
_JOINT_SIGMA_DEG = 5.0
# What some show from the front and others from the side: yaws, from the least to the most.
_YAW_DEG = {"C": (15.0, 75.0), "D": (0.0, 60.0), "O": (15.0, 75.0), "X": (-15.0, 60.0)}
# What some hold in another way than `hand.POSES`, and everybody between the two.
_OTHER_WAYS = {
    # The thumb lies along the side of the hand, as in A: not yet a Y. (Half way there it overlaps the fingers.)
    "I": replace(POSES["I"], thumb=POSES["A"].thumb),
    "J": replace(POSES["J"], thumb=POSES["A"].thumb),
    # The fingers hang straight down over the thumb, and the hand bends forward at the wrist.
    "M": replace(POSES["M"], index=_HANGING, middle=_HANGING, ring=_HANGING, view=(0.0, 55.0, 0.0)),
    "N": replace(POSES["N"], index=_HANGING, middle=_HANGING, view=(0.0, 55.0, 0.0)),
    # The finger bends forward from its knuckle, and so less further out.
    "X": replace(POSES["X"], index=(0.0, 35.0, 70.0, 40.0)),
}
_FROM_BEHIND = 0.2  # the share of signers who photograph their hand as they see it themselves
_MORE_TILT_SIGMA_DEG = dict.fromkeys("GHPQ", 10.0)  # of what lies across
# The little finger goes down and forward, then the forearm turns until the palm faces the signer. Before, it is an I.
_J_DEG = np.array([[-2, 24, 42], [20, 25, 52], [60, 12, 60], [100, 0, 57], [140, 0, 45]], np.float64)
# The index finger writes upon the air before it: across, or forward. At no moment does it point straight up: from the
# front that is a D whose circle is hidden behind the finger.
_Z_DEG = np.array([[5, 0, -55], [5, 25, -50], [0, 70, -20], [20, 70, 20], [50, 35, -60]], np.float64)
_MOVEMENTS = {"J": _J_DEG, "Z": _Z_DEG}
_LONGEST_EXPOSURE = 0.12  # of a movement: an eighth of a second for what takes one
_MOMENTS = 13  # that are drawn while the shutter is open


def poses_of(
    label: str, rng: np.random.Generator, *, seed: int, recording: int, variety: float
) -> list[Pose]:
    """The sign as a recording's signer holds it while the shutter is open: several poses of J and Z.

    Args:
        rng: of the photo: it draws when the shutter opens in J and Z, and for how long. The signer's ways are drawn
            from `seed` and `recording`.
        variety: 1 for people as they differ; 0 gives `hand.POSES`, at rest.
    """
    if variety == 0:
        return [POSES[label]]
    if label not in _MOVEMENTS:
        return [_pose_of(label, 0.0, seed=seed, recording=recording, variety=variety)]
    opens, exposure = rng.uniform(), variety * rng.uniform(0.0, _LONGEST_EXPOSURE)
    return [
        _pose_of(label, moment, seed=seed, recording=recording, variety=variety)
        for moment in np.linspace(opens, opens + exposure, _MOMENTS)
    ]


def _pose_of(label: str, moment: float, *, seed: int, recording: int, variety: float) -> Pose:
    """At `moment` of a movement that takes from 0 to 1, and then rests."""
    pose = POSES[label]
    camera = np.random.default_rng([seed, recording, NUM_CLASSES, 0, 1]).normal(0.0, _CAMERA_SIGMA_DEG)
    own = np.random.default_rng([seed, recording, CLASS_INDEX[label], 0, 1])
    if label in _OTHER_WAYS:
        pose = _mixed(pose, _OTHER_WAYS[label], min(1.0, variety * own.uniform()))
    pose = jittered(pose, own, degrees=variety * _JOINT_SIGMA_DEG)
    turned = camera + own.normal(0.0, _SIGN_SIGMA_DEG)
    turned[2] += own.normal(0.0, _MORE_TILT_SIGMA_DEG.get(label, 0.0))
    view = np.array(pose.view, np.float64)
    if label in _YAW_DEG:
        view[0] += variety * (own.uniform(*_YAW_DEG[label]) - view[0])
    elif label in _MOVEMENTS:
        view = _between(_MOVEMENTS[label], moment)
    pose = replace(pose, view=tuple(view + variety * turned))
    behind = np.random.default_rng([seed, recording, NUM_CLASSES, 0, 2]).uniform() < variety * _FROM_BEHIND
    return _from_behind(pose) if behind else pose


def _mixed(one: Pose, other: Pose, share: float) -> Pose:
    """The pose that lies between two: 0 is `one`, 1 is `other`."""
    angles = zip(astuple(one), astuple(other), strict=True)
    return Pose(*(tuple((1 - share) * np.array(a) + share * np.array(b)) for a, b in angles))


def _from_behind(pose: Pose) -> Pose:
    """The same hand, seen by a camera on its other side: half a turn about the vertical."""
    yaw, pitch, roll = pose.view
    x, y, z = pose.forearm
    return replace(pose, view=(yaw + 180.0, -pitch, -roll), forearm=(-x, y, -z))


def _between(moments: NDArray[np.float64], time: float) -> Angles:
    """The view at a time of a movement that passes these at equal intervals from 0 to 1, and rests in the last."""
    at = np.linspace(0.0, 1.0, len(moments))
    return np.array([np.interp(time, at, angles) for angles in moments.T])
