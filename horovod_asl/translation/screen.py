"""The text as it comes: on a terminal letter by letter; else a progress bar on standard error, and nothing here."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from horovod_asl.command_line.progress import Progress
from horovod_asl.live.translator import Translation
from horovod_asl.translation.film_text import PROBLEMS

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_TAIL = 400
"""Characters of the text that are shown while more come; the whole text is printed at the end."""


class Screen:
    """`with Screen(seconds) as screen:` then `screen.show(seen)` for each frame.

    Args:
        seconds: how long the source is; None where that is not known.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._live: Live | None = None
        self._progress = Progress("seconds read")

    def __enter__(self) -> Screen:
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=sys.stdout, highlight=False)
            self._live = Live(console=console, transient=True, refresh_per_second=10, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self._progress.close()

    def show(self, seen: Translation) -> None:
        """What one frame shows."""
        if self._live is not None:
            self._live.update(self._lines(seen))
        elif self._seconds is not None:
            self._progress.update(int(seen.time_s), max(int(self._seconds), 1))

    def _lines(self, seen: Translation) -> Text:
        from rich.text import Text

        parts = [_clock(seen.time_s) + (f" of {_clock(self._seconds)}" if self._seconds else "")]
        if seen.held is not None:
            parts.append(f"{seen.held.label} {seen.held.confidence:.0%}")
        if seen.problem is not None:
            parts.append(PROBLEMS.get(seen.problem, seen.problem))
        return Text.assemble(seen.text[-_TAIL:], "▏\n", ("  ".join(parts), "dim"))


def _clock(seconds: float) -> str:
    """`1:02`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
