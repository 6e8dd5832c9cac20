"""One picture that shows a store: a row per class, columns from every recording, coloured by split.

In a store with hands each photo stands beside the crop around its hand, with the landmarks over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from horovod_asl.hands.record import Pixels, Record, points_in_crop
from horovod_asl.hands.skeleton import FINGER_COLOURS, with_skeleton
from horovod_asl.store.store import Store

MAX_COLUMNS = 100
"""A sheet of 100 columns is 8,500 pixels wide, with hands 20,000."""
SPLIT_COLOURS = {"train": "#2f6db3", "validation": "#c98a1b", "test": "#b3423a"}

_GAP, _MARGIN = 4, 24
_LABEL_WIDTH, _HEAD_HEIGHT, _GROUP_GAP = 84, 52, 14
_PAPER, _INK, _FAINT, _QUIET, _EMPTY = "#fbfaf7", "#26231f", "#e6e3dc", "#7d776d", "#efece5"


@dataclass(frozen=True)
class Column:
    """One column: the photos of a recording at a fraction (0–1) of each class's way through it."""

    source: str
    recording: str
    split: str
    position: float


@dataclass(frozen=True)
class Grid:
    """Sizes of a sheet in pixels, and how many columns it has if nobody says."""

    cell: int
    panels: int
    title_height: int
    columns: int

    @property
    def width(self) -> int:
        """Of a column: the photo, and the crop beside it if there is one."""
        return self.panels * (self.cell + _PAIR_GAP) - _PAIR_GAP


_PAIR_GAP, _THICKNESS = 2, 1.4
_PHOTOS = Grid(cell=80, panels=1, title_height=56, columns=12)
_PHOTOS_AND_CROPS = Grid(cell=96, panels=2, title_height=84, columns=8)


def contact_sheet(store: Store, *, columns: int | None = None) -> Image.Image:
    """An RGB picture of about `columns` columns (None: 12, with hands 8) and a row for each class; classes without a
    photo leave a gap."""
    grid = _PHOTOS if store.hand_settings is None else _PHOTOS_AND_CROPS
    chosen = choose_columns(store, grid.columns if columns is None else columns)
    lefts = _column_lefts(chosen, grid)
    first_top = grid.title_height + _HEAD_HEIGHT
    height = first_top + len(store.classes) * (grid.cell + _GAP) + _MARGIN
    sheet = Image.new("RGB", (max(lefts[-1] + grid.width + _MARGIN, 560), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, store)
    _draw_heads(draw, chosen, lefts, grid)
    for label, name in enumerate(store.classes):
        top = first_top + label * (grid.cell + _GAP)
        draw.text((_MARGIN, top + grid.cell // 2), name, _INK, _font(20), anchor="lm")
        for column, left in zip(chosen, lefts, strict=True):
            for place, panel in enumerate(_panels(store, grid, _row_of(store, label, column))):
                sheet.paste(panel, (left + place * (grid.cell + _PAIR_GAP), top))
    return sheet


def choose_columns(store: Store, count: int) -> list[Column]:
    """About `count` columns, as many from each recording; if there are more recordings, evenly spaced
    ones."""
    keys = sorted(set(zip(store.sources, store.recordings, strict=True)))
    if len(keys) > count:
        keys = [keys[i] for i in np.linspace(0, len(keys) - 1, count).round().astype(int)]
    per_recording = max(1, count // max(1, len(keys)))
    columns = []
    for source, recording in keys:
        split = _main_split(store.splits[(store.sources == source) & (store.recordings == recording)])
        columns += [Column(source, recording, split, (i + 0.5) / per_recording) for i in range(per_recording)]
    return columns


def _main_split(splits: NDArray[np.object_]) -> str:
    names, counts = np.unique(splits.astype(str), return_counts=True)
    return str(names[counts.argmax()])


def _row_of(store: Store, label: int, column: Column) -> int | None:
    inside = (store.sources == column.source) & (store.recordings == column.recording) & ~store.copies
    rows = np.flatnonzero(inside & (store.labels == label))
    return int(rows[int(column.position * len(rows))]) if len(rows) else None


def _column_lefts(columns: list[Column], grid: Grid) -> list[int]:
    """The x of each column; a wider gap where a recording begins."""
    lefts, x = [], _MARGIN + _LABEL_WIDTH
    for before, column in zip([None, *columns], columns, strict=False):
        if before is not None:
            is_same = (before.source, before.recording) == (column.source, column.recording)
            x += grid.width + (_GAP if is_same else _GROUP_GAP)
        lefts.append(x)
    return lefts


def _draw_title(draw: ImageDraw.ImageDraw, store: Store) -> None:
    draw.text((_MARGIN, 30), store.path.resolve().name, _INK, _font(24), anchor="lm")
    after = _MARGIN + draw.textlength(store.path.resolve().name, _font(24)) + 16
    facts = f"{len(store.rows('all')):,} photos, {store.image_size} px"
    draw.text((after, 32), facts, _INK, _font(15), anchor="lm")
    after += draw.textlength(facts, _font(15)) + 24
    for split, colour in SPLIT_COLOURS.items():
        text = f"{split} {len(store.rows(split)):,}"
        draw.rectangle((after, 26, after + 12, 38), colour)
        draw.text((after + 18, 32), text, _INK, _font(15), anchor="lm")
        after += draw.textlength(text, _font(15)) + 40
    if store.hand_settings is not None:
        _draw_legend(draw, store)


def _draw_legend(draw: ImageDraw.ImageDraw, store: Store) -> None:
    """In how many photos a hand was found, and the colours of its fingers."""
    found = int(store.hands["found"][~store.copies].sum())
    text = f"a hand in {found:,} photos; each beside its crop, with the landmarks:"
    draw.text((_MARGIN, 62), text, _QUIET, _font(14), anchor="lm")
    after = _MARGIN + draw.textlength(text, _font(14)) + 12
    for finger, colour in FINGER_COLOURS.items():
        draw.ellipse((after, 57, after + 10, 67), colour)
        draw.text((after + 15, 62), finger, _QUIET, _font(14), anchor="lm")
        after += 15 + draw.textlength(finger, _font(14)) + 14


def _draw_heads(draw: ImageDraw.ImageDraw, columns: list[Column], lefts: list[int], grid: Grid) -> None:
    """Above the columns of each recording: its source, its name, and a bar in the colour of its split."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for column, left in zip(columns, lefts, strict=True):
        groups.setdefault((column.source, column.recording, column.split), []).append(left)
    for (source, recording, split), xs in groups.items():
        right = xs[-1] + grid.width
        room, top = right - xs[0], grid.title_height
        draw.text((xs[0], top + 4), _shortened(draw, source, room, 13), _INK, _font(13))
        draw.text((xs[0], top + 21), _shortened(draw, recording, room, 15), _INK, _font(15))
        draw.rectangle((xs[0], top + 42, right - 1, top + 46), SPLIT_COLOURS[split])


def _panels(store: Store, grid: Grid, row: int | None) -> list[Image.Image]:
    """What stands in a column: the photo, and in a store with hands the crop; frames where there is no photo."""
    if row is None:
        frame = Image.new("RGB", (grid.cell, grid.cell), _PAPER)
        ImageDraw.Draw(frame).rectangle((0, 0, grid.cell - 1, grid.cell - 1), outline=_FAINT)
        return [frame] * grid.panels
    photo = _square(store.gather(np.array([row]))[0], grid.cell)
    if store.hand_settings is None:
        return [photo]
    return [photo, _hand_panel(store.gather_crops(np.array([row]))[0], store.hands[row], grid.cell)]


def _hand_panel(crop: Pixels, hand: Record, cell: int) -> Image.Image:
    """The crop with the bones of its hand; a word where no hand was found."""
    if hand["found"]:
        return with_skeleton(_square(crop, cell), points_in_crop(hand, cell), thickness=_THICKNESS)
    if not hand["doubtful"]:
        panel = Image.new("RGB", (cell, cell), _EMPTY)
        ImageDraw.Draw(panel).text((cell / 2, cell / 2), "no hand", _QUIET, _font(14), anchor="mm")
        return panel
    panel = with_skeleton(_square(crop, cell), points_in_crop(hand, cell), thickness=_THICKNESS)
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, cell - 17, cell, cell), _EMPTY)
    draw.text((cell / 2, cell - 9), "unconfirmed", _INK, _font(13), anchor="mm")
    return panel


def _square(pixels: Pixels, side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)


def _shortened(draw: ImageDraw.ImageDraw, text: str, room: int, size: int) -> str:
    short = text
    while len(short) > 1 and draw.textlength(short, _font(size)) > room:
        short = short.rstrip("…")[:-1] + "…"
    return short


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
