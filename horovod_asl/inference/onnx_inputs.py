"""What a graph takes, by name, and drawn examples of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.hands.record import HAND_DTYPE, LANDMARKS, hand, hand_arrays, no_hand
from horovod_asl.inference.readers import Reader

Inputs = dict[str, NDArray[Any]]
"""The arrays that a network takes, by the name of the graph's input, in order."""


def named_inputs(array: NDArray[Any]) -> Inputs:
    """What a reader gives, by name: the fields of a structured array, else `photo` for uint8, `hand` for floats."""
    if array.dtype.names is not None:
        return {name: np.ascontiguousarray(array[name]) for name in array.dtype.names}
    return {"photo" if array.dtype == np.uint8 else "hand": array}


def drawn_inputs(reader: Reader, count: int, *, seed: int = 0) -> Inputs:
    """`count` arrays such as `reader` gives, drawn: coloured squares for pixels, scattered joints for hands."""
    generator = np.random.default_rng(seed)
    array = np.zeros((count, *reader.shape), reader.dtype)
    inputs = named_inputs(array)
    for name, values in inputs.items():
        inputs[name] = _blobs(generator, values) if values.dtype == np.uint8 else _hands(generator, count)
    return inputs


def _blobs(generator: np.random.Generator, like: NDArray[Any]) -> NDArray[np.uint8]:
    colours = generator.integers(0, 256, (len(like), 8, 8, 3), np.uint8)
    rows, columns = (np.arange(side) * 8 // side for side in like.shape[1:3])
    return colours[:, rows][:, :, columns]


def _hands(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Scattered joints, every other hand a left one; every eighth photo without a hand."""
    records = np.array([no_hand()] * count, HAND_DTYPE)
    for row in range(count):
        if row % 8:
            image, world = generator.normal(0.5, 0.1, (2, LANDMARKS, 3)).astype(np.float32)
            records[row] = hand(image, world, right=row % 2 == 0, score=0.9, attempt=0)
    return hand_arrays(records)
