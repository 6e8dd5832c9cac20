"""P4 and P5: training steps, of ranks and of processes that share nothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Answer


def steps(store: str, model: str, batch: str, count: str, *flags: str) -> Answer:
    """Training steps of this rank, after two that are not counted; the median of a step's seconds.

    `flags` are the config's, as on the command line of `train`.
    """
    return _steps(store, model, batch, count, flags, at_end=lambda: None)


def steps_in_pace(place: str, store: str, model: str, batch: str, count: str, *flags: str) -> Answer:
    """The same by one of two processes that share nothing, but wait for each other at the end of each step.

    A socket at `place` is where they meet. What is lost against processes that do not wait is lost by every
    synchronous backend, whatever it sends.
    """
    with _partner(Path(place)) as partner:

        def meet() -> None:
            partner.send(None)
            partner.recv()

        return _steps(store, model, batch, count, flags, at_end=meet)


@contextmanager
def _partner(place: Path) -> Iterator[Connection]:
    """A connection to the other process that names this place: who comes first listens."""
    try:
        listener = Listener(str(place), "AF_UNIX")
    except OSError:
        with Client(str(place), "AF_UNIX") as connection:
            yield connection
        return
    with listener, listener.accept() as connection:
        yield connection


def _steps(
    store: str, model: str, batch: str, count: str, flags: Sequence[str], *, at_end: Callable[[], None]
) -> Answer:
    from horovod_asl.command_line.cli import parse
    from horovod_asl.config import TrainConfig
    from horovod_asl.distributed.create import create

    warm = 2
    words = ["--store", store, "--model", model, "--batch-size-per-replica", batch]
    words += ["--stop-after-steps", str(warm + int(count)), *flags]
    config = parse(TrainConfig, words, prog="sides steps", description=None)
    backend = create(config.execution.backend, device=config.execution.device)
    with _trainer(config, backend, at_end) as (trainer, waits, ends):
        trainer.run()
    durations = [after - before for before, after in zip(ends[warm - 1 :], ends[warm:], strict=False)]
    backend.close()
    return {
        "seconds": median(durations),
        "loader_share": sum(waits[warm:]) / sum(durations),
    }


@contextmanager
def _trainer(
    config: Any, backend: Any, at_end: Callable[[], None]
) -> Iterator[tuple[Any, list[float], list[float]]]:
    """A trainer in a folder that goes afterwards; the seconds that batches took, and when steps ended.

    `at_end` is called at each step's end and belongs to it.
    """
    from horovod_asl.engine.dataset import Dataset, photos_of
    from horovod_asl.runs.run_folder import RunFolder
    from horovod_asl.store.store import Store
    from horovod_asl.training.session import settle_process
    from horovod_asl.training.trainer import Trainer

    settle_process(config, backend)
    store = Store.open(config.data.store)
    photos = photos_of(store, store.rows("train"), config.model.input)
    waits: list[float] = []
    ends: list[float] = []

    def gather(rows: Any) -> Any:
        started = time.perf_counter()
        images = photos.gather(rows)
        waits.append(time.perf_counter() - started)
        return images

    def step_ended(step: int, total: int) -> None:
        at_end()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        yield (
            Trainer(
                config,
                backend,
                RunFolder(Path(folder)),
                Dataset(gather, photos.labels),
                None,
                on_step=step_ended,
            ),
            waits,
            ends,
        )
