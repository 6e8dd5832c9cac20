"""What a step costs on n ranks: compute, plus a ring allreduce's latency and bytes; fitted, and predicted from.

A ring sends 2(n − 1) messages, one after the other, and through each link 2(n − 1)/n of the gradients' bytes S
(Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002):

    step(n, S) = compute + latency · 2(n − 1) + 2(n − 1)/n · S / bandwidth

What is hidden behind the backward pass counts as bandwidth here: the fitted one is that of what is left to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Observation:
    """Step times of `ranks` ranks: with gradients reduced, and of as many independent processes (`compute`).

    `gradient_bytes`: S, the bytes of one rank's gradients.
    """

    model: str
    ranks: int
    gradient_bytes: float
    compute_seconds: float
    step_seconds: float

    @property
    def efficiency(self) -> float:
        """The share of independent processes' speed that is left."""
        return self.compute_seconds / self.step_seconds


@dataclass(frozen=True)
class Ring:
    """Latency of a message in seconds, and bandwidth of a link in bytes per second (∞ where nothing shows)."""

    latency_seconds: float
    bandwidth_bytes_per_second: float

    def seconds(self, ranks: int, gradient_bytes: float) -> float:
        """What the allreduce adds to a step."""
        messages = 2 * (ranks - 1)
        return messages * self.latency_seconds + (
            messages / ranks * gradient_bytes / self.bandwidth_bytes_per_second
        )

    def efficiency(self, ranks: int, gradient_bytes: float, compute_seconds: float) -> float:
        """The share of one rank's speed that each of `ranks` keeps."""
        return compute_seconds / (compute_seconds + self.seconds(ranks, gradient_bytes))


def fit(observations: Sequence[Observation]) -> Ring:
    """The ring that explains best (least squares over what a step adds to compute); neither cost is negative."""
    several = [one for one in observations if one.ranks > 1]
    if not several:
        raise ValueError("a fit needs a point with more than one rank")
    messages = np.array([2.0 * (one.ranks - 1) for one in several])
    volume = messages / [one.ranks for one in several] * [one.gradient_bytes for one in several]
    added = np.array([one.step_seconds - one.compute_seconds for one in several])
    latency, per_byte = _non_negative(np.stack([messages, volume], 1), added)
    return Ring(latency, 1.0 / per_byte if per_byte > 0 else float("inf"))


def held_back_errors(observations: Sequence[Observation]) -> list[float]:
    """For each point of several ranks: (predicted − measured) ÷ measured step time, fitted without that point."""
    several = [one for one in observations if one.ranks > 1]
    errors = []
    for left_out in several:
        others = [one for one in several if one is not left_out]
        if others:
            ring = fit(others)
            predicted = left_out.compute_seconds + ring.seconds(left_out.ranks, left_out.gradient_bytes)
            errors.append(predicted / left_out.step_seconds - 1.0)
    return errors


def _non_negative(design: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Least squares with both of two factors at least 0: the best of the inner solution and the two edges."""
    scale = np.linalg.norm(design, axis=0)
    design = design / scale
    candidates = [np.zeros(2)]
    inner = np.linalg.lstsq(design, target, rcond=None)[0]
    if (inner >= 0).all():
        candidates.append(inner)
    for column in range(2):
        edge = np.zeros(2)
        edge[column] = max(0.0, design[:, column] @ target / (design[:, column] @ design[:, column]))
        candidates.append(edge)
    best = min(candidates, key=lambda factors: float(((design @ factors - target) ** 2).sum())) / scale
    return float(best[0]), float(best[1])
