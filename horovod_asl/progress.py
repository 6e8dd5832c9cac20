"""A live bar on a terminal; a plain line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich import progress as rich_progress
from rich.console import Console

LINE_EVERY_S = 10.0


class Progress:
    """`with Progress("photos") as progress:` then `progress.update(done, total)`; lines go to standard
    error."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = rich_progress.Progress(
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.description}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: rich_progress.TaskID | None = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line for the user, above the bar if there is one."""
        self._console.print(text, markup=False)

    def begin(self, unit: str) -> None:
        """The next stage: its count and its clock begin anew."""
        self._unit = unit
        self._started = time.monotonic()
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = self._bar.add_task(unit)

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self._console.is_terminal:
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task(self._unit, total=total)
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            rate = done / (self._last_line - self._started)
            print(f"{done} of {total} {self._unit}, {rate:.0f}/s", file=sys.stderr, flush=True)
