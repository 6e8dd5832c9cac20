"""One photo, given in whatever way a caller has it, as what a network takes of it and what is known of its hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.hands.finder import shared_finder
from horovod_asl.hands.record import Record
from horovod_asl.inference.readers import Reader
from horovod_asl.photos.decode import PhotoError, Pixels, decode_photo, decode_picture, upright_size
from horovod_asl.photos.origins import FileOrigin

Photo = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A file's path, the bytes of one, a Pillow image, or pixels uint8 RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W)."""


@dataclass(frozen=True, eq=False)
class PhotoView:
    """What is seen of one photo; picklable.

    Attributes:
        given: the network's input, as the run's reader makes it.
        size: width and height in pixels of the photo as it is shown, after its EXIF rotation.
        side_px: of the square that the photo was decoded to.
        record: of the hand, `HAND_DTYPE`, in shares of that square; None where no hand is looked for.
        has_another_hand: whether a second hand was seen.
    """

    given: NDArray[Any]
    size: tuple[int, int]
    side_px: int
    record: Record | None
    has_another_hand: bool


def view_photo(photo: Photo, reader: Reader) -> PhotoView:
    """Decode a photo and look for hands in it. Raises PhotoError with a short reason."""
    source = _as_bytes_or_picture(photo)
    if isinstance(source, bytes):
        square = decode_photo(source, reader.side_px)
    else:
        square = decode_picture(source, reader.side_px)
    record, has_another = _hands_in(square) if reader.finds_hands else (None, False)
    given = reader.of_square(square, record)
    return PhotoView(given, upright_size(source), reader.side_px, record, has_another)


def in_photo_pixels(points: NDArray[np.floating[Any]], view: PhotoView) -> NDArray[np.float32]:
    """Points (n, 2) or (n, 3), shares of the square that a photo is decoded to, in pixels of the photo itself.

    It undoes what `decode_photo` does: the fit of the longer side, and the border on both sides of the shorter one.
    z, which has no origin in the picture, is scaled as x is.
    """
    sides = np.array(view.size, np.float64)
    fitted = np.maximum(1, np.rint(sides * (view.side_px / sides.max())))
    placed = points.astype(np.float64) * view.side_px
    placed[:, :2] -= (view.side_px - fitted) // 2
    grown = sides / fitted
    placed *= np.append(grown, grown[0])[: placed.shape[1]]
    return placed.astype(np.float32)


def _hands_in(square: Pixels) -> tuple[Record, bool]:
    finder = shared_finder()
    record = finder.find(square)
    return record, bool(record["found"]) and finder.sees_another(square, record)


def _as_bytes_or_picture(photo: Photo) -> bytes | Image.Image:
    if isinstance(photo, bytes | Image.Image):
        return photo
    if isinstance(photo, str | os.PathLike):
        return FileOrigin(os.path.expanduser(os.fspath(photo))).read()  # noqa: PTH111 - Path's own may raise
    if isinstance(photo, np.ndarray):
        return _picture_of(photo)
    raise PhotoError(
        f"a photo cannot be a {type(photo).__name__}: give a path, the bytes of a file, a Pillow image, or a NumPy "
        "array uint8 (height, width, 3) in RGB"
    )


def _picture_of(pixels: NDArray[Any]) -> Image.Image:
    """An array as a picture: RGB, RGBA and grey as files of that kind."""
    channels = pixels.shape[2:] or (1,)
    if (
        pixels.dtype != np.uint8
        or pixels.ndim not in (2, 3)
        or channels[0] not in (1, 3, 4)
        or pixels.size == 0
    ):
        raise PhotoError(
            f"an array {pixels.dtype} {pixels.shape} is no photo: give uint8 RGB (height, width, 3), RGBA (…, 4) or "
            "grey (height, width), values 0 to 255"
        )
    grey = channels[0] == 1
    return Image.fromarray(np.ascontiguousarray(pixels.reshape(pixels.shape[:2]) if grey else pixels))
