"""Answers to single photos as pictures: the photo, where the network looked, the landmarks; and confused pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from horovod_asl.hands.skeleton import with_skeleton

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """A photo, what was said of it, and what explains that.

    Attributes:
        photo: the whole photo, uint8 (S, S, 3).
        shown, said: the names of its class and of the answer.
        confidence: the answer's probability.
        name: what the photo is called where it came from.
        seen: the pixels that the network saw, uint8 (s, s, 3), where they were not those of `photo`.
        heat: where it looked in them, float (h, w) in [0, 1] (see `gradcam`); None for a network without pixels.
        landmarks: of the hand, float (21, 2 or more) as shares of the photo's side; None where no hand is known.
    """

    photo: Pixels
    shown: str
    said: str
    confidence: float
    name: str = ""
    seen: Pixels | None = None
    heat: NDArray[np.float32] | None = None
    landmarks: NDArray[np.float32] | None = None

    @property
    def is_right(self) -> bool:
        """Whether the answer is the class."""
        return self.shown == self.said


@dataclass(frozen=True)
class ConfusedPair:
    """A class of which `count` of `total` photos are read as another, with examples, and photos of that other.

    `other` were correctly classified, if any were.
    """

    shown: str
    said: str
    count: int
    total: int
    misread: Sequence[Example]
    other: Sequence[Example]


Panel = Callable[[Example], Image.Image]

_PANEL, _GAP, _TILE_GAP, _MARGIN = 176, 3, 28, 24
_PANELS_ACROSS, _EACH_SIDE = 6, 3
_CAPTION, _HEADER = 50, 40
_PAPER, _INK, _QUIET, _EMPTY = "#fbfaf7", "#26231f", "#7d776d", "#efece5"
_RIGHT, _WRONG = "#2f6db3", "#b3423a"
_HEAT_STOPS = (0.0, 0.35, 0.65, 1.0)
_HEAT_COLOURS = ((40, 20, 110), (190, 40, 120), (250, 130, 50), (255, 230, 90))


def overlay(picture: Pixels, heat: NDArray[np.float32]) -> Image.Image:
    """The picture uint8 (S, S, 3), grey, under its heat float (h, w): cold places stay grey, warm ones glow."""
    size = (picture.shape[1], picture.shape[0])
    warmth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    warmth = np.clip(warmth, 0, 1)[..., None]
    channels = np.array(_HEAT_COLOURS, float).T
    colour = np.concatenate([np.interp(warmth, _HEAT_STOPS, channel) for channel in channels], -1)
    grey = np.asarray(Image.fromarray(picture).convert("L"), float)[..., None]
    lit = colour * (0.55 + 0.45 * grey / 255)  # what is under it can still be seen
    cover = 0.9 * warmth**0.8
    return Image.fromarray((grey * (1 - cover) + lit * cover).round().astype(np.uint8))


def examples_sheet(examples: Sequence[Example], title: str) -> Image.Image:
    """A page of tiles, six panels across: of each example the photo, then where the network looked, then the hand."""
    panels = panels_of(examples)
    across = _PANELS_ACROSS // len(panels)
    tile = _tile_width(len(panels))
    rows = -(-len(examples) // across)
    sheet, draw = _sheet(
        across * (tile + _TILE_GAP) - _TILE_GAP, _HEADER + rows * (_PANEL + _CAPTION) + 20, title
    )
    for index, name in enumerate(panels):
        for column in range(min(across, len(examples))):
            left = _MARGIN + column * (tile + _TILE_GAP) + index * (_PANEL + _GAP)
            draw.text((left, _MARGIN + _HEADER + 8), name, _QUIET, _font(13), anchor="lm")
    for place, example in enumerate(examples):
        left = _MARGIN + place % across * (tile + _TILE_GAP)
        top = _MARGIN + _HEADER + 20 + place // across * (_PANEL + _CAPTION)
        for index, panel in enumerate(panels.values()):
            sheet.paste(panel(example), (left + index * (_PANEL + _GAP), top))
        _write_caption(draw, example, (left, top + _PANEL), tile)
    return sheet


def pairs_sheet(pairs: Sequence[ConfusedPair], title: str) -> Image.Image:
    """A row per pair: on the left photos that were misread, on the right photos of what they were taken for."""
    has_heat = any(example.heat is not None for pair in pairs for example in (*pair.misread, *pair.other))
    panels = [_photo_panel, *([_heat_panel] if has_heat else [])]
    side = _tile_width(_EACH_SIDE)
    row = _HEADER + len(panels) * (_PANEL + _GAP) + 28
    sheet, draw = _sheet(2 * side + _TILE_GAP, _HEADER + len(pairs) * row, title)
    for place, pair in enumerate(pairs):
        top = _MARGIN + _HEADER + place * row
        texts = (
            f"{pair.shown} read as {pair.said}: {pair.count:,} of {pair.total:,} photos",
            words_for_other(pair),
        )
        for index, (text, examples) in enumerate(zip(texts, (pair.misread, pair.other), strict=True)):
            left = _MARGIN + index * (side + _TILE_GAP)
            draw.text((left, top + _HEADER - 14), text, (_WRONG, _RIGHT)[index], _font(17), anchor="lm")
            for column, example in enumerate(examples[:_EACH_SIDE]):
                for line, panel in enumerate(panels):
                    at = (left + column * (_PANEL + _GAP), top + _HEADER + line * (_PANEL + _GAP))
                    sheet.paste(panel(example), at)
                below = (at[0], at[1] + _PANEL + 12)
                said = "" if example.said == pair.said else f"read as {example.said}, "
                draw.text(below, said + _percent(example.confidence), _QUIET, _font(13), anchor="lm")
    return sheet


def strip(example: Example, panels: Sequence[Panel]) -> Image.Image:
    """The panels of one example side by side."""
    return _beside([[panel(example) for panel in panels]])


def side_of_pair(examples: Sequence[Example]) -> Image.Image:
    """The first of a pair's examples side by side, each above where the network looked in it."""
    shown = examples[:_EACH_SIDE]
    panels = [_photo_panel, *([_heat_panel] if any(one.heat is not None for one in shown) else [])]
    return _beside([[panel(one) for one in shown] for panel in panels])


def _beside(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    step = _PANEL + _GAP
    joined = Image.new("RGB", (len(rows[0]) * step - _GAP, len(rows) * step - _GAP), _PAPER)
    for line, row in enumerate(rows):
        for column, panel in enumerate(row):
            joined.paste(panel, (column * step, line * step))
    return joined


def words_for_other(pair: ConfusedPair) -> str:
    """What the photos of the other class are."""
    if not pair.other:
        return f"no photo of {pair.said}"
    is_correct = any(example.is_right for example in pair.other)
    return f"{pair.said} correctly classified" if is_correct else f"{pair.said}, never correctly classified"


def panels_of(examples: Sequence[Example]) -> dict[str, Panel]:
    """The panels that some of these examples fill, by the words above them."""
    panels: dict[str, Panel] = {"photo": _photo_panel}
    if any(example.heat is not None for example in examples):
        panels["where it looked (Grad-CAM)"] = _heat_panel
    if any(example.landmarks is not None for example in examples):
        panels["landmarks of the hand"] = _landmarks_panel
    return panels


def _photo_panel(example: Example) -> Image.Image:
    return _square(example.photo)


def _heat_panel(example: Example) -> Image.Image:
    if example.heat is None:
        return _empty("no pixels read")
    picture = example.photo if example.seen is None else example.seen
    return overlay(np.asarray(_square(picture)), example.heat)


def _landmarks_panel(example: Example) -> Image.Image:
    """The part of the photo about the hand, with its bones."""
    if example.landmarks is None:
        return _empty("no hand found")
    points = np.asarray(example.landmarks, float)[:, :2]
    left, top, side = window_around(points)
    whole = len(example.photo)
    box = (left * whole, top * whole, (left + side) * whole, (top + side) * whole)
    part = Image.fromarray(example.photo).resize((_PANEL, _PANEL), Image.Resampling.LANCZOS, box=box)
    return with_skeleton(part, (points - [left, top]) / side * _PANEL)


def window_around(points: NDArray[np.floating], margin: float = 1.35) -> tuple[float, float, float]:
    """Left, top and side of a square within the photo that holds points float (n, 2), all as shares of its side."""
    low, high = points.min(0), points.max(0)
    side = float(np.clip((high - low).max() * margin, 0.1, 1.0))
    left, top = np.clip((low + high) / 2 - side / 2, 0.0, 1.0 - side)
    return float(left), float(top), side


def _square(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).resize((_PANEL, _PANEL), Image.Resampling.LANCZOS)


def _empty(text: str) -> Image.Image:
    panel = Image.new("RGB", (_PANEL, _PANEL), _EMPTY)
    ImageDraw.Draw(panel).text((_PANEL / 2, _PANEL / 2), text, _QUIET, _font(15), anchor="mm")
    return panel


def _sheet(width: int, height: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN + 10), title, _INK, _font(24), anchor="lm")
    return sheet, draw


def _write_caption(draw: ImageDraw.ImageDraw, example: Example, corner: tuple[int, int], width: int) -> None:
    left, top = corner
    said = example.shown if example.is_right else f"{example.shown} read as {example.said}"
    colour = _RIGHT if example.is_right else _WRONG
    draw.text((left, top + 14), said, colour, _font(18), anchor="lm")
    after = left + draw.textlength(said, _font(18)) + 10
    sure = _percent(example.confidence)
    draw.text((after, top + 15), sure, _INK, _font(15), anchor="lm")
    after += draw.textlength(sure, _font(15)) + 14
    name = _shortened(draw, example.name, left + width - after)
    draw.text((left + width, top + 15), name, _QUIET, _font(12), anchor="rm")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} % sure"


def _shortened(draw: ImageDraw.ImageDraw, text: str, room: float) -> str:
    """The text with its middle left out where there is no room: a path's ends tell most."""
    kept = len(text)
    short = text
    while kept > 1 and draw.textlength(short, _font(12)) > room:
        kept -= 1
        short = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return short if kept > 1 else ""


def _tile_width(panels: int) -> int:
    return panels * (_PANEL + _GAP) - _GAP


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
