"""Films of the drawn hand: it spells a text, or does what signs nothing, before a webcam.

The same spec gives the same film, byte for byte. A small square around the hand is drawn for each frame, and laid on
a room that is painted once; where the hand is fast, several moments of the exposure are drawn more coarsely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from horovod_asl.command_line.checks import require_range
from horovod_asl.synthetic import backgrounds
from horovod_asl.synthetic.flesh import flesh_out
from horovod_asl.synthetic.idle import idle
from horovod_asl.synthetic.motion import HandInFrame, Posture, Track, at_time, in_frame
from horovod_asl.synthetic.raster import Layer, mean_of_layers, through_lens
from horovod_asl.synthetic.render import Look, look_of
from horovod_asl.synthetic.skin import paint
from horovod_asl.synthetic.spelling import Signer, Spaces, spell

Array = NDArray[np.float64]
Light = NDArray[np.float32]
Frame = NDArray[np.uint8]

RECORDING = 1000
"""Films have the looks of this recording; those of the sample are the first few."""
RATES = (15, 20, 24, 25, 30)
_LEFT_HANDED = 0.1
_HAND_LENGTH = (0.23, 0.33)  # frame heights
_NOISES = 4
_SHARP_PX, _BLURRED_PX, _SMEARED_PX = 3.0, 9.0, 22.0
_MARGIN = 0.12  # of the square around a hand, hand lengths
_ARM = 0.6  # so much of the forearm is drawn; below, its last row is repeated


@dataclass(frozen=True)
class FilmSpec:
    """A film of a drawn hand that spells."""

    text: str
    """A to Z, spaces, and `spelling.DELETE` for the sign `del`."""
    seed: int = 0
    """Who signs and how, where, and by which camera."""
    letters_per_second: float = 2.0
    width: int = 640
    height: int = 480
    frames_per_second: int | None = None
    """None: drawn from `seed`, 15 to 30."""
    spaces: Spaces = "sign"
    """Between words the sign `space`, or a gap: the hand goes out of sight for more than a second."""
    variety: float = 1.0
    """How much signers differ in how they sign, see `signers`."""

    def __post_init__(self) -> None:
        require_range("letters_per_second", self.letters_per_second, 0.2, 6)


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    """`pixels` (H, W, 3) uint8 sRGB at `time_s`; `label`: the letter that is held then, None between letters."""

    time_s: float
    pixels: Frame
    label: str | None


@dataclass(frozen=True, eq=False)
class Film:
    """All of a film but its pixels: `track` says when each letter is held; `frame` draws one at a time."""

    track: Track
    size: tuple[int, int]
    """Width and height in pixels."""
    frames_per_second: int
    frames: int
    _camera: _Camera
    _rows: Array

    @property
    def left_handed(self) -> bool:
        """Which hand is drawn."""
        return self._camera.mirrored

    @property
    def hand_px(self) -> float:
        """From the wrist to the middle fingertip of an open hand."""
        return self._camera.hand_px

    def row(self, time_s: float) -> Array:
        """The hand at a time: see `motion.Posture.of_row`."""
        return at_time(self._rows, time_s)

    def joints(self, time_s: float) -> Array:
        """Where the hand's joints are: (21, 2) float64, fractions of the frame's width and height."""
        return self._camera.joints(self._rows, time_s)

    def frame(self, number: int) -> DrawnFrame:
        """Draw a frame, in any order."""
        time_s = number / self.frames_per_second
        pixels = self._camera.shoot(self._rows, time_s, number)
        return DrawnFrame(time_s, pixels, self.track.label_at(time_s))


def open_film(spec: FilmSpec) -> Film:
    """Plan a film. UserError for a text that cannot be spelled."""
    signer = _signer(spec.seed, spec.variety, spec.width / spec.height)
    rng = np.random.default_rng([spec.seed, RECORDING, 1])
    track = spell(
        spec.text, signer, letters_per_second=spec.letters_per_second, spaces=spec.spaces, rng=rng
    )
    return _film(track, signer, spec)


def film_frames(spec: FilmSpec) -> Iterator[DrawnFrame]:
    """Draw a film, frame by frame. UserError for a text that cannot be spelled."""
    film = open_film(spec)
    return (film.frame(number) for number in range(film.frames))


def open_idle_film(
    seed: int, seconds: float, *, width: int = 640, height: int = 480, frames_per_second: int | None = None
) -> Film:
    """Plan a film in which the hand signs nothing."""
    require_range("seconds", seconds, 1)
    spec = FilmSpec("", seed, width=width, height=height, frames_per_second=frames_per_second)
    signer = _signer(seed, spec.variety, width / height)
    track = idle(signer, seconds, np.random.default_rng([seed, RECORDING, 3]))
    return _film(track, signer, spec, seconds)


def idle_frames(seed: int, seconds: float) -> Iterator[DrawnFrame]:
    """Draw a film in which the hand signs nothing: no frame has a label."""
    film = open_idle_film(seed, seconds)
    return (film.frame(number) for number in range(film.frames))


def _signer(seed: int, variety: float, aspect: float) -> Signer:
    rng = np.random.default_rng([seed, RECORDING, 0])
    return Signer(
        seed=seed,
        recording=RECORDING,
        variety=variety,
        proportions=look_of(seed, RECORDING).proportions,
        hand_length=float(rng.uniform(*_HAND_LENGTH)),
        home=(aspect * float(rng.uniform(0.3, 0.6)), float(rng.uniform(0.42, 0.6))),
    )


def _film(track: Track, signer: Signer, spec: FilmSpec, seconds: float | None = None) -> Film:
    rng = np.random.default_rng([spec.seed, RECORDING, 2])
    drawn_rate = int(rng.choice(RATES))
    rate = spec.frames_per_second or drawn_rate
    camera = _Camera(look_of(spec.seed, RECORDING), signer, (spec.height, spec.width), rng)
    frames = int(np.ceil((seconds or track.end_s) * rate))
    return Film(track, (spec.width, spec.height), rate, frames, camera, track.rows())


class _Camera:
    """Draws the hand of one signer in one room."""

    def __init__(
        self, look: Look, signer: Signer, size: tuple[int, int], rng: np.random.Generator
    ) -> None:
        self._look, self._signer = look, signer
        self._height, self._width = size
        self.mirrored = np.random.default_rng([signer.seed, RECORDING, 4]).random() < _LEFT_HANDED
        self._exposure_s = float(rng.uniform(0.008, 0.03))
        self._gain = (rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
        self._noise = rng.uniform(0.8, 3.0) * rng.standard_normal((_NOISES, *size, 1), np.float32)
        side = max(size)
        room = backgrounds.paint_room(look.room, look.room_colours, look.room_seed, side)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        scene = backgrounds.crop_room(room, side, rng)
        self._scene = scene[top : top + size[0], left : left + size[1]]
        self._empty = [self._turned(self._develop(self._scene, noise)) for noise in self._noise]

    def shoot(self, rows: Array, time_s: float, number: int) -> Frame:
        """The frame of a time, with the noise of its number."""
        which = number * 7919 % 9973 % _NOISES
        frame = self._empty[which].copy()
        layers = [layer for layer in self._layers(rows, time_s) if layer is not None]
        if layers:
            box, hand = mean_of_layers(layers, (self._height, self._width))
            scene = self._scene[box] * (1 - hand[:, :, 3:]) + hand[:, :, :3]
            view = frame[:, ::-1] if self.mirrored else frame
            view[box] = self._develop(scene, self._noise[which][box])
        return frame

    @property
    def hand_px(self) -> float:
        """See `Film.hand_px`."""
        return self._signer.hand_length * self._height

    def joints(self, rows: Array, time_s: float) -> Array:
        """See `Film.joints`."""
        places = self._hand(rows, time_s).joints(self._signer.hand_length) * [self._height / self._width, 1]
        return np.asarray([1, 0] + places * [-1, 1]) if self.mirrored else places

    def _turned(self, frame: Frame) -> Frame:
        return np.ascontiguousarray(frame[:, ::-1]) if self.mirrored else frame

    def _develop(self, light: Light, noise: Light) -> Frame:
        exposed = np.sqrt(np.clip(light * self._gain, 0, 1)) * 255 + noise
        return np.asarray(np.clip(exposed, 0, 255), np.uint8)

    def _layers(self, rows: Array, time_s: float) -> list[Layer | None]:
        """The hand at the moments of the exposure."""
        first, last = (self._hand(rows, time_s + half * self._exposure_s) for half in (-0.5, 0.5))
        length = self._signer.hand_length
        moved = self._height * np.abs(first.joints(length) - last.joints(length)).max()
        if moved < _SHARP_PX:
            return [self._layer(self._hand(rows, time_s), coarse=1)]
        moments = 2 if moved < _BLURRED_PX else 3 if moved < _SMEARED_PX else 4
        times = time_s + self._exposure_s * (np.arange(moments) / (moments - 1) - 0.5)
        hands = [first, *(self._hand(rows, float(time)) for time in times[1:-1]), last]
        return [self._layer(hand, coarse=2) for hand in hands]

    def _hand(self, rows: Array, time_s: float) -> HandInFrame:
        posture = Posture.of_row(at_time(rows, time_s))
        return in_frame(posture, self._signer.proportions, self._signer.hand_length)

    def _layer(self, hand: HandInFrame, coarse: int) -> Layer | None:
        """The hand and its arm on a square of pixels of 1 or 2 each way, and below it; None: out of sight."""
        scale = self._signer.hand_length * self._height / coarse
        wrist = hand.wrist * self._height / coarse
        direction = hand.forearm / np.linalg.norm(hand.forearm)
        corner, side = _square(hand, wrist, direction, scale)
        if (corner + side < 0).any() or (corner * coarse >= [self._width, self._height]).any():
            return None
        flesh = flesh_out(hand.skeleton, direction, self._look.proportions, wrist - corner, scale)
        light, coverage = paint(flesh, self._look.skin, self._look.light, side, across=round(1.6 * scale))
        square = np.concatenate([light, coverage[:, :, None]], axis=2)
        below = max(self._height // coarse + 2 - int(corner[1]) - side, 0)
        image, added = _with_arm(square, -direction[0] / direction[1], below)
        if coarse > 1:
            image = image.repeat(coarse, axis=0).repeat(coarse, axis=1)
        return int(corner[1]) * coarse, (int(corner[0]) - added) * coarse, through_lens(image)


def _square(hand: HandInFrame, wrist: Array, direction: Array, scale: float) -> tuple[Array, int]:
    """The upper left corner (2,) and the side, in pixels, of a square that holds the hand and a part of its arm."""
    points = wrist + scale * hand.skeleton.joints[:, :2] * [1, -1] * 1.1
    arm = wrist + scale * _ARM * direction[:2] * [1, -1]
    wide = scale * 0.26
    low = np.minimum(points.min(0) - scale * _MARGIN, [arm[0] - wide, arm[1]])
    high = np.maximum(points.max(0) + scale * _MARGIN, [arm[0] + wide, arm[1]])
    side = 8 * int(np.ceil((high - low).max() / 8))
    corner = np.array([(low[0] + high[0] - side) / 2, high[1] - side])
    return np.round(corner), side


def _with_arm(square: Light, slope: float, rows: int) -> tuple[Light, int]:
    """The square with so many rows more, in which the arm goes on, and how many columns were added at its left.

    `slope`: how far to the right the arm goes from row to row.
    """
    side = len(square)
    left, right = (max(round(sign * slope * rows), 0) for sign in (-1, 1))
    whole = np.zeros((side + rows, left + side + right, 4), np.float32)
    whole[:side, left : left + side] = square
    columns = np.nonzero(square[-1, :, 3])[0]
    if len(columns):
        first, last = int(columns[0]), int(columns[-1]) + 1
        for row in range(rows):
            at = left + first + round(slope * (row + 1))
            whole[side + row, at : at + last - first] = square[-1, first:last]
    return whole, left
