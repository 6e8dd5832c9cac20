"""One line per rank: where it runs and what it was told, as its libraries have it rather than as it was asked."""

import ctypes
import os
import platform

import torch

from horovod_asl.distributed.create import create
from horovod_asl.distributed.threads import limit_threads

backend = create("auto", device="cpu")
limit_threads(None, backend.local_size)
yields = ctypes.c_bool.in_dll(ctypes.CDLL("libmpi.so.40"), "ompi_mpi_yield_when_idle").value
words = [
    f"rank {backend.rank} on {platform.node()}:",
    f"threads {torch.get_num_threads()}",
    f"yields {yields}",
]
for line in backend.gather(" ".join([*words, f"cycle {os.environ['HOROVOD_CYCLE_TIME']}"])):
    if backend.rank == 0:
        print(line, flush=True)
backend.close()
