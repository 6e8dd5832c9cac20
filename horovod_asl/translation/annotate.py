"""What was read, drawn onto the frames: the joints, the letter that is held, the reason why nothing is, the text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from horovod_asl.hands.skeleton import with_skeleton
from horovod_asl.live.speller import Held
from horovod_asl.live.translator import Translation
from horovod_asl.translation.film_text import PROBLEMS, FilmText, Step

Pixels = NDArray[np.uint8]

END_S = 1.5
"""For so long the last frame stays, with the whole text."""
_SHADE, _WHITE, _RING = (0, 0, 0, 160), (255, 255, 255, 255), (255, 210, 63, 255)
_MOST_SHOWN = 300  # characters of the text
_AROUND_HAND = 0.15  # of the hand's longer side


def annotated(film: FilmText, fps: int) -> tuple[tuple[int, int], Iterator[Pixels]] | None:
    """The width and height, and the frames, `fps` a second, of `film` with what was read of it.

    Reads the first frame at once, and the others as the frames are taken. None where there is no frame.
    """
    first = next(film, None)
    if first is None:
        return None
    height, width = (max(16, side - side % 2) for side in first.frame.pixels.shape[:2])
    return (width, height), at_rate(_drawn(film, chain([first], film), (width, height)), fps)


def at_rate(frames: Iterable[tuple[float, Pixels]], fps: int) -> Iterator[Pixels]:
    """Frames with their times → as many a second as `fps`: each is shown until the next one's time."""
    shown: Pixels | None = None
    number = 0
    for time_s, frame in frames:
        while shown is not None and number / fps < time_s:
            yield shown
            number += 1
        shown = frame
    if shown is not None:
        yield shown


def draw(pixels: Pixels, seen: Translation, text: str, size: tuple[int, int]) -> Pixels:
    """A frame uint8 (H, W, 3) with what was read of it, uint8 (height, width, 3) for `size` = (width, height)."""
    picture = Image.fromarray(pixels)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    if seen.joints is not None:
        _draw_hand(picture, seen.joints * np.asarray(size))
    _draw_words(picture, seen, text)
    return np.asarray(picture)


def _drawn(film: FilmText, steps: Iterable[Step], size: tuple[int, int]) -> Iterator[tuple[float, Pixels]]:
    step: Step | None = None
    for step in steps:
        yield step.frame.time_s, draw(step.frame.pixels, step.seen, step.seen.text, size)
    if step is not None:
        last = draw(step.frame.pixels, step.seen, film.text, size)
        yield from ((step.frame.time_s + wait_s, last) for wait_s in (0.05, END_S))


def _draw_hand(picture: Image.Image, points: NDArray[np.floating]) -> None:
    """Onto the part about the hand alone: the skeleton is drawn larger and then shrunk, which takes time."""
    low, high = points.min(0), points.max(0)
    longer = float((high - low).max())
    corner = np.floor(low - _AROUND_HAND * longer).clip(0).astype(int)
    end = np.minimum(np.ceil(high + _AROUND_HAND * longer), picture.size).astype(int)
    if (end - corner).min() < 4:
        return
    part = picture.crop((*corner, *end))
    picture.paste(with_skeleton(part, points - corner), (int(corner[0]), int(corner[1])))


def _draw_words(picture: Image.Image, seen: Translation, text: str) -> None:
    width, height = picture.size
    unit = max(height // 16, 8)
    bar = unit * 2
    pen = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(unit)
    pen.rectangle((0, height - bar, width, height), _SHADE)
    pen.text((unit, height - bar / 2), _tail(text, font, width - 2 * unit), _WHITE, font, anchor="lm")
    if seen.held is not None:
        _draw_held(pen, seen.held, unit)
    if seen.problem is not None:
        words = PROBLEMS.get(seen.problem, seen.problem)
        small = ImageFont.load_default(max(unit * 0.7, 8))
        place = (width - unit / 2, unit / 2)
        pen.rectangle(pen.textbbox(place, words, small, anchor="ra"), _SHADE)
        pen.text(place, words, _WHITE, small, anchor="ra")


def _draw_held(pen: ImageDraw.ImageDraw, held: Held, unit: int) -> None:
    """The letter in a ring that fills until the letter is taken, and its probability."""
    box = (unit / 2, unit / 2, unit * 4.5, unit * 4.5)
    middle = unit * 2.5
    pen.ellipse(box, _SHADE)
    pen.arc(box, -90, -90 + 360 * held.progress, _RING, max(unit // 4, 2))
    font = ImageFont.load_default(unit * (2 if len(held.label) == 1 else 1))
    pen.text((middle, middle - unit / 4), held.label, _WHITE, font, anchor="mm")
    small = ImageFont.load_default(max(unit * 0.6, 7))
    pen.text((middle, middle + unit * 1.2), f"{held.confidence:.0%}", _WHITE, small, anchor="mm")


def _tail(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The end of the text that fits."""
    text = text[-_MOST_SHOWN:]
    first = bisect_left(range(len(text)), -width, key=lambda start: -font.getlength(text[start:]))
    return text[first:]
