"""Skin: the colour of each pixel of the hand, and how a lamp and a room light it.

Light is linear; colours are (r, g, b) reflectances in 0–1. Everything is float32; n is the number of the
hand's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from horovod_asl.synthetic.flesh import FINGER, FINGER_TIP, FOREARM, PALM, THUMB_TIP, Flesh
from horovod_asl.synthetic.raster import FAR, Surface, blurred, draw, normals

Array = NDArray[np.float32]
RGB = tuple[float, float, float]

_SLEEVE_FROM = 0.42  # hand lengths from the wrist
_REACH = (0.05, 0.10, 0.17, 0.26)  # how far shadows are sought, hand lengths


def _f32(values: Sequence[float]) -> Array:
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Skin:
    """One person's colours: the back of the hand, the palm, the nails, the sleeve (None for a bare arm)."""

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
class Pixels:
    """The hand's pixels in a list: where each is, its part's kind, and where on that it lies (hand
    lengths)."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    height: Array
    normal: Array
    kind: NDArray[np.int64]
    length: Array
    across: Array
    along: Array
    facing: Array
    """The normal's share out of the pad: 1 on the palm's side, −1 on the back."""
    palm_across: Array
    palm_along: Array


def _pixels(surface: Surface, flesh: Flesh) -> Pixels:
    rows, cols = np.nonzero(surface.part >= 0)
    flat = rows * surface.part.shape[1] + cols
    part, height = surface.part.take(flat), surface.height.take(flat)
    normal = normals(surface.height).reshape(-1, 3).take(flat, axis=0)
    point = np.ones((len(flat), 4), np.float32)
    point[:, 0], point[:, 1], point[:, 2] = cols + 0.5, rows + 0.5, height
    across, along = (np.einsum("ni,ni->n", flesh.local[:, k].take(part, axis=0), point) for k in (0, 1))
    facing = np.einsum("ni,ni->n", normal, flesh.frame[:, 2].take(part, axis=0))
    palm = flesh.palm[:2] @ point.T
    kind, length = flesh.kind.take(part), flesh.length.take(part)
    return Pixels(rows, cols, height, normal, kind, length, across, along, facing, palm[0], palm[1])


def _smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _line(distance: NDArray[np.floating], width: float) -> Array:
    """A soft line where the distance is nought."""
    return np.asarray(np.maximum(1 - np.square(distance / width), 0))


def _palm_lines(pixels: Pixels) -> Array:
    """The lines of life, head and heart: their strength at each pixel, 0–1."""
    lines = np.zeros_like(pixels.height)
    palm = np.nonzero((pixels.kind == PALM) & (pixels.facing > 0.5))[0]
    u, v = pixels.palm_across[palm], pixels.palm_along[palm]
    life = _line(np.sqrt(np.square(u - 0.115) + np.square(v - 0.14)) - 0.135, 0.013) * (u < 0.1)
    head = _line(v - (0.30 + 0.35 * (u - 0.05)), 0.011) * (np.abs(u) < 0.1)
    heart = _line(v - (0.355 + 0.45 * u + 1.2 * u * u), 0.011) * (u > -0.14) * (u < 0.06)
    lines[palm] = np.maximum(np.maximum(life, head), heart)
    return lines


def _joint_lines(pixels: Pixels, finger: NDArray[np.int64]) -> Array:
    """The creases on the pads and the wrinkles on the knuckles of the finger's pixels, 0–1."""
    along, facing = pixels.along[finger], pixels.facing[finger]
    crease = _line(along, 0.012) * np.clip(facing, 0, 1)
    knuckle = _line(np.abs(along) - 0.014, 0.008) * np.clip(-facing - 0.3, 0, 1)
    return np.asarray(np.maximum(crease, knuckle) * (np.abs(pixels.across[finger]) < 0.034))


def _blush(pixels: Pixels, finger: NDArray[np.int64]) -> Array:
    """Where blood shows: fingertips and knuckles, 0–1."""
    along = pixels.along[finger]
    knuckle = 0.5 * _line(along, 0.08) * (pixels.facing[finger] < 0.2)
    return np.asarray(knuckle + (pixels.kind[finger] >= FINGER_TIP) * _smoothstep(0.0, 0.12, along))


def _paint_nails(colour: Array, pixels: Pixels, nail: Array) -> None:
    """Rounded squares on the backs of the last bones, paler at the free edge and in the moon."""
    tip = np.nonzero((pixels.kind >= FINGER_TIP) & (pixels.facing < -0.15))[0]
    half = np.where(pixels.kind[tip] == THUMB_TIP, 0.033, 0.026).astype(np.float32)
    u = pixels.across[tip] / half
    v = (pixels.along[tip] - 0.74 * pixels.length[tip]) / (1.25 * half)
    inside = u * u * u * u + v * v * v * v < 1
    pale = 0.92 + 0.20 * (v > 0.62) + 0.08 * (u * u + np.square(v + 1) < 0.3)
    colour[tip[inside]] = nail * pale[inside, None]


def _albedo(pixels: Pixels, skin: Skin) -> Array:
    """The colour of each pixel before it is lit: (n, 3)."""
    pad = _smoothstep(-0.6, 0.6, pixels.facing)[:, None]
    back, palm = _f32(skin.back), _f32(skin.palm)
    colour: Array = back + pad * (palm - back)
    finger = np.nonzero(pixels.kind >= FINGER)[0]
    colour[finger] *= 1 - _blush(pixels, finger)[:, None] * _f32([0.03, 0.15, 0.13])
    lines = _palm_lines(pixels)
    lines[finger] = _joint_lines(pixels, finger)
    colour *= 1 - lines[:, None] * _f32([0.26, 0.38, 0.40])
    _paint_nails(colour, pixels, _f32(skin.nail))
    if skin.sleeve is not None:
        arm = pixels.kind == FOREARM
        colour[arm & (pixels.along < -_SLEEVE_FROM)] = _f32(skin.sleeve)
        seam = np.abs(pixels.along + _SLEEVE_FROM + 0.05) < 0.006
        colour[arm & seam] *= np.float32(0.6)
    return colour


def _hidden(surface: Surface, pixels: Pixels, direction: Array, scale: float) -> Array:
    """How much of the lamp other parts of the hand hide from each pixel: (n,), 0–1."""
    last = surface.height.shape[0] - 1
    hidden = np.zeros_like(pixels.height)
    for reach in _REACH:
        step = reach * scale * direction
        x = np.clip(pixels.cols + round(float(step[0])), 0, last)
        y = np.clip(pixels.rows + round(float(step[1])), 0, last)
        above = surface.height.take(y * (last + 1) + x) - pixels.height - step[2]
        np.maximum(hidden, np.clip(above / np.float32(0.05 * scale), 0, 1), out=hidden)
    return hidden


def _edge(surface: Surface, pixels: Pixels, scale: float) -> Array:
    """The line drawn where one part passes before another: (n,), 0–1."""
    height = surface.height
    around = height.copy()
    np.maximum(around[1:], height[:-1], out=around[1:])
    np.maximum(around[:-1], height[1:], out=around[:-1])
    np.maximum(around[:, 1:], height[:, :-1], out=around[:, 1:])
    np.maximum(around[:, :-1], height[:, 1:], out=around[:, :-1])
    step = around[pixels.rows, pixels.cols] - pixels.height
    return np.asarray(np.clip(step / np.float32(0.03 * scale) - 0.5, 0, 1))


def _lit(albedo: Array, pixels: Pixels, hidden: Array, deep: Array, light: Light) -> Array:
    """Diffuse light from the lamp and the room, and a little gloss: radiance (n, 3)."""
    direction, lamp = _f32(light.direction), _f32(light.lamp)
    wrap = _f32([0.42, 0.26, 0.22])  # red travels farther under the skin: the edge of shade is warm
    diffuse = np.clip(((pixels.normal @ direction)[:, None] + wrap) / (1 + wrap), 0, 1)
    diffuse *= (1 - 0.85 * hidden)[:, None] * lamp
    up, front = -pixels.normal[:, 1], pixels.normal[:, 2]
    room = (0.78 + 0.22 * up) * (0.55 + 0.45 * front) * (1 - 0.6 * deep)
    diffuse += room[:, None] * _f32(light.room)
    half = direction + _f32([0, 0, 1])
    gloss = np.clip(pixels.normal @ (half / np.linalg.norm(half)), 0, 1)
    gloss = np.square(np.square(np.square(np.square(gloss)))) * (1 - hidden)
    return np.asarray(albedo * diffuse + (0.05 * gloss)[:, None] * lamp)


def paint(
    flesh: Flesh, skin: Skin, light: Light, size: int, *, across: int | None = None
) -> tuple[Array, Array]:
    """Draw the hand: linear light (size, size, 3), nought beside it, and coverage (size, size), 0 or 1.

    `across` as for `raster.blurred`; None: the picture's own side.
    """
    across = size if across is None else across
    surface = draw(flesh.capsules, size, across)
    pixels = _pixels(surface, flesh)
    hidden = _hidden(surface, pixels, _f32(light.direction), flesh.scale)
    hollow = blurred(surface.height, across)[0][pixels.rows, pixels.cols] - pixels.height
    deep = np.clip(hollow / np.float32(0.10 * flesh.scale), 0, 1)
    radiance = _lit(_albedo(pixels, skin), pixels, hidden, deep, light)
    rim = 0.35 * (1 - pixels.normal[:, 2]) ** 3
    outline = np.maximum(0.55 * _edge(surface, pixels, flesh.scale), rim)
    radiance *= 1 - outline[:, None] * _f32([0.8, 1, 1])
    picture = np.zeros((size, size, 3), np.float32)
    picture[pixels.rows, pixels.cols] = radiance
    return picture, (surface.height > FAR / 2).astype(np.float32)
