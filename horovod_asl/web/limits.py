"""What one server gives at most, to all its pages and to strangers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The caps of `horovod-asl live`. A page of ours stays far below each of them."""

    sessions: int = 4
    """Pages at once: each has a thread, a hand finder of its own and up to all of a core."""
    connections: int = 128
    """Open sockets in all; more are closed at once."""
    request_seconds: float = 10.0
    """From the connection to the end of the first request's head, and from the head to the end of a body."""
    idle_seconds: float = 120.0
    """Without a message of the page."""
    send_seconds: float = 10.0
    """For one message to a page that reads slowly."""
    frame_bytes: int = 2**20
    """Of one JPEG; a frame of 640 × 480 pixels has about 50 kB."""
    frame_megapixels: float = 4.0
    frame_px: int = 1280
    """The longer side of what is read; larger frames are reduced as they are decoded."""
    frames_per_second: float = 30.0
    """Read of one page; the others are dropped."""
    messages_per_second: float = 120.0
    """Taken from one page, frames and texts together; who sends more is sent away."""
    bad_messages: int = 20
    """Frames and texts that cannot be read, until a page is sent away."""
    message_bytes: int = 4096
    """Of one text message in UTF-8."""
    waiting_orders: int = 32
    """Text messages of a page that wait for their turn."""
    text_characters: int = 10_000
    """Of a page's text; then it must be cleared."""
    photo_bytes: int = 16 * 2**20
    photo_megapixels: float = 50.0
    photos_per_second: float = 5.0
    speech_bytes: int = 16_384
    """Of the body of `/api/speak`."""
    speech_characters: int = 2000
    speeches_per_second: float = 2.0
    at_once: int = 2
    """Photos that are read at one time, and texts that are spoken; more must ask again."""


class Rate:
    """So many events a second on average, and as many at once; a token bucket."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._burst = max(per_second, 1.0)
        self._left, self._at = self._burst, clock()

    def allows(self) -> bool:
        """Whether one more may happen now; if so, it is counted."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Gate:
    """Events of one kind: only so many at one time, and so many a second. For one thread, the event loop's."""

    def __init__(self, at_once: int, per_second: float) -> None:
        self._free, self._rate = at_once, Rate(per_second)

    def enter(self) -> bool:
        """Whether one more may begin; if so, `leave` must follow."""
        if self._free < 1 or not self._rate.allows():
            return False
        self._free -= 1
        return True

    def leave(self) -> None:
        """One that had entered is done."""
        self._free += 1
