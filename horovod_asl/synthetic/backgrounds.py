"""Rooms to stand in front of: six kinds of blurred background, painted once and cropped for each photo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

RGB = tuple[float, float, float]
Canvas = Image.Image


def _byte(colour: RGB, gain: float = 1.0) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(channel * gain, 0, 1) * 255) for channel in colour)
    return r, g, b


def _gradient(size: int, top: RGB, bottom: RGB) -> Canvas:
    ramp = Image.fromarray(np.array([[_byte(top)], [_byte(bottom)]], np.uint8))
    return ramp.resize((size, size), Image.Resampling.BILINEAR)


def _corner(canvas: Canvas, colours: tuple[RGB, ...], rng: np.random.Generator) -> None:
    """Two walls and a ceiling meet, with a beam along the edge."""
    n, pen = canvas.width, ImageDraw.Draw(canvas)
    x, y = n * rng.uniform(0.35, 0.75), n * rng.uniform(0.2, 0.35)
    pen.polygon([(0, y * 0.6), (x, y), (x, n), (0, n)], _byte(colours[0], 0.92))
    pen.polygon([(x, y), (n, y * 0.4), (n, n), (x, n)], _byte(colours[0], 0.72))
    pen.polygon([(0, 0), (n, 0), (n, y * 0.4), (x, y), (0, y * 0.6)], _byte(colours[1], 0.8))
    pen.line([(0, y * 0.6), (x, y), (n, y * 0.4)], _byte(colours[2], 0.7), width=n // 28)


def _window(canvas: Canvas, colours: tuple[RGB, ...], rng: np.random.Generator) -> None:
    """A bright window with bars, between curtains."""
    n, pen = canvas.width, ImageDraw.Draw(canvas)
    x, y, w, h = n * rng.uniform(0.1, 0.4), n * rng.uniform(0.05, 0.2), n * 0.42, n * 0.5
    pen.rectangle((x - n / 40, y - n / 40, x + w + n / 40, y + h + n / 40), _byte((0.95, 0.94, 0.9)))
    pen.rectangle((x, y, x + w, y + h), _byte((0.72, 0.86, 0.97)))
    pen.rectangle((x, y + h * 0.62, x + w, y + h), _byte((0.55, 0.7, 0.5)))
    pen.line((x + w / 2, y, x + w / 2, y + h), _byte((0.95, 0.94, 0.9)), width=n // 50)
    pen.line((x, y + h * 0.45, x + w, y + h * 0.45), _byte((0.95, 0.94, 0.9)), width=n // 50)
    for left in (x - n * 0.14, x + w - n * 0.02):
        for fold in range(6):
            at = left + fold * n * 0.027
            pen.rectangle(
                (at, y - n / 20, at + n * 0.027, y + h + n / 6), _byte(colours[2], 0.75 + 0.25 * (fold % 2))
            )


def _shelves(canvas: Canvas, colours: tuple[RGB, ...], rng: np.random.Generator) -> None:
    """Rows of books."""
    n, pen = canvas.width, ImageDraw.Draw(canvas)
    for row in range(4):
        floor, x = n * (0.24 + 0.25 * row), 0.0
        while x < n:
            wide, tall = n * rng.uniform(0.015, 0.045), n * rng.uniform(0.12, 0.2)
            if rng.random() < 0.85:
                colour = colours[int(rng.integers(len(colours)))]
                pen.rectangle((x, floor - tall, x + wide, floor), _byte(colour, rng.uniform(0.65, 1.0)))
            x += wide
        pen.rectangle((0, floor, n, floor + n / 50), _byte(colours[1], 0.5))


def _lights(canvas: Canvas, colours: tuple[RGB, ...], rng: np.random.Generator) -> None:
    """Discs of far-off lamps in a dim room."""
    canvas.paste(canvas.point(lambda value: value * 0.65))
    pen = ImageDraw.Draw(canvas, "RGBA")
    for _ in range(26):
        x, y = rng.uniform(0, canvas.width, 2)
        r = canvas.width * rng.uniform(0.02, 0.07)
        colour = _byte(colours[int(rng.integers(len(colours)))], rng.uniform(0.9, 1.3))
        pen.ellipse((x - r, y - r, x + r, y + r), (*colour, int(rng.integers(40, 110))))


def _frames(canvas: Canvas, colours: tuple[RGB, ...], rng: np.random.Generator) -> None:
    """A papered wall with pictures, a rail and a lower panel."""
    n, pen = canvas.width, ImageDraw.Draw(canvas)
    for stripe in range(0, n, max(n // 16, 2)):
        pen.rectangle((stripe, 0, stripe + n // 32, n), _byte(colours[0], 0.95))
    for _ in range(5):
        x, y = rng.uniform(0, 0.85 * n, 2)
        w, h = rng.uniform(0.1, 0.24, 2) * n
        pen.rectangle((x, y, x + w, y + h), _byte(colours[1], 0.45))
        inset = n / 60
        pen.rectangle((x + inset, y + inset, x + w - inset, y + h - inset), _byte(colours[2]))
        pen.ellipse((x + w * 0.3, y + h * 0.3, x + w * 0.75, y + h * 0.8), _byte(colours[1], 1.1))
    pen.rectangle((0, 0.8 * n, n, n), _byte(colours[1], 0.6))


def _blobs(canvas: Canvas, colours: tuple[RGB, ...], rng: np.random.Generator) -> None:
    """A studio's backdrop: large soft shapes."""
    n, pen = canvas.width, ImageDraw.Draw(canvas)
    for _ in range(9):
        x, y = rng.uniform(0, n, 2)
        rx, ry = rng.uniform(0.08, 0.3, 2) * n
        pen.ellipse(
            (x - rx, y - ry, x + rx, y + ry), _byte(colours[int(rng.integers(3))], rng.uniform(0.75, 1.1))
        )


_PAINTERS: dict[str, tuple[Callable[[Canvas, tuple[RGB, ...], np.random.Generator], None], float]] = {
    "corner": (_corner, 0.008),
    "window": (_window, 0.014),
    "shelves": (_shelves, 0.024),
    "lights": (_lights, 0.006),
    "frames": (_frames, 0.012),
    "blobs": (_blobs, 0.05),
}
ROOMS: tuple[str, ...] = tuple(_PAINTERS)


def paint_room(kind: str, colours: tuple[RGB, ...], seed: int, size: int) -> Image.Image:
    """The whole room, `size` × `size` sRGB; the same arguments give the same picture."""
    rng = np.random.default_rng(seed)
    painter, blur = _PAINTERS[kind]
    canvas = _gradient(size, colours[0], colours[1])
    painter(canvas, colours, rng)
    return canvas.filter(ImageFilter.GaussianBlur(blur * size))


def crop_room(room: Image.Image, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random part of the room in dappled light, perhaps mirrored: (size, size, 3) float32, linear light."""
    side = room.width * rng.uniform(0.45, 0.85)
    x, y = rng.uniform(0, room.width - side, 2)
    view = np.asarray(room.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side)))
    view = view[:, :: int(rng.choice((-1, 1)))]
    patches = Image.fromarray(rng.uniform(0.6, 1.2, (4, 4)).astype(np.float32))
    shine = np.asarray(patches.resize((size, size), Image.Resampling.BICUBIC))
    return np.asarray(np.square(view * np.float32(1 / 255)) * shine[:, :, None])
