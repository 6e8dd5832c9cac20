"""Flesh on the bones: a posed skeleton → tapered capsules → shaded, anti-aliased skin.

Light is linear and float32 throughout; colours are (r, g, b) reflectances in 0–1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.data.hand import Skeleton
from horovod_asl.data.raster import FAR, Capsules, Surface, draw, normals

Array = NDArray[np.float32]
RGB = tuple[float, float, float]

_CAMERA_DISTANCE = 4.5  # hand lengths; how strongly near parts grow
FOREARM, PALM, FINGER, TIP, THUMB_TIP = range(5)


@dataclass(frozen=True)
class Skin:
    """One person's colours: the back of the hand, the palm, the nails, and the sleeve or None for a bare arm."""

    back: RGB
    palm: RGB
    nail: RGB
    sleeve: RGB | None = None


@dataclass(frozen=True)
class Light:
    """A lamp and the room's own light. `direction` points at the lamp: x right, y down, z to the viewer."""

    direction: RGB
    lamp: RGB
    room: RGB


@dataclass(frozen=True)
class Flesh:
    """Capsules in pixels, and per capsule its kind, its frame (across, along, out of the pad) and the palm's frame."""

    capsules: Capsules
    kind: NDArray[np.int64]
    frame: Array
    palm_origin: Array
    palm_axes: Array
    scale: float


# The palm in the hand's frame: start, end (as x width, y, z), radii. Four metacarpals, the little finger's mound,
# the thumb's mound and the web between thumb and index.
_METACARPAL_FEET = np.array([[0.055, 0.06, 0.0], [0.02, 0.05, -0.01], [-0.02, 0.05, -0.01], [-0.055, 0.06, 0.0]])


def _palm(skeleton: Skeleton, width: float, thickness: float) -> list[tuple[np.ndarray, np.ndarray, float, float, float]]:
    place = lambda u, v, w: np.array([u * width, v, w]) @ skeleton.basis  # noqa: E731
    joints = skeleton.joints
    cones = [
        (place(*foot), joints[5 + 4 * i] - 0.008 * skeleton.basis[2], 0.066 * thickness, 0.060 * thickness, 0.07)
        for i, foot in enumerate(_METACARPAL_FEET)
    ]
    cones.append((place(-0.085, 0.10, 0.022), place(-0.115, 0.29, 0.016), 0.058 * thickness, 0.05 * thickness, 0.08))
    cones.append((place(0.04, 0.08, 0.02), joints[2], 0.075 * thickness, 0.06 * thickness, 0.08))
    web = 0.45 * joints[1] + 0.55 * joints[2]
    cones.append((web, place(0.10, 0.33, 0.0), 0.042 * thickness, 0.042 * thickness, 0.08))
    return cones


def _forearm(skeleton: Skeleton, direction: np.ndarray, thickness: float):
    side = skeleton.basis[0] - (skeleton.basis[0] @ direction) * direction
    side /= max(float(np.linalg.norm(side)), 1e-6)
    return [
        (sign * 0.052 * side, 1.7 * direction + sign * 0.095 * side, 0.078 * thickness, 0.115 * thickness, 0.09)
        for sign in (-1.0, 1.0)
    ]


def flesh_out(skeleton: Skeleton, forearm: np.ndarray, width: float, thickness: float, centre, scale: float) -> Flesh:
    """Clothe a skeleton that stands in the camera's frame; its wrist is drawn at `centre`, `scale` pixels a unit."""
    direction = np.asarray(forearm, float) / np.linalg.norm(forearm)
    cones = _forearm(skeleton, direction, thickness) + _palm(skeleton, width, thickness)
    kinds = [FOREARM] * 2 + [PALM] * 7
    frames = [skeleton.basis] * 9
    for digit in (0, 4, 3, 2, 1):
        for bone in range(3):
            if digit == 0 and bone == 0:
                continue
            joint = 1 + 4 * digit + bone
            blend = 0.035 if bone == int(digit == 0) else 0.0
            cones.append((skeleton.joints[joint], skeleton.joints[joint + 1], skeleton.radii[joint],
                          skeleton.radii[joint + 1], blend))
            kinds.append(FINGER if bone < 2 else THUMB_TIP if digit == 0 else TIP)
            frames.append(skeleton.frames[digit, bone])
    start, end, r0, r1, blend = (np.array(column) for column in zip(*cones, strict=True))
    f0, f1 = (1 / (1 - points[:, 2] / _CAMERA_DISTANCE) for points in (start, end))
    flip = np.array([1.0, -1.0, 1.0])
    offset = np.array([*centre, 0.0])
    as32 = lambda a: np.asarray(a, np.float32)  # noqa: E731
    capsules = Capsules(
        as32(offset + scale * f0[:, None] * start * flip), as32(offset + scale * f1[:, None] * end * flip),
        as32(scale * f0 * r0), as32(scale * f1 * r1), as32(scale * blend),
    )
    return Flesh(capsules, np.array(kinds), as32(np.array(frames) * flip), as32(offset), as32(skeleton.basis * flip), scale)


def _smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(x: Array, width: float) -> Array:
    return np.exp(-np.square(x / width))


def _occlusion(height: Array, scale: float) -> Array:
    """How much deeper each pixel lies than its surroundings, in hand lengths: creases and gaps are dark."""
    small = height.shape[0] // 4
    here = height > FAR / 2
    total = np.where(here, height, 0).reshape(small, 4, small, 4).sum((1, 3))
    count = here.reshape(small, 4, small, 4).sum((1, 3)).astype(np.float32)
    kernel = np.ones(3, np.float32)
    for axis in (0, 1):
        total, count = (sum(np.roll(a, k, axis) for k in (-1, 0, 1)) for a in (total, count))
    mean = Image.fromarray((total / np.maximum(count, 1)).astype(np.float32)).resize(height.shape, Image.Resampling.BILINEAR)
    return (np.asarray(mean) - height) / scale


def _shadow(surface: Surface, rows, cols, direction: Array, scale: float) -> Array:
    """How much of the lamp is hidden from each hand pixel by other parts of the hand: 0–1."""
    size = surface.height.shape[0]
    here = surface.height[rows, cols]
    hidden = np.zeros_like(here)
    for reach in (0.05, 0.09, 0.14, 0.2, 0.28):
        x = np.clip(cols + int(round(reach * scale * direction[0])), 0, size - 1)
        y = np.clip(rows + int(round(reach * scale * direction[1])), 0, size - 1)
        above = surface.height[y, x] - here - reach * scale * direction[2]
        np.maximum(hidden, np.clip(above / (0.05 * scale), 0, 1), out=hidden)
    return hidden


def _albedo(flesh: Flesh, skin: Skin, part, point: Array, normal: Array) -> Array:
    capsules, scale = flesh.capsules, np.float32(flesh.scale)
    kind = flesh.kind[part]
    frame = flesh.frame[part]
    rel = point - capsules.start[part]
    across, along, out = (np.einsum("nk,nk->n", rel, frame[:, k]) / scale for k in range(3))
    facing = np.einsum("nk,nk->n", normal, frame[:, 2])
    length = (np.linalg.norm(capsules.end - capsules.start, axis=1) / scale)[part]
    t = _smoothstep(-0.35, 0.45, facing)[:, None]
    colour = np.float32(skin.back) * (1 - t) + np.float32(skin.palm) * t
    finger = kind >= FINGER
    tip = kind >= TIP
    # blood shows at fingertips and knuckles
    blush = finger * (0.5 * _bump(along, 0.05) * (facing < 0.2) + tip * _smoothstep(0.0, 0.12, along))
    # flexion creases on the pad side of every joint but the first
    crease = finger * t[:, 0] * _bump(along, 0.010)
    wrinkle = finger * (1 - t[:, 0]) * (_bump(along + 0.012, 0.008) + _bump(along - 0.012, 0.008)) * 0.5
    palm = (kind == PALM)
    u, v = ((point - flesh.palm_origin) @ flesh.palm_axes[k] / scale for k in (0, 1))
    life = _bump(np.hypot(u - 0.115, v - 0.14) - 0.135, 0.009) * (u < 0.1)
    head = _bump(v - (0.30 + 0.35 * (u - 0.05)), 0.008) * (np.abs(u) < 0.1)
    heart = _bump(v - (0.355 + 0.45 * u + 1.2 * u * u), 0.008) * (u > -0.14) * (u < 0.06)
    crease = np.maximum(crease, palm * (t[:, 0] > 0.6) * np.maximum(np.maximum(life, head), heart))
    colour *= (1 - np.outer(blush, np.float32([0.04, 0.16, 0.14])))
    colour *= (1 - np.outer(np.maximum(crease, wrinkle), np.float32([0.28, 0.40, 0.42])))
    wide = np.where(kind == THUMB_TIP, 0.034, 0.027).astype(np.float32)
    middle = length * 0.72
    nail = tip & (facing < -0.15)
    shape = np.abs(across / wide) ** 3 + np.abs((along - middle) / (wide * 1.25)) ** 3
    colour = np.where((nail & (shape < 1))[:, None], np.float32(skin.nail), colour)
    colour = np.where((nail & (shape < 1) & (along > middle + 0.7 * wide))[:, None], np.float32(skin.nail) * 1.12, colour)
    if skin.sleeve is not None:
        colour = np.where(((kind == FOREARM) & (along < -0.38))[:, None], np.float32(skin.sleeve), colour)
    return colour


def shade(flesh: Flesh, skin: Skin, light: Light, size: int) -> tuple[Array, Array]:
    """Paint the hand: premultiplied linear light (size, size, 3) and coverage (size, size)."""
    surface = draw(flesh.capsules, size)
    rows, cols = np.nonzero(surface.part >= 0)
    part = surface.part[rows, cols]
    height = surface.height[rows, cols]
    normal = normals(surface)[rows, cols]
    point = np.stack([cols + 0.5, rows + 0.5, height], axis=1).astype(np.float32)
    albedo = _albedo(flesh, skin, part, point, normal)
    direction = np.float32(light.direction)
    facing = normal @ direction
    hidden = _shadow(surface, rows, cols, direction, flesh.scale)
    # red light travels farther under the skin, so that the edge of shade is warm
    wrap = np.float32([0.42, 0.26, 0.22])
    lit = np.clip((facing[:, None] + wrap) / (1 + wrap), 0, 1) * (1 - hidden * 0.85)[:, None]
    deep = np.clip(_occlusion(surface.height, flesh.scale)[rows, cols] / 0.10, 0, 1)
    padded = np.pad(surface.height, 1, constant_values=FAR)
    around = np.max([padded[1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size] for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))], axis=0)
    edge = np.clip((around[rows, cols] - height) / (0.03 * flesh.scale) - 0.5, 0, 1)
    sky = (0.75 - 0.25 * normal[:, 1] )* (1 - 0.6 * deep) * (0.55 + 0.45 * normal[:, 2])
    radiance = albedo * (lit * np.float32(light.lamp) + sky[:, None] * np.float32(light.room))
    half = direction + np.float32([0, 0, 1])
    gloss = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 24 * (1 - hidden)
    radiance += 0.05 * gloss[:, None] * np.float32(light.lamp)
    radiance *= 1 - np.outer(np.maximum(edge * 0.55, (1 - normal[:, 2]) ** 3 * 0.35), np.float32([0.8, 1, 1]))
    picture = np.zeros((size, size, 3), np.float32)
    picture[rows, cols] = radiance
    return picture, (surface.part >= 0).astype(np.float32)
