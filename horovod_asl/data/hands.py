"""What is known of the hand in a photo: its record, the square around it, and the crop. NumPy and Pillow alone.

Coordinates are shares of the photo's longer side, so that they are the same at every resolution: x to the right and
y down from the upper left corner of the square that `decode_photo` makes of a photo, z away from the camera. World
landmarks are in metres about the hand's centre, as MediaPipe gives them
(https://ai.google.dev/edge/mediapipe/solutions/vision/hand_landmarker): 0 the wrist, then four joints per finger from
the thumb to the little one, each from the palm to the tip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LANDMARKS = 21
ARRAY_ROWS = 2 * LANDMARKS + 1
"""Rows of three that a hand is to a network, see `hand_arrays`."""
HAND_DTYPE = np.dtype(
    [
        ("found", np.bool_),
        ("attempt", np.uint8),  # which look found it, from 0
        ("right", np.bool_),  # MediaPipe's handedness, as in a picture that is not mirrored
        ("score", np.float32),  # its confidence in that
        ("image", np.float32, (LANDMARKS, 3)),
        ("world", np.float32, (LANDMARKS, 3)),
        ("box", np.float32, (3,)),  # left, top and side of the crop
    ]
)
CROP_MARGIN = 1.6
"""Side of the crop ÷ the longer side of the landmarks' own box: fingertips and wrist reach beyond their joints."""
OUTSIDE = (124, 116, 104)
"""What a crop shows beyond the photo's edge: ImageNet's mean colour, nothing once it is normalised."""

Pixels = NDArray[np.uint8]
Record = Any
"""One element of an array of HAND_DTYPE."""


def no_hand() -> Record:
    """The record of a photo without a hand: its crop is the whole picture."""
    record = np.zeros((), HAND_DTYPE)
    record["box"] = (0.0, 0.0, 1.0)
    return record


def hand(
    image: NDArray[np.float32], world: NDArray[np.float32], *, right: bool, score: float, attempt: int
) -> Record:
    """The record of a hand from its landmarks, each float32 (21, 3)."""
    record = np.zeros((), HAND_DTYPE)
    record["found"], record["attempt"], record["right"], record["score"] = True, attempt, right, score
    record["image"], record["world"], record["box"] = image, world, box_around(image)
    return record


def box_around(image: NDArray[np.float32], margin: float = CROP_MARGIN) -> tuple[float, float, float]:
    """Left, top and side of the square about landmarks float (21, 3)."""
    low, high = image[:, :2].min(0), image[:, :2].max(0)
    side = float((high - low).max()) * margin
    left, top = (low + high) / 2 - side / 2
    return float(left), float(top), side


def crop(photo: Pixels, box: NDArray[np.float32] | tuple[float, float, float], size_px: int) -> Pixels:
    """The square `box` of a photo uint8 (S, S, 3) as uint8 (size_px, size_px, 3), antialiased, `OUTSIDE` beyond."""
    left, top, side = (float(value) * len(photo) for value in box)
    side = max(side, 2.0)
    canvas = Image.new("RGB", (int(np.ceil(side)) + 2,) * 2, OUTSIDE)
    origin = int(np.floor(left)), int(np.floor(top))
    canvas.paste(Image.fromarray(photo), (-origin[0], -origin[1]))
    inside = (left - origin[0], top - origin[1])
    region = (*inside, inside[0] + side, inside[1] + side)
    return np.asarray(canvas.resize((size_px, size_px), Image.Resampling.BILINEAR, box=region))


def hand_arrays(records: NDArray[Any]) -> NDArray[np.float32]:
    """Records `HAND_DTYPE` (n,) as a network takes them: float32 (n, 43, 3).

    The 21 image landmarks, the 21 world landmarks, and a row (found, handedness, 0), found being 0 or 1, handedness 1
    for a right hand and −1 for a left one; all zero where no hand was found.
    """
    arrays = np.zeros((len(records), ARRAY_ROWS, 3), np.float32)
    arrays[:, :LANDMARKS] = records["image"]
    arrays[:, LANDMARKS:-1] = records["world"]
    arrays[:, -1, 0] = records["found"]
    arrays[:, -1, 1] = np.where(records["found"], np.where(records["right"], 1.0, -1.0), 0.0)
    return arrays
