"""What shows that long work goes on: a live bar on a terminal, a plain line every 15 seconds in a log; rank 0 only.

Launchers put the rank before every piece of output, and mpirun gives each rank a pseudo-terminal: a bar would come
out as a thousand lines, so ranks write plain ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from horovod_asl.distributed.launcher import announced_rank

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY_S = 15.0
_BAR_EVERY_S = 0.5  # what it shows may have to be fetched from a device
_METER_OVER_S = 5.0  # what a live bar shows of the steps is of these seconds and the last half a second

Report = Callable[[int, int], None]
"""Gets how many of how many are done."""


def no_report(done: int, total: int) -> None:
    """The report of work that nobody watches."""


class Progress:
    """`with Progress("photos read") as progress:` then `progress.update(done, total)`.

    Args:
        unit: what is counted.
        rank: on others than 0 nothing is shown.
        stream: where it is shown; None: standard error.
    """

    def __init__(self, unit: str, *, rank: int = 0, stream: TextIO | None = None) -> None:
        self._shown = rank == 0
        self._stream = sys.stderr if stream is None else stream
        self.is_live = self._shown and self._stream.isatty() and announced_rank() is None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._drawn_at = time.monotonic()
        self.begin(unit)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; the next update shows it again."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def log(self, text: str) -> None:
        """A line for the user, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        elif self._shown:
            self._stream.write(f"{text}\n")  # as one piece, also where it is several lines
            self._stream.flush()

    def begin(self, unit: str) -> None:
        """The next stage: its count and its clock begin anew."""
        self.unit = unit
        self._began: tuple[float, int] | None = None

    def stage(self, name: str) -> None:
        """The next stage where nothing can be counted: its name, at once."""
        self.begin(name)
        if not self.is_live:
            self.log(f"{name} …")
            return
        self._draw_bar(name, None, None, "")

    def update(
        self, done: int, total: int, note: Callable[[], str] | None = None, *, label: str = ""
    ) -> None:
        """`done` of `total` are done; with the last of them a bar goes away.

        Args:
            note: what is shown beside the count, called only where something is shown; None: the rate and the time
                that is left.
            label: what is shown before the count.
        """
        if not self._shown:
            return
        now = time.monotonic()
        began_at, began_with = self._began = self._began or (now, done)
        if done >= total:
            self.close()
            return
        due_s = _BAR_EVERY_S if self.is_live else LINE_EVERY_S
        if now - self._drawn_at < due_s:
            return
        self._drawn_at = now
        beside = pace(done - began_with, total - done, now - began_at) if note is None else note()
        if self.is_live:
            self._draw_bar(f"{label}  {self.unit}" if label else self.unit, done, total, beside)
        else:
            self.log("  ".join(filter(None, (label, f"{self.unit} {done:,}/{total:,}", beside))))

    def _draw_bar(self, description: str, done: int | None, total: int | None, note: str) -> None:
        if self._bar is None:
            self._bar = _bar(self._stream)
            self._bar.start()
            self._task = self._bar.add_task("", note="")
        assert self._task is not None
        count = "" if done is None else f"{done:,}/{total:,}"
        beside = "  ".join(filter(None, (count, note)))
        self._bar.update(self._task, description=description, completed=done, total=total, note=beside)


def _bar(stream: TextIO) -> Bar:
    from rich.console import Console  # only here: ranks and logs do without
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(file=stream, highlight=False, soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[note]}")
    # Only onto a terminal: what is written into a file while the bar is up stays in that file.
    redirects = sys.stdout.isatty()
    return Bar(*columns, TimeElapsedColumn(), console=console, transient=True, redirect_stdout=redirects)


def pace(done: int, left: int, seconds: float) -> str:
    """The rate of what was done in `seconds`, and how long the rest takes: `4.2/s  3 min left`."""
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    return f"{rate:,.{0 if rate >= 10 else 1}f}/s  {duration(left / rate)} left"


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


class Display:
    """What a training run shows, on standard output; on ranks other than 0 nothing.

    Args:
        title: shown before the steps, such as the fold of a cross-validation.
    """

    def __init__(self, *, rank: int, epochs: int, world_size: int = 1, title: str = "") -> None:
        self._epochs, self._world_size, self._title = epochs, world_size, title
        self._progress = Progress("step", rank=rank, stream=sys.stdout)
        self._epoch_started = time.perf_counter()
        self._meter = Meter()
        self._run_began: tuple[float, int] | None = None  # with how many steps done

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.close()

    def log(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        self._progress.log(line)

    @contextmanager
    def bar(self) -> Iterator[None]:
        """Within, the clock of the first epoch runs, and a live bar is taken away at the end."""
        self._epoch_started = time.perf_counter()
        try:
            yield
        finally:
            self._progress.close()

    def on_step(self, step: int, total: int, photos: int, sums: Callable[[], Sequence[float]]) -> None:
        """`step` of `total` steps of the run are done.

        Args:
            photos: those of this epoch that have been in a step, of all ranks.
            sums: reads the summed loss, hits and photos of this rank in this epoch. It may wait for the device, and
                is called only where something is shown.
        """
        self._begin("step")
        if self._run_began is None:
            self._run_began = time.monotonic(), step
            self._meter.start(photos, sums())
            return  # nothing is known yet of how long a step takes
        began_at, began_with = self._run_began

        def note() -> str:
            loss, rate = self._meter.read(photos, sums())
            own = " (rank 0)" if self._world_size > 1 else ""
            seconds = time.monotonic() - began_at
            left = (total - step) * seconds / max(1, step - began_with)
            return f"loss {loss:.4f}{own}  {rate:,.0f} photos/s  {duration(left)} left"

        self._progress.update(step, total, note, label=self._title)

    def on_features(self, done: int, total: int) -> None:
        """`done` of `total` photos have passed the frozen layers."""
        self._begin("photos through the frozen layers")
        self._epoch_started = time.perf_counter()  # these photos count in no epoch's speed
        self._progress.update(done, total, label=self._title)

    def on_scored(self, done: int, total: int) -> None:
        """`done` of `total` photos, those of this rank, are scored."""
        self._begin(counted("scored", self._world_size))
        self._progress.update(done, total, label=self._title)

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """One line for a finished epoch."""
        seconds = time.perf_counter() - self._epoch_started
        self._epoch_started += seconds
        self._meter.start(0, (0.0, 0.0, 0.0))
        parts = [f"epoch {row['epoch']:3d}/{self._epochs}", f"loss {row['train_loss']:.4f}"]
        parts.append(f"train {row['train_top1']:5.1%}")
        if "validation_top1" in row:
            parts.append(f"val {row['validation_top1']:5.1%}")
        parts += [f"lr {row['learning_rate']:.1e}", f"{row['photos'] / seconds:,.0f} photos/s"]
        self.log("  ".join(parts))

    def _begin(self, unit: str) -> None:
        if self._progress.unit != unit:
            self._progress.begin(unit)


class Meter:
    """Loss and photos per second of the steps between two readings."""

    def __init__(self) -> None:
        self.start(0, (0.0, 0.0, 0.0))

    def start(self, photos: int, sums: Sequence[float]) -> None:
        """Count from here: so many photos and such sums (loss, hits, photos) of the epoch."""
        self._at, self._photos = time.monotonic(), photos
        self._loss, _, self._count = sums

    def read(self, photos: int, sums: Sequence[float]) -> tuple[float, float]:
        """The mean loss and the photos per second since the start, which moves on after some seconds."""
        loss, _, count = sums
        seconds = time.monotonic() - self._at
        mean = (loss - self._loss) / max(count - self._count, 1.0)
        rate = (photos - self._photos) / max(seconds, 1e-9)
        if seconds >= _METER_OVER_S:
            self.start(photos, sums)
        return mean, rate


def counted(done: str, world_size: int) -> str:
    """The unit of photos that ranks divide, such as `photos scored`: each rank knows of its own alone."""
    return f"photos {done}" if world_size == 1 else f"photos of rank 0 {done}"
