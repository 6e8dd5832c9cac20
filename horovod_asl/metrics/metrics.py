"""Every figure of a score derives from one tally of integers and sums, added over ranks once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

CALIBRATION_BINS = 15


class MetricAccumulator:
    """Counts on one rank: a confusion matrix, top-3 hits, the summed loss, and calibration bins.

    All of it lies in one float64 vector (exact for counts below 2**53), so that ranks add it in one sum.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._shape = (num_classes, num_classes)
        self._confusion = torch.zeros(num_classes * num_classes, dtype=torch.float64, device=device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # top-3 hits, negative log-likelihood
        self._bins = torch.zeros(2, CALIBRATION_BINS, dtype=torch.float64, device=device)  # confidence, hits
        self._bin_counts = torch.zeros(CALIBRATION_BINS, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch of logits (n, num_classes) against labels int64 (n,); nothing waits on the device."""
        log_probabilities = torch.log_softmax(logits.double(), dim=1)
        predicted = log_probabilities.argmax(1)
        hits = (predicted == labels).double()
        ones = torch.ones_like(hits)
        self._confusion.scatter_add_(0, labels * self._shape[1] + predicted, ones)
        own = log_probabilities.gather(1, labels[:, None])
        # Of equals the first counts as likelier, as for argmax: a hit of top-1 is then one of top-3 too.
        not_before = torch.arange(self._shape[1], device=labels.device) >= labels[:, None]
        behind = (log_probabilities < own) | ((log_probabilities == own) & not_before)  # the label itself too
        self._sums[0] += (behind.sum(1) > self._shape[1] - 3).sum()
        self._sums[1] -= own.sum()
        confidence = log_probabilities.amax(1).exp()
        bins = (confidence * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)  # 0: NaN too
        self._bins[0].scatter_add_(0, bins, confidence)
        self._bins[1].scatter_add_(0, bins, hits)
        self._bin_counts.scatter_add_(0, bins, ones)

    def scores(self, sum_over_ranks: Callable[[torch.Tensor], torch.Tensor]) -> Metrics:
        """The figures over all ranks; one collective."""
        parts = (self._confusion, self._sums, self._bins.flatten(), self._bin_counts)
        total = sum_over_ranks(torch.cat(parts)).cpu().numpy()
        confusion, sums, bins, counts = np.split(total, np.cumsum([part.numel() for part in parts])[:-1])
        confidence, hits = bins.reshape(2, CALIBRATION_BINS)
        return Metrics(
            confusion=confusion.reshape(self._shape).astype(np.int64),
            top3_hits=int(sums[0]),
            nll_sum=float(sums[1]),
            calibration_gap_sum=float(np.abs(confidence - hits)[counts > 0].sum()),
        )


@dataclass(frozen=True)
class Metrics:
    """What a model did on a set of photos.

    `confusion` is int64 (num_classes, num_classes), rows true, columns predicted. The rest are sums over photos.
    """

    confusion: npt.NDArray[np.int64]
    top3_hits: int
    nll_sum: float
    calibration_gap_sum: float

    @property
    def n(self) -> int:
        """Photos scored."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Photos correctly classified."""
        return int(np.trace(self.confusion))

    @property
    def top1(self) -> float:
        """Share correctly classified."""
        return self.correct / self.n

    @property
    def top3(self) -> float:
        """Share whose class is among the three likeliest."""
        return self.top3_hits / self.n

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, in nats."""
        return self.nll_sum / self.n

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017, arXiv:1706.04599)."""
        return self.calibration_gap_sum / self.n

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur, as label or as answer."""
        return float(np.mean([row["f1"] for row in self._rows() if row["n"] or row["predicted"]]))

    def per_class(self, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """Per class: n, predicted, correct, precision, recall, f1 (0 where undefined)."""
        return dict(zip(classes, self._rows(), strict=True))

    def without(self, left_out: Sequence[int]) -> dict[str, float]:
        """n, correct, top1 and macro_f1 of the photos whose label is none of these classes.

        An answer that is one of them is wrong, as any other; the mean of F1 is over the classes that stay, where
        they occur as label or as answer.
        """
        confusion = self.confusion.copy()
        confusion[list(left_out)] = 0
        rows = [
            row
            for index, row in enumerate(_class_rows(confusion))
            if index not in left_out and (row["n"] or row["predicted"])
        ]
        n, correct = int(confusion.sum()), int(np.trace(confusion))
        f1 = float(np.mean([row["f1"] for row in rows])) if rows else 0.0
        return {"n": n, "correct": correct, "top1": correct / n if n else 0.0, "macro_f1": f1}

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The JSON of `horovod-asl evaluate`."""
        return {
            "n": self.n,
            "correct": self.correct,
            "top1": self.top1,
            "top3": self.top3,
            "macro_f1": self.macro_f1,
            "nll": self.nll,
            "ece": self.ece,
            "classes": list(classes),
            "confusion": self.confusion.tolist(),
            "per_class": self.per_class(classes),
        }

    def _rows(self) -> list[dict[str, float]]:
        return _class_rows(self.confusion)


def _class_rows(confusion: npt.NDArray[np.int64]) -> list[dict[str, float]]:
    hits = np.diag(confusion)
    actual, predicted = confusion.sum(1), confusion.sum(0)
    precision = _ratio(hits, predicted)
    recall = _ratio(hits, actual)
    f1 = _ratio(2 * hits, actual + predicted)
    return [
        {
            "n": int(actual[k]),
            "predicted": int(predicted[k]),
            "correct": int(hits[k]),
            "precision": float(precision[k]),
            "recall": float(recall[k]),
            "f1": float(f1[k]),
        }
        for k in range(len(hits))
    ]


def _ratio(numerator: npt.NDArray[np.int64], denominator: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
