"""The stage that finds hands: every photo of a prepare once, through the same workers as the decoding.

This is the slow part of a prepare, and what many ranks are for. Like the decoded pixels, the records lie in chunk
files of the work folder, keyed by the photos' SHA-256, so an interrupted prepare goes on where it stopped, and a
store that is made again keeps what it has.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.hands.record import HAND_DTYPE, Pixels, crop
from horovod_asl.photos.decode import decode_photo
from horovod_asl.photos.origins import Origin
from horovod_asl.prepare.chunks import read_records, write_records
from horovod_asl.prepare.decode_stage import Batch, run_tasks
from horovod_asl.prepare.options import Reporter
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import SHARD_PHOTOS, is_copy
from horovod_asl.store.work_folder import WorkFolder

PHOTOS_PER_TASK = 16
"""What a worker takes at a time: about a second's work, which is what a kill loses."""


@dataclass(frozen=True, slots=True)
class FindTask:
    """Photos for one worker, with their SHA-256; `target` is how the file to write begins."""

    origins: tuple[Origin, ...]
    digests: tuple[str, ...]
    crop_size: int
    max_megapixels: float
    target: str


class HandBank:
    """Hands and crops by SHA-256, wherever they lie: chunk files and an older store, all mapped."""

    def __init__(self, crop_size: int) -> None:
        self.crop_size = crop_size
        self._places: dict[str, tuple[NDArray[Any], NDArray[np.uint8], int]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def add(self, digests: Sequence[str], hands: NDArray[Any], crops: NDArray[np.uint8]) -> None:
        """Hands `HAND_DTYPE` (n,) and crops uint8 (n, C, C, 3), in the order of `digests`."""
        self._places.update((digest, (hands, crops, row)) for row, digest in enumerate(digests))

    def add_chunks(self, folder: Path, *, pattern: str, check: bool) -> None:
        """Every whole chunk file in `folder` of this pattern; damaged ones are removed."""
        for path in sorted(folder.glob(pattern)):
            records = read_records(path, record_dtype(self.crop_size), check=check)
            if records is None:
                path.unlink()
                continue
            digests = [text.decode() for text in records["sha256"].tolist()]
            self.add(digests, records["hand"], records["crop"])

    def add_store(self, store: Store) -> None:
        """All of a store that has hands."""
        for number, crops in enumerate(store.crop_shards):
            rows = slice(number * SHARD_PHOTOS, (number + 1) * SHARD_PHOTOS)
            self.add(store.digests[rows].tolist(), store.hands[rows], crops)

    def hand(self, digest: str) -> Any:
        """The record, `HAND_DTYPE`."""
        hands, _, row = self._places[digest]
        return hands[row]

    def crop(self, digest: str) -> Pixels:
        """uint8 (C, C, 3)."""
        _, crops, row = self._places[digest]
        return cast(Pixels, crops[row])


def record_dtype(crop_size: int) -> np.dtype[Any]:
    """One record of a chunk file."""
    return np.dtype([("sha256", "S64"), ("hand", HAND_DTYPE), ("crop", np.uint8, (crop_size, crop_size, 3))])


def find_hands(
    batch: Batch,
    digests: Sequence[str],
    work: WorkFolder,
    existing: Store | None,
    settings: dict[str, Any],
    reporter: Reporter,
) -> HandBank:
    """Find the hand in every photo that has a digest (bad ones have none) and that no earlier prepare knows.

    `settings` are `finder_settings`: what an earlier prepare's hands must have been found with. The reporter gets how
    long it will take.
    """
    reporter.on_stage("photos looked at for a hand")
    crop_size = settings["crop_size"]
    kind = f"hands-v{settings['finder']}-{settings['bundle'][:12]}"
    bank = HandBank(crop_size)
    bank.add_chunks(work.chunks, pattern=f"{kind}-*.npy", check=True)
    if existing is not None and existing.hand_settings == settings:
        bank.add_store(existing)
    pairs = zip(digests, batch.photos, strict=True)
    fresh = {digest: photo for digest, photo in pairs if digest and digest not in bank}
    run = f"{kind}-{time.time_ns():x}"
    tasks = [
        FindTask(
            origins=tuple(fresh[digest].origin for digest in part),
            digests=tuple(part),
            crop_size=crop_size,
            max_megapixels=batch.max_megapixels,
            target=str(work.chunks / f"{run}-{number:07d}"),
        )
        for number, part in enumerate(_mixed_parts(list(fresh), PHOTOS_PER_TASK))
    ]
    has_copies = any(is_copy(photo.path) for photo in fresh.values())
    _run(batch, tasks, "photos and degraded copies" if has_copies else "photos", reporter)
    bank.add_chunks(work.chunks, pattern=f"{run}-*.npy", check=False)
    return bank


def _run(batch: Batch, tasks: Sequence[FindTask], what: str, reporter: Reporter) -> None:
    """All tasks, the first one of each worker by itself: its seconds per photo give the time that the rest takes."""
    first, rest = tasks[: batch.workers], tasks[batch.workers :]
    begun, left = (sum(map(_photos_in, part)) for part in (first, rest))
    total = begun + left
    looking = f"looking for the hand in {total:,} {what}"
    if first and not rest:
        reporter.log(f"{looking}: a few seconds")
    seconds = run_tasks(
        batch.pool, find_chunk, first, _photos_in, lambda done, _: reporter.on_progress(done, total)
    )
    if rest:
        lasting = roughly(sum(seconds) / begun * left / batch.workers)
        by = f"{batch.workers} worker{'s' if batch.workers > 1 else ''}"
        reporter.log(f"{looking}: about {lasting} with {by} (--no-hands leaves this out)")
    run_tasks(
        batch.pool, find_chunk, rest, _photos_in, lambda done, _: reporter.on_progress(begun + done, total)
    )


def _photos_in(task: FindTask) -> int:
    return len(task.origins)


def roughly(seconds: float) -> str:
    """A duration in round figures: `10 s`, `1 min 10 s`, `2 h 5 min`."""
    step = 5 if seconds < 60 else 10 if seconds < 600 else 60
    minutes, rest = divmod(max(round(seconds / step), 1) * step, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def find_chunk(task: FindTask) -> float:
    """Run in a worker: find the hands of some photos and leave records and crops in a file; the seconds of that,
    the loading of the finder aside."""
    records = np.zeros(len(task.origins), record_dtype(task.crop_size))
    finder = shared_finder()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd metadata; what matters raises
        for record, origin, digest in zip(records, task.origins, task.digests, strict=True):
            photo = decode_photo(origin.read(), LOOK_PX, max_megapixels=task.max_megapixels)
            hand = finder.find(photo)
            record["sha256"], record["hand"] = digest.encode(), hand
            record["crop"] = crop(photo, hand["box"], task.crop_size)
    write_records(task.target, records)
    return time.perf_counter() - started


def _mixed_parts(items: list[str], size: int) -> list[list[str]]:
    """At most `size` of the items in each part, from all over: photos of one class take unlike long to look at."""
    count = -(-len(items) // size)
    return [items[first::count] for first in range(count)]
