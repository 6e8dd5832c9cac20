"""Ends a rank that waits for ever, and names the rank it waits for: MPI's collectives have no timeout of their own.

A thread in every rank notes how long the main thread has made no progress. Each second it sends a datagram to
rank 0 (step, and how many collectives this rank has come to) and gets rank 0's view of the others back. Where
nothing has moved for the timeout, it prints which rank is silent or behind, and leaves; the launcher then ends
the rest. Datagrams cannot hang, whatever became of the network. The thread also leaves when the launcher that
started this process is gone, so that none is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import torch

from horovod_asl.distributed.base import Serial
from horovod_asl.distributed.diagnosis import Report, diagnose
from horovod_asl.errors import UserError

TICK_S = 1.0
_SILENT_AFTER_S = 10.0
# Where a host is gone, mpirun or Gloo (after 30 s) may end the job before this thread does, and name no rank.
_NOTICE_AFTER_S = 20.0
# Ranks of one job start within seconds of each other, also where they read Python from a slow disk.
_START_NOTICE_AFTER_S = 15.0
Meeting = dict[str, Any]
# Gloo and NCCL, of a rank that has ended.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


class Watchdog(threading.Thread):
    """The thread of one rank. `timeout_s` None: only the launcher is watched."""

    def __init__(self, rank: int, world_size: int, *, timeout_s: float | None = None) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self.step = self.collectives = self._steps_begun = 0
        self._progress_s = time.monotonic()
        self._noticed = False
        self._silent_after_s = min(_SILENT_AFTER_S, max(3 * TICK_S, (timeout_s or math.inf) / 4))
        self._parent, self._shell = os.getppid(), _horovodruns_shell()
        self._is_gloo = os.environ.get("HOROVOD_CONTROLLER") == "gloo"
        if self._is_gloo and sys.platform.startswith("linux"):  # horovodrun cannot end a stopped rank over ssh
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, its starter being a shell
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self._reports: dict[int, Report] = {}
        self._view, self._heard_rank_0_s = "", time.monotonic()
        self._meeting: Meeting | None = None
        self.awaits = self._reported = ""
        """For whom this rank waits while it starts, in words."""
        self._reported_s = 0.0
        self._waiting_since_s: float | None = None
        self._leave_at_s, self._leave_with = math.inf, ""
        self._ended = threading.Event()

    def invitation(self) -> Meeting:
        """Where rank 0 can be reached, for all ranks to `meet`."""
        addresses = [
            address.address
            for interface in psutil.net_if_addrs().values()
            for address in interface
            if address.family == socket.AF_INET
        ]
        port = self._socket.getsockname()[1]
        return {
            "addresses": addresses,
            "port": port,
            "token": secrets.token_hex(8),
            "host": socket.gethostname(),
        }

    def meet(self, invitation: Meeting) -> None:
        """Begin to exchange reports."""
        self._meeting, self._heard_rank_0_s = invitation, time.monotonic()

    def heartbeat(self, step: int | None = None) -> None:
        """The main thread makes progress."""
        self._progress_s = time.monotonic()
        if step is not None:
            self.step = step
            self._steps_begun += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Surrounds the start, where ranks find each other: after a while the thread prints what is in `awaits`."""
        self._waiting_since_s = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since_s = None

    @contextlib.contextmanager
    def leaving_after(self, seconds: float, message: str) -> Iterator[None]:
        """Surrounds a call that may block for ever: then this process ends with `message`."""
        self._leave_with, self._leave_at_s = message, time.monotonic() + seconds
        try:
            yield
        finally:
            self._leave_at_s = math.inf

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def run(self) -> None:
        """Once a second: report, listen, judge."""
        while not self._ended.wait(TICK_S):
            if os.getppid() != self._parent or not _alive(self._shell):
                self._leave("the launcher is gone")
            with contextlib.suppress(OSError):  # a network that is down is what the judgement is about
                self._exchange()
            self._judge_start()
            self._judge()

    def _judge_start(self) -> None:
        now_s = time.monotonic()
        if now_s > self._leave_at_s:
            self._leave(self._leave_with)
        since_s, awaits = self._waiting_since_s, self.awaits
        if since_s is None or now_s < max(since_s, self._reported_s) + _START_NOTICE_AFTER_S:
            return
        if awaits not in ("", self._reported):
            self._reported, self._reported_s = awaits, now_s
            self._log(f"rank {self.rank}: since {now_s - since_s:.0f} s waiting for {awaits}")

    def _exchange(self) -> None:
        meeting = self._meeting
        if meeting is None:
            return
        own = Report(self.rank, socket.gethostname(), self.step, self.collectives, time.monotonic())
        if self.rank == 0:
            self._reports[0] = own
        else:
            message = [meeting["token"], own.rank, own.host, own.step, own.collectives]
            for address in meeting["addresses"]:
                with contextlib.suppress(OSError):
                    self._socket.sendto(json.dumps(message).encode(), (address, meeting["port"]))
        self._listen(meeting["token"])

    def _listen(self, token: str) -> None:
        self._socket.setblocking(False)
        for _ in range(4 * self.world_size):
            try:
                data, sender = self._socket.recvfrom(65536)
                words = json.loads(data)
            except (BlockingIOError, ConnectionError):
                return
            except ValueError:
                continue
            if not isinstance(words, list) or not words or words[0] != token:
                continue
            if self.rank == 0 and len(words) == 5:
                rank, host, step, collectives = words[1:]
                self._reports[rank] = Report(rank, host, step, collectives, time.monotonic())
                self._socket.sendto(json.dumps([token, self._view_of_rank_0()]).encode(), sender)
            elif self.rank != 0 and len(words) == 2:
                self._view, self._heard_rank_0_s = words[1], time.monotonic()

    def _view_of_rank_0(self) -> str:
        return diagnose(
            self._reports, self.world_size, now_s=time.monotonic(), silent_after_s=self._silent_after_s
        )

    def _judge(self) -> None:
        if self.timeout_s is None or self._meeting is None:
            return
        waited_s = time.monotonic() - self._progress_s
        # The way to the first step is longer: reading, building, compiling; and it differs by rank.
        timeout_s = self.timeout_s * (3 if self._steps_begun < 2 else 1)
        patience_s = 0 if self.rank == 0 else 2 * TICK_S  # rank 0 knows most, so it speaks first
        if waited_s < min(_NOTICE_AFTER_S, timeout_s / 3) + patience_s:
            self._noticed = False
            return
        reason = f"no progress for {waited_s:.0f} s in step {self.step}: {self._cause()}"
        if waited_s >= timeout_s + patience_s:
            self._leave(reason)
        # Under MPI by rank 0 alone: with output under way to the other side of a cut, orted there would not end.
        if "is silent" in reason and not self._noticed and (self.rank == 0 or self._is_gloo):
            self._noticed = True
            self._log(f"warning: rank {self.rank}: {reason} (the job ends at {timeout_s:.0f} s)")

    def _cause(self) -> str:
        assert self._meeting is not None
        if self.rank == 0:
            return self._view_of_rank_0() or "all ranks wait for each other; is the network at fault?"
        quiet_s = self._quiet_s()
        if quiet_s > self._silent_after_s:
            return (
                f"rank 0 on {self._meeting['host']} is silent since {quiet_s:.0f} s: its process, its host or "
                "the network has stopped"
            )
        return self._view or "all ranks wait for each other; is the network at fault?"

    def _quiet_s(self) -> float:
        """Since when nothing was heard of rank 0."""
        return time.monotonic() - self._heard_rank_0_s

    def _log(self, line: str) -> None:
        with contextlib.suppress(OSError):  # whoever read our output may be gone with the launcher
            print(line, file=sys.stderr, flush=True)

    def _leave(self, reason: str) -> None:
        self._log(f"error: rank {self.rank}: {reason}")
        os._exit(1)  # the main thread is in a collective that will not return


class Watched(Serial):
    """What the backends of several processes have in common: every collective is under the watchdog's eyes.

    The watchdog has been started: it sees the ranks' meeting too.
    """

    lost: Sequence[str] = _LOST
    """Parts of the libraries' errors where another rank has ended."""

    def __init__(self, device: torch.device, watchdog: Watchdog) -> None:
        super().__init__(device)
        self._watchdog = watchdog

    def watch(self) -> None:
        """Tell all ranks where rank 0 listens; every rank must come here."""
        self._watchdog.meet(self.broadcast(self._watchdog.invitation()))

    def heartbeat(self, step: int | None = None) -> None:
        """This rank makes progress, in `step` if named."""
        self._watchdog.heartbeat(step)

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        """Surrounds what waits for other ranks."""
        self._watchdog.heartbeat()
        self._watchdog.collectives += 1
        with self._naming_lost_ranks():
            yield
        self._watchdog.heartbeat()

    @contextlib.contextmanager
    def _naming_lost_ranks(self) -> Iterator[None]:
        """UserError in place of a library's error where another rank has ended, whose own message has the cause."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            cause = next((words for words in self.lost if words in str(error)), None)
            if cause is None:
                raise
            raise UserError(f"another rank is gone ({cause}): see what it printed, or check the network") from error

    def close(self) -> None:
        """End the watch."""
        self._watchdog.stop()


def _horovodruns_shell() -> psutil.Process | None:
    """The shell that `horovodrun --mpi` becomes, above mpirun: killed alone, it leaves its mpirun behind."""
    above = psutil.Process().parents()[1:2]
    with contextlib.suppress(psutil.Error):
        if above and "-c mpirun --allow-run-as-root --tag-output" in " ".join(above[0].cmdline()):
            return above[0]
    return None


def _alive(process: psutil.Process | None) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process is None or (process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
