"""Perceptual hashes of pictures: what finds a re-encoded or copied photo on two sides of a split.

The hash is `imagehash.phash` (64 bits: the signs of the lowest 8×8 DCT coefficients of the 32×32 grey picture
against their median), bit for bit – a test holds it against the library. imagehash takes 0.30 ms
a photo and imports SciPy into every worker; here only the 8 rows that count are transformed, and Pillow is called
for many photos at a time (0.06 ms, of which its two resizes are 0.04; decoding takes 0.35 ms).
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE, _KEPT = 32, 8
_PIXELS_AT_ONCE = 2**18
"""What stays in a core's cache; far below the sides that Pillow takes."""


def phash(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes uint64 (n,) of pictures uint8 (n, H, W, 3); the first bit of `imagehash.phash` is the
    highest."""
    if not len(pixels):
        return np.zeros(0, np.uint64)
    n, height, width, _ = pixels.shape
    step = max(1, _PIXELS_AT_ONCE // (height * width))
    small = np.concatenate([_small_greys(pixels[start : start + step]) for start in range(0, n, step)])
    basis = _dct_rows()
    low = basis @ small @ basis.T
    flat = low.reshape(len(low), _KEPT * _KEPT)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()


def distance(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Differing bits, uint8 (len(a), len(b)), between every hash of `a` and every hash of `b`."""
    return cast(NDArray[np.uint8], np.bitwise_count(a[:, None] ^ b[None, :]))


def _small_greys(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (n, 32, 32): each picture as `convert("L").resize((32, 32), LANCZOS)` gives it.

    Pillow resizes rows first, then columns, and skips what keeps its length: so all rows of all pictures are
    resized as one tall picture, and then all columns, laid down, as another.
    """
    n, height, width, _ = pixels.shape
    grey = Image.fromarray(pixels.reshape(n * height, width, 3)).convert("L")
    narrow = _with_rows_of_side(grey).reshape(n, height, _SIDE)
    columns = Image.fromarray(narrow.transpose(0, 2, 1).reshape(n * _SIDE, height))
    return _with_rows_of_side(columns).reshape(n, _SIDE, _SIDE).transpose(0, 2, 1)


def _with_rows_of_side(grey: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(grey.resize((_SIDE, grey.height), Image.Resampling.LANCZOS))


def _dct_rows() -> NDArray[np.float64]:
    """The first 8 rows of the unnormalised DCT-II of length 32 (scipy.fftpack.dct's convention), float64 (8,
    32)."""
    frequency = np.arange(_KEPT)[:, None]
    position = np.arange(_SIDE)[None, :]
    return 2 * np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))
