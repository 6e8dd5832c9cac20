"""J and Z, which are movements: the paths that the tips of the little and the index finger draw.

J is drawn with the hand of I, and Z with the hand of D, so a frame alone cannot tell them. A movement counts while
the drawing finger alone is stretched, and only if its tip went far enough in the way of that letter: J down, Z across
and back and across.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from horovod_asl.labels import CLASS_INDEX
from horovod_asl.live.motion import Place
from horovod_asl.live.tracker import Sighting

STILL: Mapping[str, str] = MappingProxyType({"J": "I", "Z": "D"})
"""What a letter that is a movement is when it is held still."""
TIPS: Mapping[str, int] = MappingProxyType({"J": 20, "Z": 8})
"""The tip of the finger that draws a letter."""
_SHAPES = {"J": ("I", "J", "Y"), "Z": ("D", "Z", "X")}
"""What the network makes of the hand while it draws."""
_LONGEST_S = 1.6
_LAPSE_S = 0.2
"""For how long the hand may look like something else in the middle."""
_DROP, _TURN = 0.5, 0.6
"""How far the tip must go down for J, in palm lengths, and how far the finger must turn, in radians."""
_ACROSS, _STROKES_OF_Z = 0.35, 3
"""How far the tip must go in each of the strokes of Z, in palm lengths."""
_FASTEST = 14.0
"""No fingertip goes faster, in palm lengths a second."""
_FEWEST, _SHAPED, _UNSTEADY = 3, 0.4, 0.1


@dataclass(frozen=True)
class Stroke:
    """The last `frames` frames drew this letter."""

    letter: str
    frames: int


class Strokes:
    """The movements of one hand, frame by frame."""

    def __init__(self) -> None:
        self._paths: dict[str, list[_Point]] = {letter: [] for letter in TIPS}
        self._frame = 0

    def feed(self, sighting: Sighting, place: Place | None) -> Stroke | None:
        """The movement that this frame completes or goes on with."""
        self._frame += 1
        for letter, path in self._paths.items():
            self._extend(letter, path, sighting, place)
            if len(path) >= _FEWEST and _DRAWN[letter](path):
                return Stroke(letter, self._frame - path[0].frame + 1)
        return None

    def _extend(
        self, letter: str, path: list[_Point], sighting: Sighting, place: Place | None
    ) -> None:
        while path and path[0].time_s < sighting.time_s - _LONGEST_S:
            del path[0]
        if place is None or not _has_shape(letter, sighting):
            if path and sighting.time_s - path[-1].time_s > _LAPSE_S:
                path.clear()
            return
        point = _point(letter, place, sighting.right, self._frame)
        if path and point.far_from(path[-1]):
            path.clear()
        path.append(point)


@dataclass(frozen=True)
class _Point:
    """The tip of the drawing finger: palm lengths, as of a right hand; and where the finger points, radians."""

    frame: int
    time_s: float
    x: float
    y: float
    pointing: float

    def far_from(self, before: _Point) -> bool:
        """Whether no hand comes here from there in that time: the film was cut."""
        reach = _FASTEST * max(self.time_s - before.time_s, 1e-3)
        return float(np.hypot(self.x - before.x, self.y - before.y)) > reach


def _point(letter: str, place: Place, right: bool, frame: int) -> _Point:
    joints = place.joints * [1 if right else -1, 1]
    knuckle, tip = joints[TIPS[letter] - 3], joints[TIPS[letter]]
    pointing = float(np.arctan2(*(tip - knuckle)[::-1]))
    return _Point(frame, place.time_s, float(tip[0]), float(tip[1]), pointing)


def _has_shape(letter: str, sighting: Sighting) -> bool:
    if sighting.read is None:
        return False
    shares = sighting.read.probabilities
    return float(sum(shares[CLASS_INDEX[name]] for name in _SHAPES[letter])) > _SHAPED


def _draws_j(path: list[_Point]) -> bool:
    """Whether the tip goes down by enough, steadily, and the finger turns meanwhile."""
    turned = np.unwrap([point.pointing for point in path])
    first = 0
    for last in range(1, len(path)):
        if path[last].y < path[last - 1].y - _UNSTEADY or path[first].y > path[last].y:
            first = last
        far = path[last].y - path[first].y >= _DROP and last - first >= _FEWEST
        if far and np.ptp(turned[first:]) >= _TURN:
            return True
    return False


def _draws_z(path: list[_Point]) -> bool:
    """Whether the tip goes across, back and across again, each by enough."""
    strokes, way = 0, 0
    low = high = path[0].x
    for x in (point.x for point in path):
        low, high = min(low, x), max(high, x)
        if way >= 0 and high - x >= _ACROSS:
            strokes, way, low, high = strokes + 1, -1, x, x
        elif way <= 0 and x - low >= _ACROSS:
            strokes, way, low, high = strokes + 1, 1, x, x
    return strokes >= _STROKES_OF_Z


_DRAWN = {"J": _draws_j, "Z": _draws_z}
