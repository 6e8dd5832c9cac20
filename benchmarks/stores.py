"""Stores to measure with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def to_stderr(line: str) -> None:
    """Print a line where it is not taken for a side's answer."""
    print(line, file=sys.stderr)


def make_store(
    photos: Path | str, store: Path, *, say: Callable[[str], None] = to_stderr, **options: Any
) -> tuple[int, float]:
    """Prepare the store of a folder of photos, a source called `photos`, without hands.

    `options` are further ones of `prepare_store`. Returns how many photos the store holds, and the seconds that they
    took; importing what prepares them is left out.
    """
    from horovod_asl.data.build import prepare_store

    started = time.perf_counter()
    report = prepare_store(sources=[f"photos={photos}"], store=store, say=say, **options)
    assert report is not None  # None is for the other ranks of MPI
    return report.photos, time.perf_counter() - started
