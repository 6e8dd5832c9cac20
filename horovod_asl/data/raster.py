"""Solid hands on a grid of pixels: tapered capsules → a height field and part numbers → shaded skin.

Picture coordinates: x right, y down, z towards the viewer, all in pixels. A light's direction points at the light.
Arrays are float32 in linear light unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

FAR = np.float32(-1e4)
"""The height where nothing is."""


@dataclass(frozen=True)
class Capsules:
    """n round cones, the convex hulls of two spheres each, in drawing order.

    `start`, `end` (n, 3) and `start_radius`, `end_radius` (n,) in pixels; `blend` (n,): over how many pixels of
    depth a cone flows into what was drawn before it, 0 for a sharp seam.
    """

    start: Array
    end: Array
    start_radius: Array
    end_radius: Array
    blend: Array


@dataclass(frozen=True)
class Surface:
    """What the camera sees: `height` (H, W) float32, FAR where there is nothing, and `part` (H, W) int64."""

    height: Array
    part: NDArray[np.int64]


def _cap(x: Array, y: Array, centre: Array, radius: float) -> Array:
    """The upper half of a sphere, FAR beside it."""
    left = radius * radius - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
    return np.where(left > 0, np.sqrt(np.maximum(left, 0)) + centre[2], FAR)


def _cone(x: Array, y: Array, a: Array, b: Array, ra: float, rb: float) -> Array:
    """The upper side of a round cone, seen along z: Quilez, "Ellipsoid and round cone intersectors" (2018)."""
    height = np.maximum(_cap(x, y, a, ra), _cap(x, y, b, rb))
    axis = b - a
    length2 = float(axis @ axis)
    d2 = length2 - (ra - rb) ** 2
    k2 = d2 - float(axis[2]) ** 2
    if d2 <= 0 or k2 <= 1e-6 * length2:  # one sphere holds the other, or the axis points at the viewer
        return height
    dx, dy, az = x - a[0], y - a[1], float(a[2])
    m1 = axis[0] * dx + axis[1] * dy - axis[2] * az
    m5 = dx * dx + dy * dy + az * az
    m2 = -float(axis[2])
    k1 = d2 * az - m1 * m2 + m2 * ra * (ra - rb)
    k0 = d2 * m5 - m1 * m1 + m1 * (2 * ra * (ra - rb)) - length2 * ra * ra
    h = k1 * k1 - k0 * k2
    t = (-np.sqrt(np.maximum(h, 0)) - k1) / k2
    along = m1 - ra * (ra - rb) + t * m2
    inside = (h > 0) & (along > 0) & (along < d2)
    return np.maximum(height, np.where(inside, -t, FAR))


def draw(capsules: Capsules, size: int) -> Surface:
    """Draw the cones on `size` × `size` pixels, nearest on top."""
    height = np.full((size, size), FAR, np.float32)
    part = np.full((size, size), -1, np.int64)
    radius = np.maximum(capsules.start_radius, capsules.end_radius)[:, None]
    low = np.minimum(capsules.start, capsules.end)[:, :2] - radius
    high = np.maximum(capsules.start, capsules.end)[:, :2] + radius
    corners = np.clip(np.concatenate([np.floor(low), np.ceil(high) + 1], axis=1), 0, size).astype(int).tolist()
    grid = np.arange(size, dtype=np.float32) + np.float32(0.5)
    for index, (x0, y0, x1, y1) in enumerate(corners):
        if x0 >= x1 or y0 >= y1:
            continue
        new = _cone(
            grid[None, x0:x1], grid[y0:y1, None], capsules.start[index], capsules.end[index],
            float(capsules.start_radius[index]), float(capsules.end_radius[index]),
        )  # fmt: skip
        old = height[y0:y1, x0:x1]
        nearer = new > old
        if (blend := float(capsules.blend[index])) > 0:  # polynomial smooth maximum
            overlap = np.maximum(1 - np.abs(new - old) / blend, 0)
            new = np.maximum(new, old) + overlap * overlap * (blend / 4)
            old[...] = new
        else:
            np.copyto(old, new, where=nearer)
        part[y0:y1, x0:x1][nearer] = index
    return Surface(height, part)


def _slope(height: Array, axis: int, limit: float) -> Array:
    """The one-sided difference that is smaller: a finger's edge is not bent by what lies behind it."""
    step = np.diff(height, axis=axis)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 0)
    back = np.pad(step, pad, constant_values=limit)
    pad[axis] = (0, 1)
    ahead = np.pad(step, pad, constant_values=limit)
    return np.clip(np.where(np.abs(back) < np.abs(ahead), back, ahead), -limit, limit)


def normals(surface: Surface) -> Array:
    """Unit normals (H, W, 3), towards the viewer."""
    slope_x, slope_y = (_slope(surface.height, axis, 4.0) for axis in (1, 0))
    scale = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    return np.stack([-slope_x * scale, -slope_y * scale, scale], axis=2)
