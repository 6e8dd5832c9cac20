"""Flesh on the bones: a posed skeleton → round cones in pixels, each with the frame its skin is drawn in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from horovod_asl.synthetic.pose import Proportions, Skeleton
from horovod_asl.synthetic.raster import Capsules

Array = NDArray[np.float32]
Vector = NDArray[np.float64]

FOREARM, PALM, FINGER, FINGER_TIP, THUMB_TIP = range(5)
"""The kinds of part. Those from FINGER on have joints; those from FINGER_TIP on have nails."""

_CAMERA_DISTANCE = 4.5  # hand lengths from the wrist: how strongly near parts grow
_DRAWING_ORDER = (0, 4, 3, 2, 1)


@dataclass(frozen=True)
class Cone:
    """One part in the camera's frame, in hand lengths: a round cone, its kind, and its three directions."""

    start: Vector
    end: Vector
    start_radius: float
    end_radius: float
    blend: float
    kind: int
    frame: Vector


@dataclass(frozen=True)
class Flesh:
    """What is drawn, in pixels; per part its `kind` (n,), `length` (n,) and `local` (n, 3, 4).

    `local` takes a picture's point (x, y, z, 1) to hand lengths across, along and out of the part; `palm`
    (3, 4) does so for the palm, from the wrist. `frame` (n, 3, 3) has the parts' directions as rows.
    """

    capsules: Capsules
    kind: NDArray[np.int64]
    length: Array
    frame: Array
    local: Array
    palm: Array
    scale: float


def _forearm(skeleton: Skeleton, direction: Vector, thickness: float) -> list[Cone]:
    """Two cones side by side, for an arm is wider than it is thick."""
    side = skeleton.basis[0] - (skeleton.basis[0] @ direction) * direction
    side /= max(float(np.linalg.norm(side)), 1e-6)
    frame = np.stack([side, -direction, np.cross(direction, side)])
    near, far = 0.080 * thickness, 0.118 * thickness
    return [
        Cone(sign * 0.046 * side, 1.8 * direction + sign * 0.08 * side, near, far, 0.12, FOREARM, frame)
        for sign in (-1.0, 1.0)
    ]


# In the palm's frame: where the four metacarpals start, and both ends of the mounds and the web.
_FEET = np.array([[0.05, 0.02, 0.0], [0.02, 0.02, -0.01], [-0.02, 0.02, -0.01], [-0.05, 0.02, 0.0]])
_MOUNDS = np.array([[-0.085, 0.10, 0.022], [-0.115, 0.29, 0.016], [0.04, 0.08, 0.02], [0.10, 0.33, 0.0]])


def _palm(skeleton: Skeleton, proportions: Proportions) -> list[Cone]:
    """Four metacarpals, the little finger's mound, the thumb's mound and the web between thumb and index."""
    thick, joints, basis = proportions.thickness, skeleton.joints, skeleton.basis

    def cone(start: Vector, end: Vector, start_radius: float, end_radius: float) -> Cone:
        return Cone(start, end, start_radius * thick, end_radius * thick, 0.09, PALM, basis)

    feet, mounds = (table * [proportions.palm_width, 1.0, 1.0] @ basis for table in (_FEET, _MOUNDS))
    knuckles = joints[5::4] - 0.008 * basis[2]
    return [
        *(cone(foot, knuckle, 0.076, 0.060) for foot, knuckle in zip(feet, knuckles, strict=True)),
        cone(mounds[0], mounds[1], 0.060, 0.050),
        cone(mounds[2], joints[2], 0.075, 0.062),
        cone(0.45 * joints[1] + 0.55 * joints[2], mounds[3], 0.044, 0.044),
    ]


def _digits(skeleton: Skeleton) -> list[Cone]:
    """The fingers' three bones each and the thumb's two; its first lies in the palm's mound."""
    cones = []
    for digit in _DRAWING_ORDER:
        first = 1 if digit == 0 else 0
        for bone in range(first, 3):
            joint = 1 + 4 * digit + bone
            kind = FINGER if bone < 2 else THUMB_TIP if digit == 0 else FINGER_TIP
            start, end = skeleton.joints[joint : joint + 2]
            blend = 0.04 if bone == first else 0.0
            radii = skeleton.radii[joint : joint + 2]
            cones.append(Cone(start, end, radii[0], radii[1], blend, kind, skeleton.frames[digit, bone]))
    return cones


def _local(origin: Vector, frame: Vector, scale: float) -> Vector:
    """The (..., 3, 4) map from a picture's point to hand lengths in a frame."""
    shift = -np.einsum("...ij,...j->...i", frame, origin)
    return np.concatenate([frame, shift[..., None]], axis=-1) / scale


def flesh_out(
    skeleton: Skeleton, forearm: Vector, proportions: Proportions, wrist: Vector, scale: float
) -> Flesh:
    """Clothe a skeleton that stands in the camera's frame.

    `forearm` (3,): from the wrist to the elbow; `wrist` (2,): where the wrist is drawn; `scale`: pixels per
    hand length.
    """
    direction = forearm / np.linalg.norm(forearm)
    groups = (
        _forearm(skeleton, direction, proportions.thickness),
        _palm(skeleton, proportions),
        _digits(skeleton),
    )
    runs = len(groups[0]), len(groups[1]), len(groups[2])
    cones = [cone for group in groups for cone in group]
    ends = np.array([(cone.start, cone.end) for cone in cones])
    nearness = scale / (1 - ends[:, :, 2:] / _CAMERA_DISTANCE)
    flip, offset = np.array([1.0, -1.0, 1.0]), np.array([wrist[0], wrist[1], 0.0])
    points = (offset + nearness * ends * flip).astype(np.float32)
    radii = (nearness[:, :, 0] * [(cone.start_radius, cone.end_radius) for cone in cones]).astype(np.float32)
    blend = np.array([cone.blend * scale for cone in cones], np.float32)
    frame = np.array([cone.frame for cone in cones]) * flip
    return Flesh(
        capsules=Capsules(points[:, 0], points[:, 1], radii[:, 0], radii[:, 1], blend, runs, soft_runs=2),
        kind=np.array([cone.kind for cone in cones]),
        length=np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).astype(np.float32),
        frame=frame.astype(np.float32),
        local=_local(points[:, 0], frame, scale).astype(np.float32),
        palm=_local(offset, skeleton.basis * flip, scale).astype(np.float32),
        scale=scale,
    )
