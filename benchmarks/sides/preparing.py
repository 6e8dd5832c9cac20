"""P3: `prepare` by a number of workers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import Answer
from benchmarks.stores import make_store


def prepare(photos: str, workers: str) -> Answer:
    """`prepare` with so many workers into a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        count, seconds = make_store(photos, Path(folder) / "store", workers=int(workers))
    return {"seconds": seconds, "photos": count}
