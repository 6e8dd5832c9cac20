"""Whether a hand shows a letter at all, by its joints.

The network knows 29 classes and gives a hand that types or rests to one of them. A small perceptron on MediaPipe's
world joints tells such hands from letters; `python -m benchmarks.letter_gate` trains it, and docs/live.md says on
whose hands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.hands.record import Record

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""From the first to the last: weights (inputs, outputs) and biases (outputs,)."""

FILE = Path(__file__).with_name("letter_gate.npz")
BIAS = 1.8
"""Added to the logit: a single frame of a gesture that passes spells nothing, but a refused letter is lost."""
_PALM = [0, 5, 9, 13, 17]


def features(world: NDArray[np.floating], right: bool) -> NDArray[np.float32]:
    """Joints as of a right hand, about the palm's middle, in palm lengths: float32 (63,).

    How the hand is turned before the camera stays: it tells a hand over a keyboard from N.

    Args:
        world: (21, 3), of any unit, as MediaPipe's world landmarks have them.
    """
    joints = world.astype(np.float64) * [1 if right else -1, 1, 1]
    length = max(float(np.linalg.norm(joints[9] - joints[0])), 1e-6)
    return np.asarray((joints - joints[_PALM].mean(0)) / length, np.float32).ravel()


def letter_probability(record: Record, layers: Layers) -> float:
    """How likely the hand of a record, `HAND_DTYPE`, shows a letter, `space` or `del`."""
    return float(probabilities(features(record["world"], bool(record["right"]))[None], layers)[0])


def probabilities(rows: NDArray[np.float32], layers: Layers) -> NDArray[np.float64]:
    """Float64 (n,), of `features` (n, 63): ReLU between the layers, and a sigmoid."""
    *hidden, (weights, biases) = layers
    for inner, offsets in hidden:
        rows = np.maximum(rows @ inner + offsets, 0)
    logits = (rows @ weights + biases)[:, 0].astype(np.float64) + BIAS
    return np.asarray(1 / (1 + np.exp(-logits)))


def load(file: Path) -> Layers:
    """The layers in a file that `save` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        return [(stored[f"weights{at}"], stored[f"biases{at}"]) for at in range(len(stored.files) // 2)]


def save(file: Path, layers: Layers) -> None:
    """Write the layers."""
    arrays: dict[str, Any] = {}
    for at, (weights, biases) in enumerate(layers):
        arrays |= {f"weights{at}": weights, f"biases{at}": biases}
    np.savez(file, **arrays)
