"""How far a network's confidence can be trusted: one temperature for its logits, and what abstaining gains.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599) divides all logits by one number, fitted on photos that were
not in training. The answers stay the same, and so does their order by class; how sure they are changes. Abstaining
below a confidence trades coverage, the share of photos that get an answer, for accuracy among them (El-Yaniv &
Wiener 2010).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = (0.05, 20.0)
"""What a fit may give. Beyond, a softmax is a hard choice, or says nothing."""
THRESHOLDS = (*(round(0.05 * step, 2) for step in range(20)), 0.97, 0.98, 0.99)
"""Confidences that a score is reported at, ascending from 0: every photo."""
ACCURACIES = (0.95, 0.98, 0.99)
"""Accuracies that a score tells the threshold for."""

_HALVINGS = 50


class Abstention(NamedTuple):
    """What comes of answering only with a confidence of at least `threshold`.

    `coverage`: share of all photos that are answered; `accuracy`: share of those that are right, None where none is.
    """

    threshold: float
    coverage: float
    accuracy: float | None


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature that gives `labels` (n,) the least mean negative log-likelihood under softmax(logits / T).

    The loss is convex in 1/T (logits are linear in it), so the zero of its slope is found by halving. Where every
    answer is right, or where there is no photo, no temperature is best: the surer the better; 1 is given then, for
    a set without a mistake does not show how often they come. Rows of `logits` (n, classes) that are not finite
    are left aside.

    Returns:
        A number within `TEMPERATURES`, an end of it where the best one lies beyond.
    """
    sound = np.isfinite(logits).all(axis=1)
    scores, truth = logits[sound].astype(np.float64), labels[sound]
    if bool((scores.argmax(axis=1) == truth).all()):
        return 1.0
    own = scores[np.arange(len(truth)), truth]
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = (softmax(scores, math.exp(-middle)) * scores).sum(axis=1)
        low, high = (middle, high) if (expected - own).mean() < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities float64 (n, classes) of `logits` (n, classes) at a temperature."""
    scaled = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    shares = np.exp(scaled)
    result: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return result


def coverage_curve(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], thresholds: Iterable[float] = THRESHOLDS
) -> list[Abstention]:
    """What comes of each threshold, for photos with these confidences (n,) in answers that are `right` (n,)."""
    order = np.argsort(confidence)
    ascending = confidence[order]
    hits_from = np.append(np.cumsum(right[order][::-1])[::-1], 0)  # right answers from this place on
    points = []
    for threshold in thresholds:
        first = int(np.searchsorted(ascending, threshold))
        answered = len(ascending) - first
        accuracy = float(hits_from[first] / answered) if answered else None
        points.append(Abstention(float(threshold), answered / max(1, len(ascending)), accuracy))
    return points


def threshold_for(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], accuracy: float
) -> Abstention | None:
    """The lowest threshold whose answers are right in a share of at least `accuracy`; None where there is none.

    It is one of the confidences, so that it answers as many of these photos as can be.
    """
    descending, hits = np.sort(confidence)[::-1], right[np.argsort(-confidence, kind="stable")]
    shares = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    is_last_of_equals = np.append(descending[1:] < descending[:-1], True)[: len(descending)]
    enough = np.flatnonzero((shares >= accuracy) & is_last_of_equals)
    if not len(enough):
        return None
    last = int(enough[-1])
    return Abstention(float(descending[last]), (last + 1) / len(hits), float(shares[last]))
