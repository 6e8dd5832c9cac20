"""What each kind of network reads of a photo: the photo itself, the hand's landmarks, or the crop around the hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.hands.record import ARRAY_ROWS, Record, crop, hand_arrays, reading_dtype, readings
from horovod_asl.photos.decode import Pixels, decode_photo

_UINT8, _FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)


class Reader(Protocol):
    """What makes a network's input of a photo's bytes; picklable."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one photo's array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its elements."""

    @property
    def processes_from(self) -> int:
        """Photos from which on processes are worth their start."""

    @property
    def side_px(self) -> int:
        """Of the square that a photo is decoded to."""

    @property
    def finds_hands(self) -> bool:
        """Whether the hand is looked for."""

    def of_square(self, square: Pixels, record: Record) -> NDArray[Any]:
        """An array of `shape` and `dtype`.

        Args:
            square: the photo as `decode_photo` gives it, uint8 (side_px, side_px, 3).
            record: of the hand in it, `HAND_DTYPE`; None where no hand is looked for.
        """

    def __call__(self, data: bytes) -> NDArray[Any]:
        """The same of a photo's bytes. Raises PhotoError."""


@dataclass(frozen=True)
class PixelReader:
    """The photo as uint8 (image_size, image_size, 3)."""

    image_size: int
    dtype: np.dtype[Any] = _UINT8
    processes_from: int = 1500
    finds_hands: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return (self.image_size, self.image_size, 3)

    @property
    def side_px(self) -> int:
        """The photo is taken as it is decoded."""
        return self.image_size

    def of_square(self, square: Pixels, record: Record) -> Pixels:
        """The square itself."""
        return square

    def __call__(self, data: bytes) -> Pixels:
        """Decode it."""
        return decode_photo(data, self.image_size)


@dataclass(frozen=True)
class HandReader:
    """The hand in the photo as float32 (50, 3) (see `record.hand_arrays`), found as `prepare --hands` finds it."""

    shape: tuple[int, ...] = (ARRAY_ROWS, 3)
    dtype: np.dtype[Any] = _FLOAT32
    processes_from: int = 64
    side_px: int = LOOK_PX
    finds_hands: bool = True

    def of_square(self, square: Pixels, record: Record) -> NDArray[np.float32]:
        """The record as a network takes it."""
        hand: NDArray[np.float32] = hand_arrays(record[None])[0]
        return hand

    def __call__(self, data: bytes) -> NDArray[np.float32]:
        """Decode it and look for the hand."""
        square = decode_photo(data, LOOK_PX)
        return self.of_square(square, shared_finder().find(square))


@dataclass(frozen=True)
class CropReader:
    """The crop around the hand, uint8 (crop_size, crop_size, 3); `with_hand`: a record of it and of the hand."""

    crop_size: int
    with_hand: bool
    processes_from: int = 64
    side_px: int = LOOK_PX
    finds_hands: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, C, 3), or () of a record."""
        return () if self.with_hand else (self.crop_size, self.crop_size, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, or `record.reading_dtype`."""
        return reading_dtype(self.crop_size) if self.with_hand else np.dtype(np.uint8)

    def of_square(self, square: Pixels, record: Record) -> NDArray[Any]:
        """The hand cut out, and with it its record where that is wanted."""
        cut = crop(square, record["box"], self.crop_size)
        return readings(cut[None], record[None])[0] if self.with_hand else cut

    def __call__(self, data: bytes) -> NDArray[Any]:
        """Decode it, look for the hand, cut it out."""
        square = decode_photo(data, LOOK_PX)
        return self.of_square(square, shared_finder().find(square))
