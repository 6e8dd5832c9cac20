"""How people differ in signing: the view, the bend of fingers, and which moment of J and Z a photo caught.

The built-in sample's recordings differ in who signs, not in how. For a training that is to read strangers the drawn
signers get ways of their own (`prepare --synthetic-variety`): the camera stands elsewhere for each of them, each
signs each letter a little in their own way, and J and Z, which are movements, are drawn at moments of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from horovod_asl.labels import CLASS_INDEX, NUM_CLASSES
from horovod_asl.synthetic.pose import POSES, Pose, jittered

MOVING = ("J", "Z")
"""The letters that are movements."""

Angles = NDArray[np.float64]
"""Yaw, pitch and roll of a hand in degrees, (3,), as `pose.Pose.view`."""

_CAMERA_SIGMA_DEG = np.array([10.0, 8.0, 6.0])
_SIGN_SIGMA_DEG = np.array([8.0, 5.0, 6.0])
_JOINT_SIGMA_DEG = 5.0
# What some show from the front and others from the side: yaws, from the least to the most.
_YAW_DEG = {"C": (15.0, 75.0), "D": (0.0, 60.0), "O": (15.0, 75.0), "X": (0.0, 60.0)}
_MORE_TILT_SIGMA_DEG = dict.fromkeys("GHPQ", 10.0)  # of what lies across
# The little finger goes down and forward, then the forearm turns until the palm faces the signer.
_J_DEG = np.array([[-8, 0, 30], [0, 30, 45], [40, 20, 60], [90, 0, 60], [140, 0, 45]], np.float64)
_J_FROM = 0.2  # before, it is an I
# The index finger writes upon the air before it: across, or forward. At no moment does it point straight up: from the
# front that is a D whose circle is hidden behind the finger.
_Z_DEG = np.array([[5, 0, -55], [5, 25, -50], [0, 70, -20], [20, 70, 20], [50, 35, -60]], np.float64)


def pose_of(label: str, rng: np.random.Generator, *, seed: int, recording: int, variety: float) -> Pose:
    """The sign as the signer of this recording holds it, for one photo.

    Args:
        rng: of the photo: it draws the moment of J and Z. The signer's ways are drawn from `seed` and `recording`.
        variety: 1 for people as they differ; 0 gives `pose.POSES`.
    """
    if label not in MOVING or variety == 0:
        return held(label, seed=seed, recording=recording, variety=variety)
    view = _between(_J_DEG, rng.uniform(_J_FROM, 1.0)) if label == "J" else _between(_Z_DEG, rng.uniform())
    return held(label, seed=seed, recording=recording, variety=variety, view=view)


def held(label: str, *, seed: int, recording: int, variety: float, view: Angles | None = None) -> Pose:
    """The sign as this signer holds it, in all photos alike.

    Args:
        view: what others would show, a moment of J or Z; None: as in `pose.POSES`.
        seed, recording, variety: as for `pose_of`.
    """
    pose = POSES[label]
    if variety == 0:
        return pose if view is None else replace(pose, view=tuple(view))
    camera = np.random.default_rng([seed, recording, NUM_CLASSES, 0, 1]).normal(0.0, _CAMERA_SIGMA_DEG)
    own = np.random.default_rng([seed, recording, CLASS_INDEX[label], 0, 1])
    pose = jittered(pose, own, degrees=variety * _JOINT_SIGMA_DEG)
    turned = camera + own.normal(0.0, _SIGN_SIGMA_DEG)
    turned[2] += own.normal(0.0, _MORE_TILT_SIGMA_DEG.get(label, 0.0))
    shown = np.array(pose.view if view is None else view, np.float64)
    if label in _YAW_DEG:
        shown[0] += variety * (own.uniform(*_YAW_DEG[label]) - shown[0])
    return replace(pose, view=tuple(shown + variety * turned))


def _between(moments: NDArray[np.float64], time: float) -> Angles:
    """The view at a time in [0, 1] of a movement that passes these views at equal intervals."""
    at = np.linspace(0.0, 1.0, len(moments))
    return np.array([np.interp(time, at, angles) for angles in moments.T])
