"""The interface to other processes, which the engine uses, and `Serial`, its one-process implementation.

A training step, whatever the backend, is

    with backend.gradients(module, last=...): loss.backward()      # once per micro-batch
    backend.reduce_gradients(optimizer)                            # now p.grad is the mean over ranks
    backend.apply(optimizer)                                       # the local optimizer's step

so that what happens between the two (clipping, the check for a loss that is not finite) is written once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer

from horovod_asl.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class ReductionOptions:
    """How gradients travel. `deterministic`: sums in an order that does not depend on timing."""

    backward_passes_per_step: int = 1
    adasum: bool = False
    fp16_compression: bool = False
    deterministic: bool = False


class Backend(Protocol):
    """All that the rest of the package knows of other processes."""

    name: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    num_replicas: int  # models that share a step: the world, or the devices of DataParallel
    device: torch.device
    elastic: bool  # ranks may come and go

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, options: ReductionOptions
    ) -> tuple[nn.Module, Optimizer]:
        """The module to call forward on and the optimizer to step; `model` stays the owner of the weights."""

    def gradients(self, module: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Surrounds one forward and backward; `last` is False for all but a step's final micro-batch."""

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Wait until every `p.grad` is the mean over ranks."""

    def apply(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        """Take the optimizer's step with the gradients as they are."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over ranks, a new tensor of the same shape and dtype (float or int)."""

    def broadcast(self, value: T) -> T:
        """Rank 0's `value` on every rank; any picklable object (tensors on the CPU)."""

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, in rank order, on every rank; any picklable object."""

    def barrier(self) -> None:
        """Return when every rank has come here."""

    def watch(self) -> None:
        """Begin to watch over the other ranks, where a timeout was asked for; every rank must come here."""

    def heartbeat(self, step: int | None = None) -> None:
        """Say that this rank makes progress, in `step` where it is named; costs nothing."""

    def run(self, body: Callable[[Any], T]) -> T:
        """Call `body` with the state that was last committed, None at first; again whenever ranks came or went."""

    def commit(self, state: Any) -> None:
        """Keep `state`, equal on all ranks and picklable, for the next call of `run`'s body."""

    def describe(self) -> dict[str, Any]:
        """The settings in force that matter for speed or results, for the log."""

    def close(self) -> None:
        """Leave the group in an orderly way; every rank must come here."""


class Serial:
    """One process, one replica: every collective is the identity."""

    name = "serial"
    elastic = False

    def __init__(self, device: torch.device) -> None:
        self.rank = self.local_rank = 0
        self.world_size = self.local_size = self.num_replicas = 1
        self.device = device

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, options: ReductionOptions
    ) -> tuple[nn.Module, Optimizer]:
        """Refuses what only Horovod does, rather than train without it in silence; other backends build on it."""
        for flag, wanted in (("adasum", options.adasum), ("fp16-compression", options.fp16_compression)):
            if wanted:
                raise UserError(
                    f"--{flag} is Horovod's, and this is {self.name}; start with horovodrun or mpirun"
                )
        return model, optimizer

    @contextlib.contextmanager
    def gradients(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        yield

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        pass

    def apply(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def broadcast(self, value: T) -> T:
        return value

    def gather(self, value: T) -> list[T]:
        return [value]

    def barrier(self) -> None:
        pass

    def watch(self) -> None:
        pass

    def heartbeat(self, step: int | None = None) -> None:
        pass

    def run(self, body: Callable[[Any], T]) -> T:
        return body(None)

    def commit(self, state: Any) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def from_rank_0(backend: Backend, work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, which alone does it, on every rank. Every rank must come here.

    Raises:
        UserError: on every rank, where `work` raised it on rank 0; an OSError becomes one.
    """
    value, fault = None, None
    if backend.rank == 0:
        try:
            value = work()
        except (UserError, OSError) as error:
            fault = str(error)
    value, fault = backend.broadcast((value, fault))
    if fault is not None:
        raise UserError(fault)
    return cast(T, value)


def sync_buffers(backend: Backend, model: nn.Module) -> None:
    """Replace every floating-point buffer (BatchNorm's running statistics) by its mean over ranks, in place.

    Horovod and DistributedDataParallel as we use it leave these statistics per rank. All travel in one sum.
    Integer buffers (the count of batches) are equal on all ranks already.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if backend.world_size == 1 or not buffers:
        return
    flat = torch.cat([buffer.detach().reshape(-1).double() for buffer in buffers])
    mean = backend.sum(flat) / backend.world_size
    offset = 0
    for buffer in buffers:
        buffer.copy_(mean[offset : offset + buffer.numel()].view_as(buffer))
        offset += buffer.numel()
