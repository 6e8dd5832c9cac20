"""The stage that costs: every photo of a prepare through the workers, except those that an earlier prepare has
decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from dataclasses import dataclass
from typing import TypeVar

from horovod_asl.errors import UserError
from horovod_asl.photos.decode import DECODER_VERSION
from horovod_asl.prepare.chunks import ChunkTask, PixelBank, decode_chunk, write_known
from horovod_asl.prepare.options import Reporter
from horovod_asl.sources.sources import SourcePhoto
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import SHARD_PHOTOS
from horovod_asl.store.work_folder import WorkFolder

Task = TypeVar("Task")
Result = TypeVar("Result")

SMALLEST_CHUNK_PHOTOS, LARGEST_CHUNK_PHOTOS = 32, 256
"""Photos that a worker takes at a time: at most a sixth of a second's work, so a kill loses little; fewer
where there are few, so that all workers have some."""


@dataclass(frozen=True)
class Decoded:
    """For each photo its SHA-256 (empty if bad) and why it is bad (empty if good); pixels and hashes by
    SHA-256."""

    digests: tuple[str, ...]
    reasons: tuple[str, ...]
    bank: PixelBank
    count: int
    """Photos that were decoded now rather than reused."""


@dataclass(frozen=True)
class Batch:
    """The photos of a prepare, and the workers that read them."""

    pool: Executor
    workers: int
    """Of the pool."""
    photos: tuple[SourcePhoto, ...]
    max_megapixels: float
    """Larger photos are bad."""


def decode_photos(
    batch: Batch, work: WorkFolder, existing: Store | None, image_size: int, reporter: Reporter
) -> Decoded:
    """Read every photo and decode those whose bytes neither the store nor an interrupted run holds at this
    size."""
    photos = batch.photos
    bank = _bank_of_earlier_runs(work, existing, image_size)
    run = f"v{DECODER_VERSION}-{time.time_ns():x}"
    known = work.root / f"known-{run}.npy"
    write_known(known, bank)
    step = min(max(len(photos) // 128, SMALLEST_CHUNK_PHOTOS), LARGEST_CHUNK_PHOTOS)
    tasks = [
        ChunkTask(
            origins=tuple(photo.origin for photo in photos[start : start + step]),
            image_size=image_size,
            max_megapixels=batch.max_megapixels,
            known=str(known),
            target=str(work.chunks / f"{run}-{start:09d}"),
        )
        for start in range(0, len(photos), step)
    ]
    results = run_tasks(
        batch.pool, decode_chunk, tasks, lambda task: len(task.origins), reporter.on_progress
    )
    bank.add_chunks(work.chunks, image_size, pattern=f"{run}-*.npy", check=False)
    return Decoded(
        digests=tuple(digest for result in results for digest in result.digests),
        reasons=tuple(reason for result in results for reason in result.reasons),
        bank=bank,
        count=sum(result.decoded for result in results),
    )


def _bank_of_earlier_runs(work: WorkFolder, existing: Store | None, image_size: int) -> PixelBank:
    """Pixels of the chunks that an interrupted run left and of the store that is there, if made as now."""
    bank = PixelBank()
    bank.add_chunks(work.chunks, image_size, pattern=f"v{DECODER_VERSION}-*.npy", check=True)
    if existing and existing.image_size == image_size and existing.manifest["decoder"] == DECODER_VERSION:
        bank.add(existing.digests.tolist(), existing.hashes, existing.shards, SHARD_PHOTOS)
    return bank


def run_tasks(
    pool: Executor,
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    photos_of: Callable[[Task], int],
    on_progress: Callable[[int, int], None],
) -> list[Result]:
    """The results of `work` in the order of the tasks; photos done, and in all, as they come."""
    futures: dict[Future[Result], int] = {pool.submit(work, task): photos_of(task) for task in tasks}
    done, total = 0, sum(futures.values())
    try:
        for future in as_completed(futures):
            future.result()
            done += futures[future]
            on_progress(done, total)
    except BrokenExecutor as error:
        raise UserError(
            "a worker process was killed (out of memory?): run the same prepare again, it goes on where this one "
            "stopped; fewer --workers need less memory"
        ) from error
    return [future.result() for future in futures]
