"""What is known of the hand in a photo: its record, the square around it, and the crop. NumPy and Pillow alone.

Coordinates are fractions of the photo's longer side, so that they are the same at every resolution: x to the right
and y down from the upper left corner of the square that `decode_photo` makes of a photo, z away from the camera.
World landmarks are in metres about the hand's centre, as MediaPipe gives them
(https://ai.google.dev/edge/mediapipe/solutions/vision/hand_landmarker): 0 the wrist, then four joints per finger from
the thumb to the little one, each from the palm to the tip.

The crop is turned so that the hand points up, as MediaPipe turns it for its own landmark network, whose features
`hand_net` reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LANDMARKS = 21
SEEN_ROW, BOX_ROW, TURN_ROW = 2 * LANDMARKS, 2 * LANDMARKS + 1, 2 * LANDMARKS + 2
MATRIX_ROWS = slice(2 * LANDMARKS + 3, 2 * LANDMARKS + 6)
VIEW_ROW = 2 * LANDMARKS + 6
ARRAY_ROWS = 2 * LANDMARKS + 8
"""Rows of three that a hand is to a network, see `hand_arrays`."""
HAND_DTYPE = np.dtype(
    [
        ("found", np.bool_),
        ("doubtful", np.bool_),  # unconfirmed: not found, but an attempt saw something; stores have this older name
        ("attempt", np.uint8),  # which attempt found it, from 0
        ("right", np.bool_),  # MediaPipe's handedness, as in a picture that is not mirrored
        ("score", np.float32),  # its confidence in that
        ("image", np.float32, (LANDMARKS, 3)),
        ("world", np.float32, (LANDMARKS, 3)),
        (
            "box",
            np.float32,
            (4,),
        ),  # of the crop: centre x and y, side, and by how many radians it is turned clockwise
    ]
)
ATTEMPTS, LATE_ATTEMPT = 5, 2
"""Attempts at a photo, and the first of these whose find counts only if it is confirmed. Numbers
from `ATTEMPTS` on are of attempts at a copy of a dark hand that was given light."""
HAND_SIDE = 2.0
"""Side of the square that MediaPipe's landmark network sees ÷ the longer side of the palm's joints' box."""
CROP_SIDE = 1.15 * HAND_SIDE
"""The crop is larger, so that augmentation can shift and turn that square in it."""
_SHIFT_UP = 0.1  # of that square, in heights of the palm's box, towards the fingers
_PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)  # the joints that MediaPipe takes the box of
OUTSIDE = (0, 0, 0)
"""What a crop shows beyond the photo's edge."""

Pixels = NDArray[np.uint8]
Record = Any
"""One element of an array of HAND_DTYPE."""


def no_hand() -> Record:
    """The record of a photo without a hand: its crop is the whole picture."""
    record = np.zeros((), HAND_DTYPE)
    record["box"] = (0.5, 0.5, 1.0, 0.0)
    return record


def hand(
    image: NDArray[np.float32],
    world: NDArray[np.float32],
    *,
    right: bool,
    score: float,
    attempt: int,
    unconfirmed: bool = False,
) -> Record:
    """The record of a hand from its landmarks, each float32 (21, 3); an unconfirmed one does not count as found."""
    record = np.zeros((), HAND_DTYPE)
    record["found"], record["doubtful"] = not unconfirmed, unconfirmed
    record["attempt"], record["right"], record["score"] = attempt, right, score
    record["image"], record["world"], record["box"] = image, world, box_of(image)
    return record


def box_of(image: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Centre and side (fractions of the photo's side) and turn (radians) of a hand's crop: landmarks float (21, 3).

    MediaPipe's own rule but for the size (`HandLandmarksToRectCalculator` and the transformation that follows it in
    its graph, Apache-2.0): up is from the wrist to the middle knuckles.
    """
    points = image[:, :2].astype(np.float64)
    knuckles = ((points[6] + points[14]) / 2 + points[10]) / 2
    across, up = knuckles - points[0]
    turn = float(np.arctan2(across, -up))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # to the turned frame
    palm = points[list(_PALM)] @ rotation.T
    low, high = palm.min(0), palm.max(0)
    width, height = high - low
    centre = ((low + high) / 2 - [0.0, _SHIFT_UP * height]) @ rotation
    return float(centre[0]), float(centre[1]), CROP_SIDE * float(max(width, height, 1e-3)), turn


def upright_box(image: NDArray[np.float32], margin: float) -> tuple[float, float, float, float]:
    """The square about landmarks float (21, 3), `margin` times as large as their own box, not turned; as `box_of`."""
    low, high = image[:, :2].min(0), image[:, :2].max(0)
    x, y = (low + high) / 2
    return float(x), float(y), float((high - low).max()) * margin, 0.0


def crop(photo: Pixels, box: NDArray[np.float32] | tuple[float, ...], size_px: int) -> Pixels:
    """The square `box` of a photo uint8 (S, S, 3) as uint8 (size_px, size_px, 3), `OUTSIDE` beyond its edge.

    Where it has to shrink, the photo is shrunk first, antialiased.
    """
    x, y, side, turn = (float(value) for value in box)
    picture = Image.fromarray(photo)
    side = max(side, 2.0 / len(photo))
    shrunk_px = round(size_px / side)
    if shrunk_px < len(photo):
        picture = picture.resize((shrunk_px, shrunk_px), Image.Resampling.BILINEAR)
    step = side * picture.width / size_px  # pixels of the picture per pixel of the crop
    cos, sin = step * np.cos(turn), step * np.sin(turn)
    left = x * picture.width - (cos - sin) * size_px / 2
    top = y * picture.width - (sin + cos) * size_px / 2
    turned = picture.transform(
        (size_px, size_px),
        Image.Transform.AFFINE,
        (cos, -sin, left, sin, cos, top),
        Image.Resampling.BILINEAR,
        fillcolor=OUTSIDE,
    )
    return np.asarray(turned)


def points_in_crop(record: Record, size_px: int) -> NDArray[np.float64]:
    """Where the landmarks of a record lie in its crop, in pixels: (21, 2); some may lie beyond its edge."""
    x, y, side, turn = (float(value) for value in record["box"])
    cos, sin = np.cos(turn), np.sin(turn)
    from_centre = record["image"][:, :2].astype(np.float64) - [x, y]
    in_crop: NDArray[np.float64] = from_centre @ np.array([[cos, -sin], [sin, cos]]) / side + 0.5
    return in_crop * size_px


def hand_arrays(records: NDArray[Any]) -> NDArray[np.float32]:
    """Records `HAND_DTYPE` (n,) as a network takes them: float32 (n, 50, 3).

    The 21 image landmarks, the 21 world landmarks, and then rows for:
    SEEN_ROW    seen (1 where there are landmarks), handedness (1 right, −1 left), unconfirmed (1 or 0)
    BOX_ROW     the crop's centre x and y, and its side
    TURN_ROW    the crop's turn in radians, 0, 0
    MATRIX_ROWS what the landmarks are multiplied with, the identity: augmentation writes here
    VIEW_ROW    how the network's view is turned (radians) and zoomed (logarithm) in the crop, 0;
                and in the row after it how it is shifted, in halves of its side, 0: augmentation writes here too
    Landmarks and handedness are zero where none were seen.
    """
    seen = records["found"] | records["doubtful"]
    arrays = np.zeros((len(records), ARRAY_ROWS, 3), np.float32)
    arrays[:, :LANDMARKS] = records["image"]
    arrays[:, LANDMARKS : 2 * LANDMARKS] = records["world"]
    arrays[:, SEEN_ROW, 0] = seen
    arrays[:, SEEN_ROW, 1] = np.where(seen, np.where(records["right"], 1.0, -1.0), 0.0)
    arrays[:, SEEN_ROW, 2] = records["doubtful"]
    arrays[:, BOX_ROW] = records["box"][:, :3]
    arrays[:, TURN_ROW, 0] = records["box"][:, 3]
    arrays[:, MATRIX_ROWS] = np.eye(3)
    return arrays


def reading_dtype(crop_size: int) -> np.dtype[Any]:
    """What a network that sees both the crop and the landmarks reads of a photo."""
    return np.dtype([("crop", np.uint8, (crop_size, crop_size, 3)), ("hand", np.float32, (ARRAY_ROWS, 3))])


def readings(crops: Pixels, records: NDArray[Any]) -> NDArray[Any]:
    """Crops uint8 (n, C, C, 3) and records `HAND_DTYPE` (n,) as an array (n,) of `reading_dtype`."""
    both = np.empty(len(records), reading_dtype(crops.shape[1]))
    both["crop"], both["hand"] = crops, hand_arrays(records)
    return both
