"""The bundled model by ONNX Runtime and NumPy: a frame in 20 ms on one core, and torch is never imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.hands.record import SEEN_ROW, Pixels, Record, crop, hand_arrays
from horovod_asl.inference.onnx_session import open_session
from horovod_asl.labels import CLASS_INDEX
from horovod_asl.live import letter_gate

ONE_PASS = Path(__file__).parents[1] / "bundled_model" / "one_pass.onnx"
"""As `runs.bundled_model` names it; that module imports torch."""

_NOTHING = CLASS_INDEX["nothing"]

Pass = tuple[bool, bool]
"""How a hand passes the network: as the other side, and as it is held rather than turned up."""
ALL_PASSES: tuple[Pass, ...] = ((False, False), (False, True), (True, False), (True, True))
"""Their mean is what `hand_net` says of a photo."""


@dataclass(frozen=True, eq=False)
class Read:
    """One frame's hand.

    Attributes:
        logits: float32 (classes,), the mean over the passes, at the model's temperature.
        embeddings: float32 (passes, width), what entered the network's last layer.
        as_held: bool (passes,), in which position each pass read the hand; embeddings of the two are not comparable.
        letter: the probability that the hand shows a letter at all.
    """

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    as_held: NDArray[np.bool_]
    letter: float = 1.0

    @property
    def softmax(self) -> NDArray[np.float64]:
        """Float64 (classes,), of the logits: what `predict` says of a photo."""
        powers = np.exp(self.logits.astype(np.float64) - self.logits.max())
        return np.asarray(powers / powers.sum())

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Float64 (classes,), of a film's frame: `softmax` times `letter`; the rest is `nothing`'s."""
        shares = self.letter * self.softmax
        shares[_NOTHING] += 1 - self.letter
        return shares


class HandNetwork:
    """One pass of a `hand_net` at a time, and the gate that tells letters from gestures. Threads may share it.

    Attributes:
        classes: the names of the logits.
        temperature: what the logits are divided by before they become probabilities.
    """

    def __init__(self, path: Path = ONE_PASS, gate: Path = letter_gate.FILE) -> None:
        if not path.is_file():
            raise UserError(
                f"{path} is missing: this model has no single pass; make its bundle anew with `horovod-asl export "
                "RUN --bundle FOLDER`"
            )
        self._session = open_session(path, threads=1)
        self._gate = letter_gate.load(gate)
        facts: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.classes: tuple[str, ...] = tuple(json.loads(facts["classes"]))
        self.temperature = float(facts["temperature"])
        self._crop_px = int(self._session.get_inputs()[0].shape[1])

    def read(self, square: Pixels, record: Record, passes: Sequence[Pass] = ALL_PASSES) -> Read:
        """What the network says of the hand in a frame.

        Args:
            square: the frame, uint8 (S, S, 3).
            record: of the hand in it, `HAND_DTYPE`.
        """
        cut = crop(square, record["box"], self._crop_px)
        hands = np.repeat(hand_arrays(record[None]), len(passes), axis=0)
        others, as_held = np.array(passes, np.float32).T
        hands[:, SEEN_ROW, 1] *= 1 - 2 * others
        inputs: dict[str, Any] = {
            "crop": np.repeat(cut[None], len(passes), axis=0),
            "hand": hands,
            "as_held": as_held,
        }
        logits, embeddings = self._session.run(["logits", "embedding"], inputs)
        logits = logits.mean(0) / np.float32(self.temperature)
        return Read(logits, embeddings, as_held > 0, letter_gate.letter_probability(record, self._gate))
