"""How many threads torch gets on this rank: the cores that it may use, shared among the ranks of the machine."""

from __future__ import annotations

import os

import torch


def usable_threads(local_size: int) -> int:
    """Threads for one of `local_size` ranks.

    Where mpirun has bound each rank to cores of its own, those cores are not divided a second time.
    """
    cores = len(os.sched_getaffinity(0))
    bound_to_its_own = os.environ.get("OMPI_MCA_orte_bound_at_launch") == "1"
    return cores if bound_to_its_own else max(1, cores // local_size)


def limit_threads(requested: int | None, local_size: int) -> int:
    """Set torch's intra-op threads to `requested` (None: `usable_threads`) and return what was set."""
    threads = requested if requested is not None else usable_threads(local_size)
    torch.set_num_threads(threads)
    return threads
