"""torch's optimizers without their guards against torch.compile.

The methods below carry decorators that keep the compiler out of them, and so import it when first called: 2 s of
start-up on every rank, for a compiler that never sees the optimizer (`--compile` compiles the network alone). Here
the methods inside the decorators are called; what they compute is torch's own.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer


class _Unguarded(Optimizer):
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = inspect.unwrap(Optimizer.state_dict)(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        inspect.unwrap(Optimizer.load_state_dict)(self, state_dict)


class SGD(_Unguarded, torch.optim.SGD):
    """`torch.optim.SGD`, its momentum zero from the start.

    torch's fused step allocates the buffers without a value, to be written in the first step; where that step is
    passed over, because its gradient is not finite, they would stay what they happen to be.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for group in self.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(_Unguarded, torch.optim.Adam):
    """`torch.optim.Adam`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(_Unguarded, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
