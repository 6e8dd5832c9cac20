"""How a hand moves: how fast, and whether it slid or let go for a moment, which writes a letter twice.

Distances are in palm lengths: from the wrist to the middle finger's knuckle, the median over the last frames, since
that of one frame trembles.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from horovod_asl.live.tracker import Sighting

_PALM = (0, 5, 9, 13, 17)
_WINDOW_S = 0.8
_SLID, _LET_GO = 0.35, 0.12
"""How far the palm must have gone, and the joints on the mean from where they were and are, for a letter to count
twice."""
_RESTING, _HELD = 2.5, 1.5
"""The speeds, in palm lengths a second, below which a hand has come to rest after a slide, and holds a letter before
it slides or lets go."""
_HELD_FRAMES = 2
_ONCE_S = 0.3
"""A slide or a release counts once in this time."""
_GLIDE_S = 0.45
"""A slide or a release takes no longer."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a hand is: its joints float64 (21, 2), and its palm's middle (2,), in palm lengths; its speed."""

    time_s: float
    joints: NDArray[np.float64]
    palm: NDArray[np.float64]
    speed: float


class Motion:
    """The movement of one hand over the last moments."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, NDArray[np.float64]]] = deque()
        self._counted_s = -1e9
        self._held_s: deque[float] = deque(maxlen=64)  # the times of frames in which the hand was still
        self.places: list[Place] = []

    def feed(self, sighting: Sighting) -> Place | None:
        """Where the hand is in this frame and how fast it is; None without a hand."""
        if sighting.points is None:
            if self.places and sighting.time_s - self.places[-1].time_s > _WINDOW_S:
                self._points.clear()
                self.places.clear()
            return None
        self._points.append((sighting.time_s, sighting.points.astype(np.float64)))
        while self._points[0][0] < sighting.time_s - _WINDOW_S:
            self._points.popleft()
        length = float(np.median([np.linalg.norm(points[9] - points[0]) for _, points in self._points]))
        before = self.places[-1] if self.places else None
        self.places = [_place(time_s, points, length) for time_s, points in self._points]
        place = self.places[-1]
        if before is None:
            return place
        ago = self.places[-2].joints if len(self.places) > 1 else place.joints
        step_s = max(sighting.time_s - before.time_s, 1e-3)
        speed = float(np.linalg.norm(place.joints - ago, axis=1).mean()) / step_s
        if speed < _HELD:
            self._held_s.append(place.time_s)
        return Place(place.time_s, place.joints, place.palm, speed)

    def travel(self, joint: int) -> float:
        """The length of this joint's path in the last moments, `_GLIDE_S`."""
        if not self.places:
            return 0.0
        path = [place.joints[joint] for place in self.places if place.time_s >= self.places[-1].time_s - _GLIDE_S]
        return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum()) if len(path) > 1 else 0.0

    def repeats(self, begun_s: float) -> bool:
        """Whether, with this frame, the hand has just slid to the side, or let go and come back.

        Args:
            begun_s: when the letter began; it must have been held still for a moment before.
        """
        if len(self.places) < 3 or self.places[-1].time_s - self._counted_s < _ONCE_S:
            return False
        now = self.places[-1]
        recent = [place for place in self.places if place.time_s >= now.time_s - _GLIDE_S]
        left_s = _slid(recent) if len(recent) > 1 else None
        if left_s is None and self._held_s and self._held_s[-1] == now.time_s:
            held_s = next((time_s for time_s in self._held_s if time_s >= begun_s), now.time_s)
            left_s = _let_go([place for place in self.places if place.time_s >= held_s], recent)
        if left_s is None or sum(begun_s <= time_s < left_s for time_s in self._held_s) < _HELD_FRAMES:
            return False
        self._counted_s = now.time_s
        return True


def _place(time_s: float, points: NDArray[np.float64], length: float) -> Place:
    joints = points / max(length, 1e-3)
    return Place(time_s, joints, joints[list(_PALM)].mean(0), 0.0)


def _shape(place: Place) -> NDArray[np.float64]:
    return place.joints - place.palm


def _slid(recent: list[Place]) -> float | None:
    """When the palm was last where it came from, if it went away and has come to rest; None if it did not."""
    now, before = recent[-1], recent[-2]
    step_s = max(now.time_s - before.time_s, 1e-3)
    if float(np.linalg.norm(now.palm - before.palm)) / step_s >= _RESTING:
        return None
    away = [place.time_s for place in recent if np.linalg.norm(now.palm - place.palm) >= _SLID]
    return max(away) if away else None


def _let_go(places: list[Place], recent: list[Place]) -> float | None:
    """When the fingers were elsewhere a moment ago, if before that they were where they are; None if not."""
    now = _shape(places[-1])
    away = [float(np.linalg.norm(_shape(place) - now, axis=1).mean()) for place in places]
    for middle in range(max(len(places) - len(recent), 1), len(places) - 1):
        if away[middle] - min(away[:middle]) >= _LET_GO:
            return places[middle].time_s
    return None
