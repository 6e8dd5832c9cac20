"""What a page has sent and nobody has read yet: the newest frame alone, and its orders one after the other."""

from __future__ import annotations

import asyncio
from collections import deque

from horovod_asl.web.messages import Frame, Order


class Mailbox:
    """For one event loop: one side puts, the other takes. It never grows."""

    def __init__(self, most_orders: int) -> None:
        self._most_orders = most_orders
        self._orders: deque[Order] = deque()
        self._frame: Frame | None = None
        self._filled = asyncio.Event()
        self.dropped = 0
        """Frames that a newer one replaced, since this was last set to 0."""

    def put_frame(self, frame: Frame) -> None:
        """Keep this frame, and drop the one that still waits."""
        self.dropped += self._frame is not None
        self._frame = frame
        self._filled.set()

    def put_order(self, order: Order) -> bool:
        """Keep this order behind the others; False: there are too many."""
        if len(self._orders) >= self._most_orders:
            return False
        self._orders.append(order)
        self._filled.set()
        return True

    async def take(self) -> Frame | Order:
        """The oldest order, or else the newest frame, as soon as there is one."""
        await self._filled.wait()
        taken: Frame | Order | None = self._orders.popleft() if self._orders else self._frame
        if taken is self._frame:
            self._frame = None
        if not self._orders and self._frame is None:
            self._filled.clear()
        assert taken is not None
        return taken
