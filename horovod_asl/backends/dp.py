"""DataParallel: one process whose forward is split over the devices of this machine."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from horovod_asl.backends.base import ReductionOptions, Serial


class DataParallel(Serial):
    """A world of 1 with as many replicas as there are CUDA devices (one replica on the CPU)."""

    name = "dp"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.num_replicas = max(1, torch.cuda.device_count()) if device.type == "cuda" else 1

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, options: ReductionOptions
    ) -> tuple[nn.Module, Optimizer]:
        return nn.DataParallel(model), optimizer
