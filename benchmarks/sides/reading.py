"""P1 and P2: batches of a store."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.measure import Answer


def reading(store: str, what: str, batch: str) -> Answer:
    """All photos of a store in a shuffled order, at the device's door: `uint8`, `float` or `augmented`."""
    import torch

    from horovod_asl.config_groups import AugmentConfig
    from horovod_asl.distributed.threads import limit_threads
    from horovod_asl.inputs.pixels import Augment, draws, normalise, to_input, to_unit
    from horovod_asl.store.store import Store
    from horovod_asl.system.memory import keep_freed_memory

    keep_freed_memory()
    limit_threads(None, 1)
    opened, size, augment = Store.open(store), int(batch), Augment(AugmentConfig())
    order = np.random.default_rng(0).permutation(len(opened))

    def one_pass() -> None:
        for step, start in enumerate(range(0, len(order), size)):
            rows = order[start : start + size]
            images = torch.from_numpy(opened.gather(rows))
            if what == "float":
                to_input(images)
            elif what == "augmented":
                uniform = draws(0, step, np.arange(len(rows)), size)
                normalise(augment(to_unit(images), uniform))

    one_pass()
    passes = [_seconds(one_pass)]
    while sum(passes) < 1.0:
        passes.append(_seconds(one_pass))
    return {"seconds": median(passes), "photos": len(order)}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
