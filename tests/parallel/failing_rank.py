"""Run by launchers: `horovod-asl train`, in which rank 1 fails as the first word says, and the others do not.

LAUNCHER … python failing_rank.py {early|mid-epoch|memory} TRAIN_ARGUMENTS …
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from horovod_asl.__main__ import main
from horovod_asl.distributed.launcher import detect
from horovod_asl.engine import step

FAIL_AT_STEP = 3


def fail_in_step(error: Exception) -> None:
    """Rank 1 raises `error` in its fourth step, when the others already wait for its gradients."""
    original = step.train_step

    def train_step(*args: Any, **keywords: Any) -> Any:
        if keywords["step"] == FAIL_AT_STEP:
            raise error
        return original(*args, **keywords)

    step.train_step = train_step


if __name__ == "__main__":
    when, *arguments = sys.argv[1:]
    if detect().rank == 1:
        if when == "early":
            arguments += ["--store", "/no/such/store"]
        elif when == "memory":
            fail_in_step(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB."))
        else:
            fail_in_step(RuntimeError("the boom of rank 1"))
    main("train", arguments)
