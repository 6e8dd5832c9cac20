"""The TensorBoard curves of a run, whose points are there once however often a resume takes a step again.

tensorboard/            a point per epoch, over all ranks
tensorboard/steps/      some twenty points within each epoch, of rank 0's photos alone: no rank waits for them
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from horovod_asl.command_line.progress import LINE_EVERY_S
from horovod_asl.engine.resume import Position

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_POINTS_PER_EPOCH = 20


@dataclass(frozen=True)
class _Point:
    """What lies between a step and the point before.

    Attributes:
        sums: float64 (3,) on the device: summed loss, hits and photos of this rank.
        photos_per_s: of all ranks.
    """

    step: int
    sums: Tensor
    learning_rate: float
    photos_per_s: float


class Curves:
    """Writes the curves of a run under `folder`.

    Args:
        position, sums: the trainer's, which it changes with each step.
        shown: False on ranks other than 0, which write nothing.
        goes_on: whether the run goes on from `position`, and points may be there of steps that are taken again.
    """

    def __init__(
        self,
        folder: Path,
        position: Position,
        sums: Tensor,
        *,
        shown: bool,
        goes_on: bool,
        steps_per_epoch: int,
    ) -> None:
        self._folder, self._shown, self._goes_on = folder, shown, goes_on
        self._position, self._sums = position, sums
        self._first_step = position.step
        self._every = max(1, steps_per_epoch // _POINTS_PER_EPOCH)
        self._epochs: SummaryWriter | None = None
        self._steps: SummaryWriter | None = None
        self._points: list[_Point] = []
        self._written_at = time.monotonic()
        self._count_from_here()
        for row in position.history:
            if row["step"] == position.step:  # its line is purged, or the run died before it was written
                self.add(row)

    def on_step(self, learning_rate: float) -> None:
        """A step was taken, at this rate. Nothing is read from the device, but for all new points every 15 s."""
        if not self._shown or self._position.step % self._every:
            return
        seconds = time.monotonic() - self._counted_at
        rate = (self._position.photos - self._photos_before) / max(seconds, 1e-9)
        self._points.append(_Point(self._position.step, self._sums - self._sums_before, learning_rate, rate))
        self._count_from_here()
        if time.monotonic() - self._written_at > LINE_EVERY_S:
            self._write_points()

    def add(self, row: dict[str, Any]) -> None:
        """The figures of a finished epoch."""
        if not self._shown:
            return
        self._write_points()
        if self._epochs is None:
            self._epochs = _writer(self._folder, self._first_step if self._goes_on else None)
        for name in row.keys() - {"epoch", "step"}:
            self._epochs.add_scalar(name, row[name], row["step"])
        self._epochs.flush()  # a rank that is asked to stop leaves without tidying up
        self._count_from_here()

    def close(self) -> None:
        """Write what is left."""
        self._write_points()
        for writer in (self._epochs, self._steps):
            if writer is not None:
                writer.close()

    def _count_from_here(self) -> None:
        self._counted_at = time.monotonic()
        self._sums_before, self._photos_before = self._sums.clone(), self._position.photos

    def _write_points(self) -> None:
        self._written_at = time.monotonic()
        if not self._points:
            return
        if self._steps is None:
            # The point of the very step from which the run goes on is there: it stopped after it had written it.
            self._steps = _writer(self._folder / "steps", self._first_step + 1 if self._goes_on else None)
        for point in self._points:
            loss, _, photos = point.sums.tolist()
            if photos:  # a short last step may leave this rank without one
                self._steps.add_scalar("train_loss", loss / photos, point.step)
            self._steps.add_scalar("learning_rate", point.learning_rate, point.step)
            self._steps.add_scalar("photos_per_s", point.photos_per_s, point.step)
        self._steps.flush()
        self._points.clear()


def _writer(folder: Path, purge_step: int | None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed late

    return SummaryWriter(str(folder), purge_step=purge_step)
