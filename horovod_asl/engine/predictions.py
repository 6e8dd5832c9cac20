"""The predictions of a network for a set of photos, and the figures that are computed from them.

`evaluate` counts as it goes, which is enough for an epoch's line. Temperature and abstention want every
photo's logits: they are few beside the photos (29 numbers each), so all ranks get all of them, and the figures are
those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from horovod_asl.distributed.base import Backend
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.evaluate import PassOptions, forward_passes
from horovod_asl.engine.loader import evaluation_shard
from horovod_asl.labels import MOVEMENTS
from horovod_asl.metrics.calibration import (
    ACCURACIES,
    coverage_curve,
    fit_temperature,
    softmax,
    threshold_for,
)
from horovod_asl.metrics.metrics import MetricAccumulator, Metrics

_ROWS_AT_ONCE = 2**15


@dataclass(frozen=True)
class Predictions:
    """Logits float32 (n, classes) and labels int64 (n,), equal on every rank."""

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which photos are correctly classified, bool (n,)."""
        right: npt.NDArray[np.bool_] = self.logits.argmax(axis=1) == self.labels
        return right

    def confidence(self, temperature: float = 1.0) -> npt.NDArray[np.float64]:
        """The probability of each photo's answer, float64 (n,)."""
        confidence: npt.NDArray[np.float64] = softmax(self.logits, temperature).max(axis=1)
        return np.nan_to_num(confidence)

    def scores(self, temperature: float = 1.0) -> Metrics:
        """The figures at a temperature; accuracy and all that follows from it is the same at each."""
        accumulator = MetricAccumulator(self.logits.shape[1], torch.device("cpu"))
        for start in range(0, len(self), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            logits = torch.from_numpy(self.logits[part])
            accumulator.add(
                logits if temperature == 1 else logits.double() / temperature,
                torch.from_numpy(self.labels[part]),
            )
        return accumulator.scores(torch.clone)

    def temperature(self) -> float:
        """The temperature that fits these answers; fit it on validation photos, never on those to be scored."""
        return fit_temperature(self.logits, self.labels)


def predict_all(
    model: nn.Module,
    backend: Backend,
    photos: Dataset,
    options: PassOptions = PassOptions(),  # noqa: B008
    *,
    already_sharded: bool = False,
) -> Predictions:
    """The predictions of `model` for each photo, over all ranks; every rank must come here and gets all of them.

    Args:
        already_sharded: `photos` are those of this rank alone; else all ranks hold the same ones and divide them.

    The order is by rank, not that of `photos`.
    """
    rank, world_size = (0, 1) if already_sharded else (backend.rank, backend.world_size)
    rows = evaluation_shard(len(photos), world_size=world_size, rank=rank)
    parts = [logits.cpu().numpy() for logits, _ in forward_passes(model, backend, photos, rows, options)]
    own = np.concatenate(parts) if parts else None
    shares = backend.gather((own, photos.labels[rows]))
    return Predictions(
        np.concatenate([logits for logits, _ in shares if logits is not None]),
        np.concatenate([labels for _, labels in shares]),
    )


def metrics_report(
    predictions: Predictions, classes: Sequence[str], temperature: float = 1.0
) -> dict[str, Any]:
    """The JSON of a score: `Metrics.as_dict` of the logits as they are, and what is reported beside it.

    - without_j_z: n, correct, top1, macro_f1 of the photos whose label is no movement.
    - temperature, and at it: nll_calibrated, ece_calibrated and all that follows.
    - coverage: a list of {threshold, coverage, accuracy}, one for each of `calibration.THRESHOLDS`.
    - at_accuracy: {"0.95": {threshold, coverage, accuracy}}, the lowest threshold that gives it here, or null.
    """
    scores, calibrated = predictions.scores(), predictions.scores(temperature)
    confidence, right = predictions.confidence(temperature), predictions.right
    least = {accuracy: threshold_for(confidence, right, accuracy) for accuracy in ACCURACIES}
    return scores.as_dict(tuple(classes)) | {
        "without_j_z": scores.without([index for index, name in enumerate(classes) if name in MOVEMENTS]),
        "temperature": temperature,
        "nll_calibrated": calibrated.nll,
        "ece_calibrated": calibrated.ece,
        "coverage": [point._asdict() for point in coverage_curve(confidence, right)],
        "at_accuracy": {str(key): point and point._asdict() for key, point in least.items()},
    }
