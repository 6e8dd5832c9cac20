"""P10: `prepare`, and a process that reads the store, where there are many times as many photos."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.bench import sides_command
from benchmarks.measure import Answer
from benchmarks.stores import make_store


def repeat(class_folders: str, target: str, times: str) -> Answer:
    """Copies of JPEGs that differ in their bytes (a comment) and not in their pixels: `once`, and all `times`."""
    count = 0
    for path in sorted(Path(class_folders).glob("*/*")):
        data = path.read_bytes()
        if data[:2] != b"\xff\xd8":
            continue
        for number in range(int(times)):
            note = f"copy {number}".encode()
            segment = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
            name = f"{path.stem}-{number}.jpg"
            for folder in ("once", "all") if number == 0 else ("all",):
                place = Path(target) / folder / path.parent.name
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data[:2] + segment + data[2:])
            count += 1
    return {"photos": count}


def grow(photos: str, store: str) -> Answer:
    """Prepare, open and read a first batch of a folder; times in seconds, memory in bytes."""
    count, seconds = make_store(photos, Path(store), group_by=("source",))
    own = _anonymous_bytes()
    command = sides_command("open-store", store)
    opened: Answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"photos": count, "prepare_seconds": seconds, "prepare_bytes": own} | opened


def open_store(store: str) -> Answer:
    """Open a store, find its training photos, read a batch of 32; and what it takes of memory beside the map."""
    from horovod_asl.engine.dataset import photos_of
    from horovod_asl.store.store import Store

    started = time.perf_counter()
    opened = Store.open(store)
    found = time.perf_counter()
    photos = photos_of(opened, opened.rows("train"), None)
    photos.gather(np.random.default_rng(0).integers(0, len(photos), 32))
    read = time.perf_counter()
    return {"open_seconds": found - started, "batch_seconds": read - found, "private_bytes": _private_bytes()}


def _anonymous_bytes() -> int:
    """This process's memory that no file lies behind (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def _private_bytes() -> int:
    return int(psutil.Process().memory_full_info().uss)
