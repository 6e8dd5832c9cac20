"""Frames → what each shows: the hand, and what the network says of it. One look a frame, one pass a look.

MediaPipe follows the hand from frame to frame. Where it lost it, the finder's full search looks for it at most every
`SEARCH_EVERY_S`. The network reads a hand on both sides and in two positions; a film takes these by turns, since the
speller adds up neighbouring frames anyway. The side is known once MediaPipe's handedness has been the same for long
enough; until then both are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.hands.landmarker import HandFollower
from horovod_asl.hands.record import Pixels, Record
from horovod_asl.live.reader import ALL_PASSES, HandNetwork, Pass, Read

SEARCH_EVERY_S = 0.5
PAIR_EVERY_S = 2.0
"""How often a second hand is looked for."""
_DARK = 40  # of 255: the frame's mean light
_OUTSIDE = 0.02  # of the square: a joint that is further beyond the frame's edge is cut off
_SURE_OF_SIDE = 6.0  # frames that say one side, less those that say the other


@dataclass(frozen=True, eq=False)
class Sighting:
    """What one frame shows. Without a hand `read`, `points` and `world` are None.

    Attributes:
        time_s: of the frame, in the film.
        problem: `no_hand`, `cut_off`, `too_dark`, `two_hands`, or None.
        aspect: the frame's width ÷ its height.
        read: what the network says of the hand.
        points: float32 (21, 2), the joints from the frame's upper left corner, in heights of the frame.
        world: float32 (21, 3), metres, as MediaPipe gives them.
        right: whether it is a right hand.
    """

    time_s: float
    problem: str | None
    aspect: float
    read: Read | None = None
    points: NDArray[np.float32] | None = None
    world: NDArray[np.float32] | None = None
    right: bool = True


class Tracker:
    """The hand of one film, frame by frame."""

    def __init__(self, network: HandNetwork) -> None:
        self._network = network
        self._follower = HandFollower()
        self._before: Record | None = None
        self._side = 0.0
        self._turn = 0
        self._searched_s = self._paired_s = -1e9
        self._two = False

    def see(self, frame: Pixels, time_s: float) -> Sighting:
        """Look at an RGB frame uint8 (H, W, 3); the time must grow from call to call."""
        square, corner = _square(frame)
        record = self._find(square, time_s)
        height, width = frame.shape[:2]
        if not record["found"]:
            self._side = 0.0
            problem = "too_dark" if frame[::8, ::8].mean() < _DARK else "no_hand"
            return Sighting(time_s, problem, width / height)
        self._side = float(np.clip(0.95 * self._side + (1 if record["right"] else -1), -20, 20))
        record["right"] = self._side >= 0
        points = (record["image"][:, :2] * len(square) - corner) / np.float32(height)
        return Sighting(
            time_s,
            self._problem(square, record, points * [height / width, 1], time_s),
            width / height,
            self._network.read(square, record, self._passes()),
            points,
            record["world"].copy(),
            bool(record["right"]),
        )

    def close(self) -> None:
        """Let MediaPipe's models go."""
        self._follower.close()

    def _find(self, square: Pixels, time_s: float) -> Record:
        record = self._follower.follow(square, time_s)
        if not record["found"] and self._before is not None:
            record = shared_finder().find_near(square, self._before)
        if not record["found"] and time_s - self._searched_s >= SEARCH_EVERY_S:
            self._searched_s = time_s
            small = Image.fromarray(square).resize((LOOK_PX, LOOK_PX), Image.Resampling.BILINEAR)
            record = shared_finder().find(np.asarray(small))
        self._before = record if record["found"] else None
        return record

    def _passes(self) -> list[Pass]:
        """The next pass, of both sides where the side is in doubt."""
        self._turn += 1
        as_held = bool(self._turn % 2)
        if abs(self._side) < _SURE_OF_SIDE:
            return list(ALL_PASSES)
        return [(False, as_held)]

    def _problem(
        self, square: Pixels, record: Record, joints: NDArray[np.float32], time_s: float
    ) -> str | None:
        if time_s - self._paired_s >= PAIR_EVERY_S:
            self._paired_s = time_s
            self._two = shared_finder().sees_another(square, record)
        if ((joints < -_OUTSIDE) | (joints > 1 + _OUTSIDE)).any():
            return "cut_off"
        return "two_hands" if self._two else None


def _square(frame: Pixels) -> tuple[Pixels, NDArray[np.float32]]:
    """The frame with its border repeated up to a square, and where its corner lies in it, in pixels (x, y)."""
    height, width = frame.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = ((top, side - height - top), (left, side - width - left), (0, 0))
    return np.pad(frame, edges, mode="edge"), np.array([left, top], np.float32)
