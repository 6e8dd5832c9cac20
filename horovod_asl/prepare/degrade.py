"""Copies of photos as a poor camera in poor light would have taken them (`prepare --degraded-copies`), for training.

Augmentation in a step changes the pixels of a crop that was found in the good photo. In a dark and noisy photo it is
the finder that errs: the landmarks are guesses, the side of the hand is misread, the crop is turned and off. A copy
is decoded and looked at like any other photo, so a network is shown what it will get. It stands behind its photo in
the same source and recording, under the same path with a mark, and `Store.rows` gives it for training alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from horovod_asl.photos.decode import decode_photo
from horovod_asl.photos.origins import Origin
from horovod_asl.sources.sources import SourcePhoto
from horovod_asl.store.store_files import COPY_MARK

_DECODED_PX = 256
_SIDE_PX = (110, 230)
_DARK_FRACTION = 0.6
_MOST_HALVINGS = (
    3.0  # of pixel values, which are gamma-encoded: an eighth of them is a hundredth of the light
)
_MOST_NOISE = 0.03  # deviation, of the largest value
_QUALITY = (25, 85)  # of JPEG, as Pillow counts it
_BLACK, _CUT_OUT_FRACTION = 13, 0.3
"""A photo with so much of it darker than this (of 255) is a hand that was cut out: of our real photos all of `massey`
and no other."""
_BACKGROUND_FRACTION = 0.7


@dataclass(frozen=True, slots=True)
class DegradedOrigin:
    """The `number`-th copy of what `origin` reads; the same bytes whenever it is read, on whichever rank."""

    origin: Origin
    number: int
    max_megapixels: float
    """As for the photo itself: where it is used, so are its copies, and where not, not."""

    def read(self) -> bytes:
        """The copy as a JPEG; PhotoError where the photo itself cannot be used."""
        data = self.origin.read()
        seed = [*hashlib.sha256(data).digest()[:8], self.number]
        return degraded_copy(
            decode_photo(data, _DECODED_PX, max_megapixels=self.max_megapixels), np.random.default_rng(seed)
        )


def with_copies(
    photos: Iterable[SourcePhoto], copies: int, *, max_megapixels: float
) -> Iterator[SourcePhoto]:
    """Each photo, and after it so many copies of it."""
    for photo in photos:
        yield photo
        for number in range(1, copies + 1):
            path, origin = (
                f"{photo.path}{COPY_MARK}{number}",
                DegradedOrigin(photo.origin, number, max_megapixels),
            )
            yield replace(photo, path=path, origin=origin)


def degraded_copy(photo: NDArray[np.uint8], draws: np.random.Generator) -> bytes:
    """The JPEG of a photo uint8 (S, S, 3) made small, perhaps dark and blurred, with noise, in other colours.

    A hand that was cut out on black gets a background, in seven of ten copies.
    """
    side = int(draws.integers(*_SIDE_PX))
    if (photo.max(2) < _BLACK).mean() > _CUT_OUT_FRACTION and draws.random() < _BACKGROUND_FRACTION:
        photo = _before_a_background(photo, draws)
    picture = Image.fromarray(photo).resize((side, side), Image.Resampling.BILINEAR)
    if draws.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(draws.uniform(0.0, 1.2)))
    is_dark = draws.random() < _DARK_FRACTION
    light = 2.0 ** (-draws.uniform(0.0, _MOST_HALVINGS) if is_dark else draws.uniform(-0.3, 0.5))
    gamma, colours = 2.0 ** draws.uniform(-0.5, 0.7), draws.uniform(0.9, 1.1, 3)
    pixels = (np.asarray(picture, np.float32) / 255.0) ** gamma * light * colours
    pixels += draws.normal(size=pixels.shape) * draws.uniform(0.0, _MOST_NOISE)
    written = io.BytesIO()
    Image.fromarray((pixels.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)).save(
        written, "JPEG", quality=int(draws.integers(*_QUALITY))
    )
    return written.getvalue()


def _before_a_background(photo: NDArray[np.uint8], draws: np.random.Generator) -> NDArray[np.uint8]:
    """The photo with soft fields of colour where it is black."""
    black = Image.fromarray((photo.max(2) < _BLACK).astype(np.uint8) * 255)
    # Shrunk and then grown, so that dark creases in the hand stay; and by more, since its edge is dark.
    mask = (
        black.filter(ImageFilter.MinFilter(5)).filter(ImageFilter.MaxFilter(7)).filter(ImageFilter.BoxBlur(1))
    )
    light, contrast = draws.random(2)
    fields = light + 0.3 * (draws.random(3) - 0.5) + contrast * 0.6 * (draws.random((6, 6, 3)) - 0.5)
    small = Image.fromarray((fields.clip(0.02, 1.0) * 255).astype(np.uint8))
    background = small.resize(mask.size, Image.Resampling.BICUBIC)
    return np.asarray(Image.composite(background, Image.fromarray(photo), mask))
