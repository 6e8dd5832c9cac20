"""How a run ends early: a signal to any rank, and a step on which all ranks agree to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from horovod_asl.distributed.base import Backend

STOP_FILE = "HOROVOD_ASL_STOP_FILE"
"""Names a file; once it is there, the run is asked to stop. launch/lib.sh makes it when Ctrl-C is pressed, for no
launcher hands that key on to its ranks in a way that leaves them time to save."""


class Outcome(IntEnum):
    """How a run ended; the value is the program's exit code."""

    FINISHED = 0
    STOPPED = 3
    """After `--stop-after-steps`."""
    PREEMPTED = 85
    """After a signal: what was done is saved, and the job is to be started again."""
    INTERRUPTED = 130
    """After Ctrl-C: saved as well, but not to be started again unasked; shells give SIGINT this code."""


class StopSignal:
    """Remembers that this process was asked to stop: by SIGUSR1, or by SIGTERM or Ctrl-C where it is alone.

    Several ranks leave SIGTERM and SIGINT alone: that is how launchers end what is left of a job that failed, and
    mpirun allows two seconds for it, too few to agree and save. SIGUSR1 it passes on to its ranks.
    """

    def __init__(self) -> None:
        self.received = False
        self._alone = self._interrupts = False
        self._interrupted = False
        file = os.environ.get(STOP_FILE)
        self._file = Path(file) if file else None

    @property
    def is_asked(self) -> bool:
        """Whether to stop: a signal came, or the file that `STOP_FILE` names is there."""
        return self.received or self._file_is_there

    @property
    def _file_is_there(self) -> bool:
        return self._file is not None and self._file.exists()

    @property
    def outcome(self) -> Outcome:
        """That of a run which stopped because it was asked to."""
        return Outcome.INTERRUPTED if self._interrupted or self._file_is_there else Outcome.PREEMPTED

    def exit_code(self, outcome: Outcome) -> int:
        """The program's: the outcome's value, but 0 where the file asked to stop.

        launch/lib.sh, which made the file, leaves with 130; a launcher whose ranks leave with 0 prints no traceback.
        """
        return 0 if outcome is Outcome.INTERRUPTED and self._file_is_there else int(outcome)

    def listen(self, *, alone: bool, interrupts: bool = False) -> StopSignal:
        """Handle the signals from here on; call it in the main thread.

        Args:
            alone: there is no other rank.
            interrupts: Ctrl-C asks to stop here although there are others: torchrun's ranks have 30 s from then on.
        """
        self._alone, self._interrupts = alone, alone or interrupts
        signal.signal(signal.SIGUSR1, self._remember)
        if alone:
            signal.signal(signal.SIGTERM, self._remember)
        return self

    @contextlib.contextmanager
    def catching_interrupts(self) -> Iterator[None]:
        """Within, the first Ctrl-C is remembered, and the next raises KeyboardInterrupt, as each does elsewhere.

        Nothing changes for one of several ranks whose launcher ends them, nor where Ctrl-C is ignored, as in a
        shell's background.
        """
        before = signal.getsignal(signal.SIGINT)
        if not self._interrupts or before in (None, signal.SIG_IGN):
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self.received = self._interrupted = True
        if self._alone:  # not print: the signal may have come in the middle of one
            os.write(2, b"\nCtrl-C: saving, then stopping; press it again to end at once\n")


def epochs_without_gain(history: Sequence[Mapping[str, Any]]) -> int:
    """Epochs since the best `validation_top1` of a run's history; an equal one later is no gain. 0 without any."""
    scores = [row["validation_top1"] for row in history]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


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
        ballot = [float(self._stop.is_asked), elapsed_s]
        votes, total_s = self._backend.sum(
            torch.tensor(ballot, dtype=torch.float64, device=self._backend.device)
        ).tolist()
        mean_s = max(total_s / self._backend.world_size, 1e-6)
        steps = 0.0 if self._last_step is None else (step - self._last_step) * self._every_s / mean_s
        self._last_step, self._next_step = step, step + max(1, min(int(steps), 10_000))
        self._last_time = time.monotonic()
        return bool(votes > 0)
