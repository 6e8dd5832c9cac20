"""The built-in sample: photos of a parametric hand in the 29 signs, drawn from a seed in seconds.

Like the public set it comes in recordings: one person's hand, one light and one room each, so that it is
split as real photos are. Within a recording rotation, scale, place and joint angles differ by the photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.labels import CLASS_INDEX, CLASSES, NUM_CLASSES
from horovod_asl.synthetic import backgrounds
from horovod_asl.synthetic.flesh import flesh_out
from horovod_asl.synthetic.pose import (
    POSES,
    Pose,
    Proportions,
    Skeleton,
    jittered,
    pose_skeleton,
    rotation_matrix,
)
from horovod_asl.synthetic.signers import pose_of
from horovod_asl.synthetic.skin import RGB, Light, Skin, paint

# What changes from photo to photo: joints, and yaw, pitch and roll of the whole hand.
_JOINT_SIGMA_DEG = 4.0
_VIEW_SIGMA_DEG = (10.0, 7.0, 8.0)
# Skin from light to deep, sRGB, back of the hand then palm, after the ten tones of Monk's scale (2023).
_TONES = np.array(
    [
        [[0.95, 0.80, 0.72], [0.97, 0.81, 0.74]],
        [[0.91, 0.74, 0.63], [0.94, 0.76, 0.67]],
        [[0.83, 0.63, 0.50], [0.88, 0.68, 0.57]],
        [[0.70, 0.49, 0.36], [0.80, 0.59, 0.47]],
        [[0.53, 0.35, 0.25], [0.70, 0.50, 0.40]],
        [[0.39, 0.25, 0.19], [0.60, 0.42, 0.34]],
        [[0.28, 0.19, 0.15], [0.52, 0.37, 0.30]],
    ]
)
# Two walls and two accents that go together, sRGB.
_PALETTES: tuple[tuple[RGB, ...], ...] = (
    ((0.87, 0.82, 0.74), (0.72, 0.66, 0.58), (0.45, 0.33, 0.25), (0.80, 0.52, 0.36)),  # plaster
    ((0.74, 0.79, 0.72), (0.52, 0.60, 0.54), (0.86, 0.80, 0.66), (0.32, 0.42, 0.40)),  # sage
    ((0.62, 0.70, 0.80), (0.36, 0.44, 0.58), (0.90, 0.78, 0.62), (0.80, 0.50, 0.42)),  # dusk
    ((0.85, 0.66, 0.54), (0.62, 0.42, 0.35), (0.95, 0.87, 0.75), (0.30, 0.42, 0.45)),  # terracotta
    ((0.32, 0.34, 0.38), (0.18, 0.19, 0.23), (0.95, 0.75, 0.45), (0.55, 0.70, 0.80)),  # charcoal
    ((0.88, 0.78, 0.52), (0.60, 0.52, 0.36), (0.28, 0.38, 0.46), (0.93, 0.90, 0.82)),  # mustard
    ((0.82, 0.74, 0.74), (0.58, 0.48, 0.52), (0.94, 0.88, 0.80), (0.40, 0.34, 0.45)),  # rose
    ((0.90, 0.93, 0.91), (0.66, 0.76, 0.74), (0.35, 0.52, 0.55), (0.92, 0.72, 0.50)),  # mint
)
_SLEEVES: tuple[RGB, ...] = (
    (0.16, 0.24, 0.38),
    (0.75, 0.33, 0.24),
    (0.24, 0.40, 0.36),
    (0.85, 0.82, 0.76),
    (0.82, 0.62, 0.25),
    (0.22, 0.22, 0.24),
)


@dataclass(frozen=True)
class Look:
    """What stays the same during one recording."""

    skin: Skin
    proportions: Proportions
    light: Light
    room: str
    room_colours: tuple[RGB, ...]
    room_seed: int
    hand_fraction: float
    """The hand's length as a fraction of the picture's side: how near the camera is."""


@dataclass(frozen=True)
class SampleSpec:
    """One photo to be drawn: picklable, and enough to draw it anywhere and in any order."""

    seed: int
    label: str
    recording: int
    index: int
    variety: float = 0.0
    """How much signers differ in how they sign, see `signers`; 0: in their looks alone."""

    @property
    def name(self) -> str:
        """Where the photo would lie in a folder of photos, without its suffix: `A/A_r2_0007`."""
        return f"{self.label}/{self.label}_r{self.recording}_{self.index:04d}"


def sample_specs(
    seed: int, recordings: int, photos_per_class_per_recording: int, variety: float = 0.0
) -> list[SampleSpec]:
    """Every photo of a sample, recording by recording, class by class."""
    return [
        SampleSpec(seed, label, recording, index, variety)
        for recording in range(recordings)
        for label in CLASSES
        for index in range(photos_per_class_per_recording)
    ]


def render_spec(spec: SampleSpec, image_size: int) -> NDArray[np.uint8]:
    """Draw one photo: (image_size, image_size, 3) uint8 sRGB, the same bytes for the same spec."""
    rng = np.random.default_rng([spec.seed, spec.recording, CLASS_INDEX[spec.label], spec.index])
    pose = pose_of(spec.label, rng, seed=spec.seed, recording=spec.recording, variety=spec.variety)
    return render(spec.label, look_of(spec.seed, spec.recording), rng, image_size, pose=pose)


def _rgb(values: NDArray[np.float64]) -> RGB:
    r, g, b = (float(v) for v in values)
    return r, g, b


def _skin(tone: float, rng: np.random.Generator) -> Skin:
    at = tone * (len(_TONES) - 1)
    low = min(int(at), len(_TONES) - 2)
    back, palm = (1 - at + low) * _TONES[low] + (at - low) * _TONES[low + 1]
    nail = 0.55 * palm + 0.45 * np.array([0.97, 0.80, 0.78])
    sleeve = _rgb(np.array(_SLEEVES[int(rng.integers(len(_SLEEVES)))]) ** 2) if rng.random() < 0.6 else None
    return Skin(_rgb(back**2), _rgb(palm**2), _rgb(nail**2), sleeve)


def _light(rng: np.random.Generator) -> Light:
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.2), rng.uniform(0.5, 1.0)])
    warmth = rng.uniform(-0.12, 0.12)
    lamp = rng.uniform(0.75, 1.1) * np.array([1 + warmth, 1.0, 1 - warmth])
    room = rng.uniform(0.3, 0.55) * np.array([1 - warmth, 1.0, 1 + warmth])
    return Light(_rgb(direction / np.linalg.norm(direction)), _rgb(lamp), _rgb(room))


def _shifted(palette: tuple[RGB, ...], rng: np.random.Generator) -> tuple[RGB, ...]:
    """The palette as another painter would mix it."""
    return tuple(_rgb(np.clip(np.array(colour) + rng.normal(0, 0.025, 3), 0, 1)) for colour in palette)


@lru_cache(maxsize=64)
def look_of(seed: int, recording: int) -> Look:
    """The look of one recording. Recordings in a row spread over the tones of skin and the kinds of room."""
    # No photo has the class NUM_CLASSES, so these streams are shared with none.
    rng = np.random.default_rng([seed, recording, NUM_CLASSES, 0])
    first = np.random.default_rng([seed, 0, NUM_CLASSES, 1])
    tone = (first.uniform() + 0.618034 * recording) % 1.0
    kinds, palettes = first.permutation(backgrounds.ROOMS), first.permutation(len(_PALETTES))
    length, width, thickness = rng.normal(1.0, [0.035, 0.04, 0.05])
    return Look(
        skin=_skin(tone, rng),
        proportions=Proportions(float(length), float(width), float(thickness)),
        light=_light(rng),
        room=str(kinds[recording % len(kinds)]),
        room_colours=_shifted(_PALETTES[palettes[recording % len(palettes)]], rng),
        room_seed=int(rng.integers(2**31)),
        hand_fraction=float(rng.uniform(0.56, 0.68)),
    )


@lru_cache(maxsize=16)
def _room(look: Look, size: int) -> Image.Image:
    return backgrounds.paint_room(look.room, look.room_colours, look.room_seed, size)


def posed(
    label: str, look: Look, rng: np.random.Generator, *, pose: Pose | None = None
) -> tuple[Skeleton, NDArray[np.float64]]:
    """One person's hand in one sign for one photo, in the camera's frame; the forearm's direction (3,).

    Args:
        pose: how that person signs; None: as everybody does.
    """
    pose = jittered(pose or POSES[label], rng, degrees=_JOINT_SIGMA_DEG)
    yaw, pitch, roll = pose.view + rng.normal(0.0, _VIEW_SIGMA_DEG)
    turn = rotation_matrix(0.0, 0.0, roll - pose.view[2])
    skeleton = pose_skeleton(pose, look.proportions).turned(rotation_matrix(yaw, pitch, roll))
    return skeleton, turn @ np.asarray(pose.forearm)


def placed(
    skeleton: Skeleton, look: Look, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """Where the wrist is drawn (x, y) on `size` pixels, and pixels per hand length, to have it in view."""
    scale = size * look.hand_fraction * rng.uniform(0.84, 1.14)
    flat = skeleton.joints[:, :2] * [1, -1] * scale
    middle = (flat.min(0) + flat.max(0)) / 2
    return size * (0.5 + rng.uniform(-0.1, 0.1, 2)) - middle, scale


def _develop(light: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, white balance, a camera's noise, and eight bits."""
    gain = (rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    exposed = np.sqrt(np.clip(light * gain, 0, 1)) * 255
    noise = rng.standard_normal(light.shape[:2], np.float32)[:, :, None] * np.float32(rng.uniform(0.5, 2.5))
    return np.asarray(np.clip(exposed + noise, 0, 255), np.uint8)


def _coarser(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Halve height and width by the mean of each 2 × 2 pixels."""
    return (fine[0::2, 0::2] + fine[1::2, 0::2] + fine[0::2, 1::2] + fine[1::2, 1::2]) * np.float32(0.25)


def _wall_shadow(coverage: NDArray[np.float32], light: Light) -> NDArray[np.float32]:
    """The share of the wall's light that is left, (H, W): the hand's shadow, far off and very soft."""
    size = coverage.shape[0]
    soft = Image.fromarray(coverage).resize((16, 16), Image.Resampling.BOX)
    x, y = (-0.09 * 16 * component for component in light.direction[:2])
    moved = soft.transform(
        (16, 16), Image.Transform.AFFINE, (1, 0, -x, 0, 1, -y), Image.Resampling.BILINEAR
    ).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(1 - np.float32(0.4) * np.clip(np.asarray(moved), 0, 1))


def render(
    label: str, look: Look, rng: np.random.Generator, image_size: int, *, pose: Pose | None = None
) -> NDArray[np.uint8]:
    """Draw one photo of `label`: (image_size, image_size, 3) uint8 sRGB; `pose` as for `posed`."""
    scene = backgrounds.crop_room(_room(look, 2 * image_size), image_size, rng)
    if label != "nothing":
        fine = 2 * image_size
        skeleton, forearm = posed(label, look, rng, pose=pose)
        wrist, scale = placed(skeleton, look, fine, rng)
        flesh = flesh_out(skeleton, forearm, look.proportions, wrist, scale)
        hand, coverage = paint(flesh, look.skin, look.light, fine)
        coverage = _coarser(coverage)
        scene = scene * ((1 - coverage) * _wall_shadow(coverage, look.light))[:, :, None] + _coarser(hand)
    return _develop(scene, rng)
