"""Find photos that stand on two sides of a split: the same bytes, or the same picture encoded again.

Two photos, of one class or of two (a copy may be filed under another letter), count as the same picture if
their perceptual hashes differ in at most 8 of 64 bits and their 32×32 thumbnails by at most 4/255 in the mean.
Measured on stores of 64 px, pairs of one class + pairs of two:

    between honest sides                      pairs with hashes ≤ 8 apart   their nearest thumbnails
    ASL Alphabet, recordings 1, 2 against 3                       39 + 10   46.0/255, 50.6/255
    ASL Alphabet, recording 1 against 2                          219 + 120  26.9/255, 21.4/255
    massey, hand1 against the other people                     1,335 + 175   6.6/255, 10.4/255
    massey, hand3, 4, 5 each against the others  273 + 28, 165 + 44, 180 + 65   10.3/255, 12.4/255

    600 photos encoded again as    hash ≤ 8   thumbnails, the worst photo
    JPEG 75, PNG, 400 px               100 %    1.2/255
    JPEG 30                            100 %    2.5/255
    reduced to 64 px, JPEG 85          100 %    3.6/255
    JPEG 10                           99.8 %    5.4/255 (not found)
    3 % cropped, or 1.1 × as bright  98–100 %   9.5–17/255 (not found)

So no honest recording is refused (asl + phone + massey + homes in one store: none), a copied or re-encoded
folder is, the official test photos are (12 of 28 are training frames of our third of the set), and a random
split is unmasked (31 % of its test photos are in training). The hash alone would not do: hashes 2 bits apart
occur between two people's hands (massey, H) and between two takes of a wall. Comparing every hash with every
other takes 1.4 ns of a core a pair: the whole search among the 10,005 photos 0.1 s, among 90,000 2.5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.photos.hashing import distance
from horovod_asl.splits.split import SPLITS

MAX_HASH_DISTANCE_BITS = 8
MAX_PIXEL_DISTANCE = 4.0
"""Mean absolute difference of the thumbnails, in steps of 1/255."""

_THUMBNAIL = 32
_BLOCK = 1024
_PAIRS_AT_ONCE = 2**16  # what stays in a core's cache: ten times as fast as blocks of megabytes

Rows = NDArray[np.int64]
Gather = Callable[[Rows], NDArray[np.uint8]]
"""Rows → their pictures, uint8 (n, H, W, 3)."""


@dataclass(frozen=True)
class Leaks:
    """Pairs of rows on two sides of a split. `held` is the row on the later side (train < validation <
    test)."""

    other: Rows
    held: Rows
    exact: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.held)

    def summary(self, splits: NDArray[np.object_]) -> str:
        """`12 test photos are in train (3 byte for byte)`, …"""
        parts = []
        for other, held in combinations(SPLITS, 2):
            here = (splits[self.other] == other) & (splits[self.held] == held)
            if here.any():
                photos, exact = len(set(self.held[here])), len(set(self.held[here & self.exact]))
                parts.append(f"{photos} {held} photos are also in {other} ({exact} byte for byte)")
        return ", ".join(parts) or "no photo is on two sides of a split"


def find_leaks(
    splits: NDArray[np.object_],
    digests: NDArray[np.object_],
    hashes: NDArray[np.uint64],
    gather: Gather,
) -> Leaks:
    """All pairs of rows on two sides of a split that are the same photo; arrays are by row, splits by
    name."""
    pairs = [_exact_pairs(splits, digests)]
    for other, held in combinations(SPLITS, 2):
        first, second = np.flatnonzero(splits == other), np.flatnonzero(splits == held)
        pairs.append(_near_pairs(first, second, hashes, gather))
    joined = np.unique(np.concatenate(pairs), axis=0)
    first, second = joined.T
    return Leaks(first, second, np.asarray(digests[first] == digests[second], np.bool_))


def _exact_pairs(splits: NDArray[np.object_], digests: NDArray[np.object_]) -> Rows:
    """(m, 2) rows with equal bytes on two sides, whatever their class."""
    by_digest: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        by_digest.setdefault(digest, []).append(row)
    pairs = [
        sorted((a, b), key=lambda row: SPLITS.index(splits[row]))
        for rows in by_digest.values()
        for a, b in combinations(rows, 2)
        if splits[a] != splits[b]
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _near_pairs(other: Rows, held: Rows, hashes: NDArray[np.uint64], gather: Gather) -> Rows:
    """(m, 2) rows whose hashes and thumbnails are near."""
    near = [np.zeros((0, 2), np.int64)]
    hashes_of_other = hashes[other]
    step = max(1, _PAIRS_AT_ONCE // max(1, len(other)))
    for start in range(0, len(held), step):
        block = held[start : start + step]
        is_near = distance(hashes_of_other, hashes[block]) <= MAX_HASH_DISTANCE_BITS
        first, second = np.divmod(np.flatnonzero(is_near), len(block))  # nonzero is slow in two dimensions
        near.append(np.stack([other[first], block[second]], axis=1))
    candidates = np.concatenate(near)
    return candidates[_same_picture(candidates, gather)]


def _same_picture(pairs: Rows, gather: Gather) -> NDArray[np.bool_]:
    rows, places = np.unique(pairs, return_inverse=True)
    if not len(rows):
        return np.zeros(0, np.bool_)
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    small = np.concatenate([thumbnails(gather(block)) for block in blocks])
    same = np.zeros(len(pairs), np.bool_)
    for start in range(0, len(pairs), _BLOCK):
        a, b = places.reshape(-1, 2)[start : start + _BLOCK].T
        apart = np.abs(small[a].astype(np.int16) - small[b]).mean(axis=(1, 2, 3))
        same[start : start + _BLOCK] = apart <= MAX_PIXEL_DISTANCE
    return same


def thumbnails(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures uint8 (n, H, W, 3) at 32×32: what makes the pixel distance independent of the store's size."""
    side = (_THUMBNAIL, _THUMBNAIL)
    return np.stack([np.asarray(Image.fromarray(p).resize(side, Image.Resampling.BOX)) for p in pictures])
