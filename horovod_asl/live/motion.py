"""How fast a hand moves, and how fast it changes its shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from horovod_asl.live.tracker import Sighting

_WRIST, _MIDDLE_KNUCKLE = 0, 9
_STEADIED = 0.5
"""How much of a frame's joints goes into their running mean: landmarks tremble by a few pixels."""


class Motion:
    """The movement of one hand, frame by frame."""

    def __init__(self) -> None:
        self._before: tuple[float, NDArray[np.float64]] | None = None

    def speed(self, sighting: Sighting) -> float:
        """Palm lengths a second: the mean over the joints, of place and shape together; 0 in a hand's first frame."""
        if sighting.points is None:
            self._before = None
            return 0.0
        points = sighting.points.astype(np.float64)
        if self._before is None:
            self._before = sighting.time_s, points
            return 0.0
        before_s, before = self._before
        points = _STEADIED * points + (1 - _STEADIED) * before
        self._before = sighting.time_s, points
        moved = np.linalg.norm(points - before, axis=1).mean() / palm_length(points)
        return float(moved / max(sighting.time_s - before_s, 1e-3))


def palm_length(points: NDArray[np.float64]) -> float:
    """From the wrist to the middle finger's knuckle: points float (21, 2)."""
    return max(float(np.linalg.norm(points[_MIDDLE_KNUCKLE] - points[_WRIST])), 1e-3)
