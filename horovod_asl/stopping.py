"""How a run ends early: a signal to any rank, and a step on which all ranks agree to stop."""

from __future__ import annotations

import signal
import time
from enum import IntEnum
from types import FrameType

import torch

from horovod_asl.backends import Backend


class Outcome(IntEnum):
    """How a run ended; the value is the program's exit code."""

    FINISHED = 0
    STOPPED = 3
    """After `--stop-after-steps`."""
    PREEMPTED = 85
    """After a signal: saved, and to be started again with `--resume`."""


class StopSignal:
    """Remembers that this process was asked to stop: by SIGUSR1, or by SIGTERM where nobody else is waiting.

    Several ranks leave SIGTERM alone: it is how launchers end what is left of a job that failed, and mpirun
    allows two seconds for it, too few to agree and save. SIGUSR1 it passes on to its ranks.
    """

    def __init__(self) -> None:
        self.received = False

    def listen(self, *, alone: bool) -> StopSignal:
        """Handle the signals from here on; call it in the main thread. `alone`: there is no other rank."""
        signal.signal(signal.SIGUSR1, self._remember)
        if alone:
            signal.signal(signal.SIGTERM, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = True


class StopVote:
    """All ranks stop after the same step: they ask each other every two seconds or so, not in every step.

    A vote is a sum over ranks, which waits for the device and for Horovod's cycle. The step of the next vote
    follows from the speed that this one measured, the same number on every rank.
    """

    def __init__(self, backend: Backend, stop: StopSignal, *, every_s: float = 2.0) -> None:
        self._backend, self._stop, self._every_s = backend, stop, every_s
        self._last_step: int | None = None  # a run that was resumed does not begin at 0
        self._next_step = 0
        self._last_time = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether to vote after `step`: the same answer on every rank."""
        return step >= self._next_step

    def __call__(self, step: int) -> bool:
        """Whether any rank wants to stop; every rank must come here after the same step."""
        elapsed_s = time.monotonic() - self._last_time
        ballot = [float(self._stop.received), elapsed_s]
        votes, total_s = self._backend.sum(
            torch.tensor(ballot, dtype=torch.float64, device=self._backend.device)
        ).tolist()
        mean_s = max(total_s / self._backend.world_size, 1e-6)
        steps = 0.0 if self._last_step is None else (step - self._last_step) * self._every_s / mean_s
        self._last_step, self._next_step = step, step + max(1, min(int(steps), 10_000))
        self._last_time = time.monotonic()
        return bool(votes > 0)
