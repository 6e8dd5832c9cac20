"""One picture that shows a store: a row per class, columns from every recording, coloured by split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from horovod_asl.data.store import Store

MAX_COLUMNS = 100
"""A sheet of 100 columns is 8,500 pixels wide."""
SPLIT_COLOURS = {"train": "#2f6db3", "validation": "#c98a1b", "test": "#b3423a"}

_CELL, _GAP, _MARGIN = 80, 4, 24
_LABEL_WIDTH, _TITLE_HEIGHT, _HEAD_HEIGHT, _GROUP_GAP = 84, 56, 52, 14
_PAPER, _INK, _FAINT = "#fbfaf7", "#26231f", "#e6e3dc"


@dataclass(frozen=True)
class Column:
    """One column: the photos of a recording at a share (0–1) of each class's way through it."""

    source: str
    recording: str
    split: str
    position: float


def contact_sheet(store: Store, *, columns: int = 12) -> Image.Image:
    """An RGB picture of about `columns` columns and a row for each class; classes without a photo leave a
    gap."""
    chosen = choose_columns(store, columns)
    lefts = _column_lefts(chosen)
    width = lefts[-1] + _CELL + _MARGIN
    height = _TITLE_HEIGHT + _HEAD_HEIGHT + len(store.classes) * (_CELL + _GAP) + _MARGIN
    sheet = Image.new("RGB", (max(width, 560), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, store)
    _draw_heads(draw, chosen, lefts)
    for label, name in enumerate(store.classes):
        top = _TITLE_HEIGHT + _HEAD_HEIGHT + label * (_CELL + _GAP)
        draw.text((_MARGIN, top + _CELL // 2), name, _INK, _font(20), anchor="lm")
        for column, left in zip(chosen, lefts, strict=True):
            _draw_cell(sheet, draw, store, label, column, (left, top))
    return sheet


def choose_columns(store: Store, count: int) -> list[Column]:
    """About `count` columns, as many from each recording; if there are more recordings, evenly spaced
    ones."""
    keys = sorted(set(zip(store.sources, store.recordings, strict=True)))
    if len(keys) > count:
        keys = [keys[i] for i in np.linspace(0, len(keys) - 1, count).round().astype(int)]
    each = max(1, count // max(1, len(keys)))
    columns = []
    for source, recording in keys:
        split = _main_split(store.splits[(store.sources == source) & (store.recordings == recording)])
        columns += [Column(source, recording, split, (i + 0.5) / each) for i in range(each)]
    return columns


def _main_split(splits: NDArray[np.object_]) -> str:
    names, counts = np.unique(splits.astype(str), return_counts=True)
    return str(names[counts.argmax()])


def _photo_of(store: Store, label: int, column: Column) -> NDArray[np.uint8] | None:
    inside = (store.sources == column.source) & (store.recordings == column.recording) & ~store.copies
    rows = np.flatnonzero(inside & (store.labels == label))
    if not len(rows):
        return None
    picture: NDArray[np.uint8] = store.gather(rows[[int(column.position * len(rows))]])[0]
    return picture


def _column_lefts(columns: list[Column]) -> list[int]:
    """The x of each column; a wider gap where a recording begins."""
    lefts, x = [], _MARGIN + _LABEL_WIDTH
    for before, column in zip([None, *columns], columns, strict=False):
        if before is not None:
            is_same = (before.source, before.recording) == (column.source, column.recording)
            x += _CELL + (_GAP if is_same else _GROUP_GAP)
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


def _draw_heads(draw: ImageDraw.ImageDraw, columns: list[Column], lefts: list[int]) -> None:
    """Above the columns of each recording: its source, its name, and a bar in the colour of its split."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for column, left in zip(columns, lefts, strict=True):
        groups.setdefault((column.source, column.recording, column.split), []).append(left)
    for (source, recording, split), xs in groups.items():
        right = xs[-1] + _CELL
        room = right - xs[0]
        draw.text((xs[0], _TITLE_HEIGHT + 4), _shortened(draw, source, room, 13), _INK, _font(13))
        draw.text((xs[0], _TITLE_HEIGHT + 21), _shortened(draw, recording, room, 15), _INK, _font(15))
        draw.rectangle((xs[0], _TITLE_HEIGHT + 42, right - 1, _TITLE_HEIGHT + 46), SPLIT_COLOURS[split])


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    store: Store,
    label: int,
    column: Column,
    corner: tuple[int, int],
) -> None:
    pixels = _photo_of(store, label, column)
    if pixels is None:
        draw.rectangle((*corner, corner[0] + _CELL - 1, corner[1] + _CELL - 1), outline=_FAINT)
    else:
        sheet.paste(Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS), corner)


def _shortened(draw: ImageDraw.ImageDraw, text: str, room: int, size: int) -> str:
    short = text
    while len(short) > 1 and draw.textlength(short, _font(size)) > room:
        short = short.rstrip("…")[:-1] + "…"
    return short


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
