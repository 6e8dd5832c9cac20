"""The bones of a hand drawn over its picture: for the contact sheet of a store and the report of an evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_FINER = 3  # lines are drawn so much larger and then shrunk: Pillow's own are jagged
_USUAL_PX = 176  # the side of a picture whose lines are two pixels wide

_THUMB, _INDEX, _MIDDLE, _RING, _LITTLE = ((0, *range(first, first + 4)) for first in (1, 5, 9, 13, 17))
_PALM_COLOUR = "#e8e4da"
FINGER_COLOURS = {
    "thumb": "#ff7a45",
    "index": "#ffd23f",
    "middle": "#3ecf8e",
    "ring": "#4aa3ff",
    "little": "#c678dd",
}
_CHAINS = (
    ((5, 9, 13, 17), _PALM_COLOUR),
    ((0, 9), _PALM_COLOUR),
    ((0, 13), _PALM_COLOUR),
    (_LITTLE, FINGER_COLOURS["little"]),
    (_RING[1:], FINGER_COLOURS["ring"]),
    (_MIDDLE[1:], FINGER_COLOURS["middle"]),
    (_INDEX, FINGER_COLOURS["index"]),
    (_THUMB, FINGER_COLOURS["thumb"]),
)
"""Joints that a line goes through, and its colour: the palm, then a colour per finger."""


def with_skeleton(
    picture: Image.Image, points: NDArray[np.floating], *, thickness: float = 1.0
) -> Image.Image:
    """The picture with the hand's bones over it; `points`: float (21, 2) in its own pixels.

    Lines grow with the picture, times `thickness`.
    """
    large = Image.new("RGBA", (picture.width * _FINER, picture.height * _FINER))
    draw = ImageDraw.Draw(large)
    places = [tuple(point) for point in (np.asarray(points, float) * _FINER).tolist()]
    unit = thickness * _FINER * picture.width / _USUAL_PX
    for thicker, colour_of in ((1.4, lambda colour: "#00000090"), (0.0, lambda colour: colour)):
        for joints, colour in _CHAINS:
            line = [places[joint] for joint in joints]
            draw.line(line, colour_of(colour), round((2.0 + thicker) * unit), joint="curve")
            for x, y in line:
                radius = (2.4 + thicker / 2) * unit
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour_of(colour))
    drawn = picture.convert("RGBA")
    drawn.alpha_composite(large.resize(picture.size, Image.Resampling.LANCZOS))
    return drawn.convert("RGB")
