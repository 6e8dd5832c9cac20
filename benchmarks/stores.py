"""Stores to measure with."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from horovod_asl.splits.split import SplitRule


def to_stderr(line: str) -> None:
    """Print a line where it is not taken for a side's answer."""
    print(line, file=sys.stderr)


def make_store(
    photos: Path | str,
    store: Path,
    *,
    group_by: tuple[str, ...] = ("auto",),
    samples: int | None = None,
    image_size: int = 64,
    split: SplitRule | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = to_stderr,
) -> tuple[int, float]:
    """Prepare the store of a folder of photos, a source called `photos`, without hands.

    The options are those of `prepare`. Returns how many photos the store holds, and the seconds that they took;
    importing what prepares them is left out.
    """
    from horovod_asl.prepare.options import PhotoSelection, PrepareOptions, Reporter, StoreFormat
    from horovod_asl.prepare.pipeline import prepare_store
    from horovod_asl.splits.split import SplitRule

    options = PrepareOptions(
        PhotoSelection((f"photos={photos}",), group_by=group_by, samples=samples),
        StoreFormat(image_size=image_size),
        split or SplitRule(),
    )
    started = time.perf_counter()
    report = prepare_store(store, options, workers=workers, reporter=Reporter(log=say))
    assert report is not None  # None is for the other ranks of MPI
    return report.photos, time.perf_counter() - started
