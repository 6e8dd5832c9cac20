"""What a training run shows: a live bar on a terminal, one plain line per epoch in a log; rank 0 only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horovod_asl.cli import command

if TYPE_CHECKING:
    from rich.progress import Progress


_LINE_EVERY_S = 10.0


class Display:
    """Progress of a run; on ranks other than 0 it shows nothing."""

    def __init__(self, *, rank: int, epochs: int, launched: bool) -> None:
        self.shown = rank == 0
        self.epochs = epochs
        # Launchers prefix every piece of output with the rank, and mpirun gives each rank a pseudo-terminal:
        # a bar would come out as a thousand lines.
        self._live = self.shown and sys.stdout.isatty() and not launched
        self._progress: Progress | None = None
        self._epoch_started = self._features_told = time.perf_counter()

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False)
        elif self.shown:
            print(line, flush=True)

    @contextmanager
    def bar(self) -> Iterator[None]:
        """Within, `on_step` moves a live bar, if this is a terminal."""
        self._epoch_started = time.perf_counter()
        if not self._live:
            yield
            return
        from rich.console import Console  # only here: ranks and logs do without
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(highlight=False, soft_wrap=True)
        columns = (TextColumn("step"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            self._progress = progress
            self._task = progress.add_task("train", total=None)
            yield
        self._progress = None

    def on_step(self, step: int, total: int) -> None:
        """`step` of `total` steps of the run are done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, total=total)

    def on_features(self, done: int, total: int) -> None:
        """`done` of `total` versions of photos have passed the frozen backbone: a line every ten seconds."""
        now = time.perf_counter()
        if now - self._features_told > _LINE_EVERY_S and done < total:
            self._features_told = now
            self.say(f"{done:,} of {total:,} photos and views of them have passed the frozen backbone")

    def on_epoch(self, row: Mapping[str, Any]) -> None:
        """One line for a finished epoch."""
        seconds = time.perf_counter() - self._epoch_started
        self._epoch_started += seconds
        parts = [f"epoch {row['epoch']:3d}/{self.epochs}", f"loss {row['train_loss']:.4f}"]
        parts.append(f"train {row['train_top1']:6.1%}")
        if "validation_top1" in row:
            parts.append(f"validation {row['validation_top1']:6.1%}")
        parts += [f"lr {row['learning_rate']:.2e}", f"{row['photos'] / seconds:,.0f} photos/s"]
        self.say("  ".join(parts))


def next_step(run: Path, store: str, *, is_sample: bool) -> str:
    """Commands that work as they stand, and how real photos come in where there were none."""
    if not is_sample:
        return f"next: {command('evaluate', run, 'FOLDER_OF_PHOTOS', '--json', 'scores.json')}"
    return (
        f"next: {command('evaluate', run, store)}\n"
        "this was the synthetic sample. With real photos:\n"
        f"  {command('prepare', 'path/to/asl_alphabet_train', 'stores/asl')}   (or the downloaded zip, or `kaggle`)\n"
        f"  {command('train', '--store', 'stores/asl')}   (all cores or GPUs: make train ARGS='--store stores/asl')"
    )

