"""How many threads torch gets on this rank: the cores that it may use, shared among the ranks of the machine."""

from __future__ import annotations

import math
import os

import torch

from horovod_asl.system.cores import allowed_cores, cpu_quota, usable_cores


def usable_threads(local_size: int) -> int:
    """Threads for one of `local_size` ranks.

    Where mpirun has bound each rank to cores of its own, those cores are not divided a second time. A CPU quota is
    that of all ranks together.
    """
    if os.environ.get("OMPI_MCA_orte_bound_at_launch") != "1":
        return max(1, usable_cores() // local_size)
    own, quota = len(allowed_cores()), cpu_quota()
    return own if quota is None else max(1, min(own, math.ceil(quota) // local_size))


def limit_threads(requested: int | None, local_size: int) -> int:
    """Set torch's intra-op threads to `requested` (None: `usable_threads`) and return what was set."""
    threads = requested if requested is not None else usable_threads(local_size)
    torch.set_num_threads(threads)
    return threads
