"""DataParallel: one process whose forward is split over the devices of this machine."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from horovod_asl.distributed.base import ReductionOptions, Serial

Inputs = torch.Tensor | tuple[torch.Tensor, ...]
"""As `inputs.pixels.Inputs`: this room stands before that one."""


class DataParallel(Serial):
    """A world of 1 with as many replicas as there are CUDA devices (one replica on the CPU)."""

    name = "dp"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.num_replicas = max(1, torch.cuda.device_count()) if device.type == "cuda" else 1

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, options: ReductionOptions
    ) -> tuple[nn.Module, Optimizer]:
        super().wrap(model, optimizer, options)
        return _Replicated(_Autocasting(model)), optimizer


def _device_type(inputs: Inputs) -> str:
    first = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
    return first.device.type


class _Replicated(nn.DataParallel[nn.Module]):
    """Hands autocast's dtype to the replicas: their threads would take the default one, fp16."""

    def forward(self, inputs: Inputs) -> torch.Tensor:
        kind = _device_type(inputs)
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        logits: torch.Tensor = super().forward(inputs, dtype)
        return logits


class _Autocasting(nn.Module):
    """`module` under autocast to a dtype that comes with the call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Inputs, dtype: torch.dtype | None) -> torch.Tensor:
        with torch.autocast(_device_type(inputs), dtype=dtype, enabled=dtype is not None):
            logits: torch.Tensor = self.module(inputs)
        return logits
