"""Solids on a grid of pixels: round cones → a height field, part numbers and normals; and layers of pixels.

Picture coordinates: x right, y down, z towards the viewer, all in pixels. Everything is float32.
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

    `start`, `end` (n, 3) and `start_radius`, `end_radius` (n,) in pixels; `blend` (n,): over how many pixels
    of depth a cone flows into what was drawn before it, 0 for a sharp seam. `runs`: how many cones in a row
    are of like size and computed at once, summing to n; the first `soft_runs` of them are one soft mass.
    """

    start: Array
    end: Array
    start_radius: Array
    end_radius: Array
    blend: Array
    runs: tuple[int, ...]
    soft_runs: int


@dataclass(frozen=True)
class Surface:
    """What the camera sees: `height` (H, W), FAR where there is nothing, and `part` (H, W), −1 there."""

    height: Array
    part: NDArray[np.int8]


def _cap(dx: Array, dy: Array, z: Array, radius: Array) -> Array:
    """The upper half of a sphere, FAR beside it."""
    left = (radius * radius - dx * dx) - dy * dy
    return np.where(left > 0, np.sqrt(np.abs(left)) + z, FAR)


def cone_heights(
    x: Array, y: Array, start: Array, end: Array, start_radius: Array, end_radius: Array
) -> Array:
    """The upper sides of n round cones at the pixels x (n, 1, w), y (n, h, 1): (n, h, w), FAR beside them.

    Quilez, "Rounded cone – intersection", iquilezles.org/articles/intersectors, for rays along z.
    """
    ra, rb = start_radius[:, None, None], end_radius[:, None, None]
    sx, sy, sz = start.T[:, :, None, None]
    ax, ay, az = (end - start).T[:, :, None, None]
    dx, dy = x - sx, y - sy
    length2, taper = ax * ax + ay * ay + az * az, ra * (ra - rb)
    d2 = length2 - (ra - rb) ** 2
    k2 = d2 - az * az
    # One sphere may hold the other, or the side be seen edge on: the caps are all.
    sided = (d2 > 0) & (np.abs(k2) > 1e-4 * length2)
    side = (ax * dx - taper) + ay * dy
    h = side * side - (k2 * (dx * dx - ra * ra) + k2 * (dy * dy))
    z = (np.sqrt(np.abs(h) * d2) + side * az) / np.where(sided, k2, 1)
    along = side + z * az
    body = np.where(sided & (h > 0) & (along > 0) & (along < d2), z + sz, FAR)
    caps = np.maximum(_cap(dx, dy, sz, ra), _cap(dx - ax, dy - ay, sz + az, rb))
    return np.maximum(body, caps)


def _patches(capsules: Capsules, run: slice, size: int) -> tuple[Array, list[list[int]]]:
    """The run's cones on equal square patches that hold them: heights (n, p, p) and each patch's x and y."""
    start, end = capsules.start[run], capsules.end[run]
    ra, rb = capsules.start_radius[run], capsules.end_radius[run]
    radius = np.maximum(ra, rb)[:, None]
    low = np.clip(np.floor(np.minimum(start, end)[:, :2] - radius), 0, size)
    high = np.clip(np.ceil(np.maximum(start, end)[:, :2] + radius), 0, size)
    patch = max(int((high - low).max()), 1)
    corner = np.minimum(low, size - patch).astype(np.float32)
    grid = np.arange(patch, dtype=np.float32) + np.float32(0.5)
    x, y = (corner[:, axis, None] + grid for axis in (0, 1))
    corners: list[list[int]] = corner.astype(int).tolist()
    return cone_heights(x[:, None, :], y[:, :, None], start, end, ra, rb), corners


def draw(capsules: Capsules, size: int, across: int) -> Surface:
    """Draw the cones on `size` × `size` pixels, nearest on top; `across` as for `blurred`."""
    height = np.full((size, size), FAR, np.float32)
    part = np.full((size, size), -1, np.int8)
    first = 0
    for number, length in enumerate(capsules.runs):
        if number == capsules.soft_runs:
            height = softened(height, across)
        patches, corners = _patches(capsules, slice(first, first + length), size)
        side = patches.shape[1]
        for index, (new, (x, y)) in enumerate(zip(patches, corners, strict=True), first):
            old = height[y : y + side, x : x + side]
            np.copyto(part[y : y + side, x : x + side], index, where=new > old)
            _merge(old, new, float(capsules.blend[index]))
        first += length
    return Surface(height, part)


def _merge(old: Array, new: Array, blend: float) -> None:
    """Raise `old` to `new`; where they are within `blend` of each other, by a polynomial smooth maximum."""
    overlap = np.maximum(1 - np.abs(new - old) / np.float32(blend), 0) if blend > 0 else None
    np.maximum(old, new, out=old)
    if overlap is not None:
        old += overlap * overlap * np.float32(blend / 4)


def _spread(image: Array, centre: int, passes: int) -> Array:
    """Each pixel's mean over its neighbours, weighted 1, `centre`, 1 each way; the edge goes on beyond."""
    for axis in (0, 1) * passes:
        total = image * np.float32(centre)
        rows, source = (total, image) if axis == 0 else (total.T, image.T)
        rows[1:] += source[:-1]
        rows[:-1] += source[1:]
        rows[0] += source[0]
        rows[-1] += source[-1]
        image = total
    return image * np.float32((centre + 2.0) ** (-2 * passes))


def _smeared(image: Array, across: int) -> Array:
    """A blur over about a 32nd of `across`, done on fewer rows and columns for speed."""
    if across < 96 or len(image) % 2:
        return _spread(image, centre=1, passes=2)
    rows = image[0::2] + image[1::2]
    half = _smeared((rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25), across // 2)
    return _spread(half.repeat(2, axis=0).repeat(2, axis=1), centre=2, passes=1)


def blurred(height: Array, across: int) -> tuple[Array, Array]:
    """The height's mean over what is drawn within about a 32nd of `across`, and the share of that, 0–1.

    `across` is the side of a picture that the hand fills, in pixels; of a photo of a hand it is the photo's side.
    """
    drawn = (height > FAR / 2).astype(np.float32)
    total, cover = (_smeared(image, across) for image in (height * drawn, drawn))
    return np.asarray(total / np.maximum(cover, np.float32(1 / 81)), np.float32), cover


def softened(height: Array, across: int) -> Array:
    """The same shape with the seams inside it smoothed away and its round rim kept."""
    smooth, cover = blurred(height, across)
    inside = np.clip((cover - np.float32(0.6)) / np.float32(0.4), 0, 1)
    return np.where(height > FAR / 2, height + inside * (smooth - height), FAR)


def _slope(height: Array, axis: int, limit: float) -> Array:
    """The one-sided difference that is smaller: a finger's edge is not bent by what lies behind it."""
    rows, columns = height.shape
    step = np.full((rows + (axis == 0), columns + (axis == 1)), limit, np.float32)
    if axis == 0:
        np.subtract(height[1:], height[:-1], out=step[1:-1])
        back, ahead = step[:-1], step[1:]
    else:
        np.subtract(height[:, 1:], height[:, :-1], out=step[:, 1:-1])
        back, ahead = step[:, :-1], step[:, 1:]
    return np.clip(np.where(np.abs(back) < np.abs(ahead), back, ahead), -limit, limit)


def normals(height: Array) -> Array:
    """Unit normals (H, W, 3), towards the viewer."""
    normal = np.empty((*height.shape, 3), np.float32)
    slope_x, slope_y = _slope(height, 1, 4.0), _slope(height, 0, 4.0)
    normal[..., 2] = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    normal[..., 0] = -slope_x * normal[..., 2]
    normal[..., 1] = -slope_y * normal[..., 2]
    return normal


Layer = tuple[int, int, Array]
"""The row and the column of the upper left corner, which may be beyond the frame; light and coverage (h, w, 4)."""


def through_lens(image: Array) -> Array:
    """The image through a webcam's lens: each pixel is mixed with its neighbours, by 1, 2, 1 each way."""
    for axis in (0, 1):
        total = image * np.float32(0.5)
        rows, source = (total, image) if axis == 0 else (total.swapaxes(0, 1), image.swapaxes(0, 1))
        rows[1:] += np.float32(0.25) * source[:-1]
        rows[:-1] += np.float32(0.25) * source[1:]
        image = total
    return image


def mean_of_layers(layers: list[Layer], size: tuple[int, int]) -> tuple[tuple[slice, slice], Array]:
    """The mean of the layers where any is, within the frame: which rows and columns, and (h, w, 4)."""
    corners = np.array([_corners(*layer) for layer in layers])
    low, high = np.clip(corners[:, 0].min(0), 0, size), np.clip(corners[:, 1].max(0), 0, size)
    total = np.zeros((*(high - low), 4), np.float32)
    for top, left, image in layers:
        (row, column), (below, beyond) = (np.clip(at, low, high) for at in _corners(top, left, image))
        total[row - low[0] : below - low[0], column - low[1] : beyond - low[1]] += image[
            row - top : below - top, column - left : beyond - left
        ]
    box = slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
    return box, total * np.float32(1 / len(layers))


def _corners(top: int, left: int, image: Array) -> tuple[tuple[int, int], tuple[int, int]]:
    return (top, left), (top + image.shape[0], left + image.shape[1])
