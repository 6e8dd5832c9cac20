"""One executor interface for processes of this machine and for MPI ranks (the only file that imports
mpi4py)."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import cast

from horovod_asl.command_line.checks import require_range
from horovod_asl.errors import UserError
from horovod_asl.system.cores import usable_cores
from horovod_asl.system.memory import keep_freed_memory

# What a socket's path may be: 108 bytes with the one that ends it, on macOS 104; and what multiprocessing adds.
_LONGEST_SOCKET_PATH, _SOCKET_NAME = 103, "/pymp-xxxxxxxx/listener-xxxxxxxx"
_SHORT_FOLDER = "/tmp"
_WORLD_SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_SIZE",
    "JSM_NAMESPACE_SIZE",
)


def mpi_world_size() -> int:
    """Ranks that an MPI launcher says it started; 1 without a launcher. MPI is not touched."""
    names = [*_WORLD_SIZE_VARIABLES, *(["SLURM_STEP_NUM_TASKS"] if "PMIX_RANK" in os.environ else [])]
    return max(int(os.environ.get(name) or 1) for name in names)


def worker_count(workers: int | None, *, across_ranks: bool) -> int:
    """How many workers `worker_pool` will have: `workers` (None: one per usable core), or the other MPI ranks.

    UserError for a count below 1.
    """
    require_range("--workers", workers, 1)
    ranks = mpi_world_size() if across_ranks else 1
    if ranks > 1:
        return ranks - 1
    return usable_cores() if workers is None else workers


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
    fork breaks. They are forks of a server that has imported the decoder already.

    Raises:
        UserError: no folder for temporary files can be written.
    """
    _make_socket_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["horovod_asl.prepare.chunks"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    for _ in range(workers):  # each task begins a worker: they start while the caller looks for photos
        pool.submit(os.getpid)
    return pool


@functools.cache  # one folder and one note, however many pools there are
def _make_socket_folder() -> None:
    """Make multiprocessing's folder for sockets: in /tmp where the path of TMPDIR is too long for them."""
    try:
        usual = tempfile.gettempdir()
        is_short = len(os.fsencode(usual + _SOCKET_NAME)) <= _LONGEST_SOCKET_PATH
        tempfile.tempdir = usual if is_short else _SHORT_FOLDER
        try:
            made = multiprocessing.util.get_temp_dir()  # it is kept for all later calls
        finally:
            tempfile.tempdir = usual
    except OSError as error:
        raise UserError(
            f"workers need a folder for their sockets, and none can be made ({error}): name a folder with a short "
            "path in TMPDIR"
        ) from error
    if not is_short and not made.startswith(usual):
        print(
            f"note: the path of TMPDIR is too long for sockets ({len(usual)} characters), so the workers' sockets "
            f"are in {made}",
            file=sys.stderr,
        )


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
