"""One page's session over its WebSocket: its newest frame is read, its orders are carried out, and each is answered.

Two tasks share a mailbox. One takes what the page sends, as fast as it comes, and keeps the newest frame alone. The
other has a thread, in which the page's reader works; a page that takes its answers slowly, or whose frames are hard
to read, waits for nobody but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from horovod_asl.errors import UserError
from horovod_asl.web.limits import Limits, Rate
from horovod_asl.web.mailbox import Mailbox
from horovod_asl.web.messages import (
    FAILED,
    POLICY,
    TEXT_FULL,
    TOO_BIG,
    BadMessageError,
    FarewellError,
    Frame,
    Order,
    error_message,
    frame_of,
    order_of,
)
from horovod_asl.web.page_reader import Answer, PageReader

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Channel(Protocol):
    """An open WebSocket."""

    async def receive(self) -> str | bytes | None:
        """The next message; None: the page is gone."""

    async def send(self, message: dict[str, Any]) -> None:
        """Send one as JSON, as soon as there is room for it; ConnectionError where the page is gone."""

    async def close(self, code: int) -> None:
        """Say goodbye; a page that takes nothing is cut off."""


class Places:
    """As many sessions as there are threads here; a new thread for each would grow the memory with each.

    Any thread may call.
    """

    def __init__(self, most: int) -> None:
        self._free = [ThreadPoolExecutor(1, thread_name_prefix="page") for _ in range(most)]

    def take(self) -> ThreadPoolExecutor | None:
        """A session's thread; None: all are taken."""
        try:
            return self._free.pop()
        except IndexError:
            return None

    def give_back(self, thread: ThreadPoolExecutor) -> None:
        """A session is over, its work in the thread included."""
        self._free.append(thread)


class Session:
    """The life of one session; `run` it once.

    Args:
        channel: to the page.
        make_reader: makes the page's reader; called in `thread`.
        thread: taken of some `Places`.
        leave: called in `thread` at the very end.
        limits: of the server.
    """

    def __init__(
        self,
        channel: Channel,
        make_reader: Callable[[], PageReader],
        thread: ThreadPoolExecutor,
        leave: Callable[[], None],
        limits: Limits,
    ) -> None:
        self._channel, self._make_reader, self._limits = channel, make_reader, limits
        self._thread, self._leave = thread, leave
        self._mailbox = Mailbox(limits.waiting_orders)
        self._incoming = Rate(limits.messages_per_second)
        self._bad = 0
        self._reader: PageReader | None = None

    async def run(self) -> None:
        """Until the page leaves or is sent away; the thread may still finish its last frame."""
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._answer())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._end(next(iter(done)).exception())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._thread.submit(self._finish)

    def _finish(self) -> None:
        """The last work of the thread."""
        try:
            if self._reader is not None:
                self._reader.close()
        finally:
            self._leave()

    def _begin(self) -> PageReader:
        self._reader = self._make_reader()
        return self._reader

    async def _receive(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._limits.idle_seconds):
                    message = await self._channel.receive()
            except TimeoutError:
                raise FarewellError(POLICY, "idle", "nothing came from the page for long") from None
            if message is None:
                return
            if not self._incoming.allows():
                raise FarewellError(POLICY, "too_fast", "the page sends too much")
            try:
                self._put(message)
            except BadMessageError as error:
                await self._complain(error)

    def _put(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._mailbox.put_frame(frame_of(message))
            return
        if len(message.encode()) > self._limits.message_bytes:
            raise FarewellError(TOO_BIG, "too_large", "a text message of the page is too large")
        if not self._mailbox.put_order(order_of(message)):
            raise FarewellError(POLICY, "too_fast", "the page sends more orders than can be carried out")

    async def _answer(self) -> None:
        reader = await self._in_thread(self._begin)
        await self._send_all(reader.greet())
        least_seconds = 1 / self._limits.frames_per_second
        ready_at = 0.0
        while True:
            await asyncio.sleep(ready_at - time.monotonic())
            taken = await self._mailbox.take()
            if isinstance(taken, Frame):
                ready_at = time.monotonic() + least_seconds
            try:
                *before, answer = await self._in_thread(partial(_work, reader, taken))
                await self._send_all([*before, answer | self._about(taken)])
            except BadMessageError as error:
                await self._complain(error, **self._about(taken))

    def _about(self, taken: Frame | Order) -> dict[str, Any]:
        """For the answer to a frame: which one it is, and how many were dropped since the last such answer."""
        if not isinstance(taken, Frame):
            return {}
        dropped, self._mailbox.dropped = self._mailbox.dropped, 0
        return {"sent_ms": taken.sent_ms, "dropped": dropped}

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _send(self, message: Answer) -> None:
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                await self._channel.send(message)
        except TimeoutError:
            raise FarewellError(POLICY, "too_slow", "the page does not take its answers") from None

    async def _send_all(self, messages: list[Answer]) -> None:
        for message in messages:
            await self._send(message)

    async def _complain(self, error: BadMessageError, **more: Any) -> None:
        self._bad += error.code != TEXT_FULL  # which is no fault of the page, and comes with each frame
        if self._bad > self._limits.bad_messages:
            raise FarewellError(POLICY, "too_many_errors", "too many messages could not be read") from error
        await self._send(error_message(error.code, str(error), **more))

    async def _end(self, error: BaseException | None) -> None:
        """Tell the page why, where it still listens."""
        if error is None or isinstance(error, ConnectionError):
            return
        if isinstance(error, UserError):
            error = FarewellError(FAILED, "failed", str(error))
        elif not isinstance(error, FarewellError):
            _LOG.error("a page's session failed", exc_info=error)
            error = FarewellError(FAILED, "failed", "the server failed; its window says why")
        await say_goodbye(self._channel, error, self._limits)


async def say_goodbye(channel: Channel, why: FarewellError, limits: Limits) -> None:
    """Send the reason and close; a page that does not listen is not waited for."""
    with contextlib.suppress(ConnectionError):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, limits.send_seconds)):
                await channel.send(error_message(why.code, str(why)))
        await channel.close(why.close_code)


def _work(reader: PageReader, taken: Frame | Order) -> list[Answer]:
    return reader.read(taken) if isinstance(taken, Frame) else [reader.obey(taken)]
