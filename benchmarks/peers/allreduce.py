"""What an allreduce reaches here (P11): ResNet-18's gradients over Horovod, fused and one by one, beside a memcpy.

    horovodrun -np 2 python benchmarks/peers/allreduce.py

Under the settings that our backend chooses for the device, but for the cycle: at the 25 ms that suit a CPU's training
each tensor on its own would wait for a cycle, so both have Horovod's 1 ms.
"""

import json
import os
import time
from statistics import median

import torch

from horovod_asl.distributed.create import create
from horovod_asl.models.registry import build_model

ROUNDS = 9


def seconds(work) -> float:
    work()
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


if __name__ == "__main__":
    os.environ["HOROVOD_CYCLE_TIME"] = "1"
    backend = create("horovod", device="cpu")
    import horovod.torch as hvd

    torch.set_num_threads(1)
    gradients = [
        torch.ones_like(parameter) for parameter in build_model("resnet18", num_classes=29).parameters()
    ]
    size = sum(gradient.numel() * gradient.element_size() for gradient in gradients)

    def fused() -> None:
        handles = [hvd.allreduce_async_(one, name=str(number)) for number, one in enumerate(gradients)]
        for handle in handles:
            hvd.synchronize(handle)

    def one_by_one() -> None:
        for number, one in enumerate(gradients):
            hvd.allreduce_(one, name=str(number))

    source, target = torch.ones(size // 4), torch.empty(size // 4)
    answer = {
        "fused_seconds": seconds(fused),
        "one_by_one_seconds": seconds(one_by_one),
        "memcpy_seconds": seconds(lambda: target.copy_(source)),
        "bytes": size,
    }
    if backend.rank == 0:
        print(json.dumps(answer), flush=True)
    backend.close()
