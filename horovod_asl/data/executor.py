"""One executor interface for processes of this machine and for MPI ranks (the only file that imports
mpi4py)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import cast

from horovod_asl.errors import UserError
from horovod_asl.memory import keep_freed_memory

_WORLD_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")


def mpi_world_size() -> int:
    """Ranks that an MPI launcher says it started; 1 without a launcher. MPI is not touched."""
    names = [*_WORLD_SIZE_VARIABLES, *(["SLURM_STEP_NUM_TASKS"] if "PMIX_RANK" in os.environ else [])]
    return max(int(os.environ.get(name) or 1) for name in names)


@contextmanager
def worker_pool(workers: int, *, across_ranks: bool = False) -> Iterator[Executor | None]:
    """An executor of `workers` processes, or of the other MPI ranks when `across_ranks` and there are any.

    Under MPI every rank must enter: rank 0 gets the executor, the others serve it inside this call and then
    get None, so nothing that can fail on rank 0 alone may come before. An error in the block cancels what has
    not begun.
    """
    if across_ranks and mpi_world_size() > 1:
        with _rank_pool() as pool:
            yield pool
    else:
        with _cancelling(process_pool(workers)) as pool:
            yield pool


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of this machine, begun at once; never by fork: the parent may hold MPI, CUDA or threads, which a
    fork breaks. They are forks of a server that has imported the decoder already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["horovod_asl.data.chunks"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    for _ in range(workers):  # each task begins a worker: they start while the caller looks for photos
        pool.submit(os.getpid)
    return pool


def _begin_worker() -> None:
    """A worker leaves Ctrl-C to its parent; and when that is killed, it ends rather than wait for ever."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def _rank_pool() -> Iterator[Executor | None]:
    try:
        from mpi4py.futures import MPICommExecutor
    except ImportError as error:
        raise UserError(
            "started under MPI with several ranks, but mpi4py is missing: pip install "
            "'horovod_asl[horovod]', or start one process and let --workers use the cores"
        ) from error
    with MPICommExecutor() as root_pool:
        if root_pool is None:
            yield None
        else:
            with _cancelling(cast(Executor, root_pool)) as pool:
                yield pool


@contextmanager
def _cancelling(pool: Executor) -> Iterator[Executor]:
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)
