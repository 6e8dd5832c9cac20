"""What a run goes on from: its state captured, for a checkpoint or in memory, and applied again.

The order of a resume: wrap the model and the optimizer, read on rank 0, broadcast, load on every rank, check
that all ranks hold the same weights. (Loading before wrapping loses the optimizer's state under Horovod, and
broadcasting empty optimizer state has ranks take a step of weight decay.)
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.engine.train_state import TrainState, float_buffers
from horovod_asl.errors import UserError
from horovod_asl.runs import checkpoint
from horovod_asl.runs.run_folder import RunFolder

State = dict[str, Any]


@dataclass
class Position:
    """Where a run stands, and what a resume on another number of ranks must keep."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    photos: int = 0
    """Photos of this epoch already seen, over all ranks."""
    global_batch: int = 0
    replicas: int = 1
    epoch_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Summed loss, hits and photos of this epoch so far, over all ranks."""
    history: list[dict[str, Any]] = field(default_factory=list)


def read_state(
    config: TrainConfig, folder: RunFolder, backend: Backend, committed: State | None = None
) -> State | None:
    """What was committed in memory; else rank 0 reads the newest sound checkpoint, and all ranks get it.

    None for a run that begins. Every rank must come here.
    """
    if committed is not None or config.resume is None:
        return copy.deepcopy(committed)
    newest = checkpoint.load_newest(folder.checkpoints) if backend.rank == 0 else None
    return backend.broadcast(newest)


def position_of(loaded: State | None, config: TrainConfig, backend: Backend) -> Position:
    """Where to go on: from `loaded`, or at step 0.

    On another number of ranks the global batch stays; where ranks come and go, it follows their number.
    """
    replicas = backend.num_replicas
    batch = config.batch_size_per_replica * replicas * config.accumulation_steps
    if loaded is None:
        return Position(global_batch=batch, replicas=replicas)
    position = Position(**loaded["position"])
    if backend.elastic:
        position.global_batch, position.replicas = batch, replicas
    return position


def capture(train_state: TrainState, position: Position, buffers: list[list[Tensor]]) -> State:
    """All but the weights that a resume needs; `buffers`: every rank's own statistics."""
    return {
        "position": asdict(position),
        "optimizer": train_state.optimizer.state_dict(),
        "buffers": buffers,
        "ema": None if train_state.average is None else train_state.average.state_dict(),
        "scaler": None if train_state.scaler is None else train_state.scaler.state_dict(),
    }


def apply(loaded: State, train_state: TrainState, backend: Backend) -> None:
    """Put `capture`'s state and the weights into a train state that is wrapped already."""
    train_state.model.load_state_dict(loaded["weights"])
    for group in loaded["optimizer"]["param_groups"]:
        group["fused"] = True  # the run may be older than that
    train_state.optimizer.load_state_dict(loaded["optimizer"])
    if train_state.average is not None:
        train_state.average.load_state_dict(loaded["ema"])
    if train_state.scaler is not None:
        train_state.scaler.load_state_dict(loaded["scaler"])
    if len(loaded["buffers"]) == backend.world_size:
        for buffer, value in zip(_buffers(train_state), loaded["buffers"][backend.rank], strict=True):
            buffer.copy_(value)


def own_buffers(train_state: TrainState) -> list[Tensor]:
    """Copies on the CPU of the statistics that each rank keeps of its own."""
    return [buffer.detach().cpu().clone() for buffer in _buffers(train_state)]


def require_equal_weights(train_state: TrainState, backend: Backend) -> None:
    """Every rank holds the same weights; UserError names those that do not."""
    digests = backend.gather(checkpoint.weights_digest(dict(train_state.model.named_parameters())))
    odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if odd:
        raise UserError(f"ranks {odd} hold other weights than rank 0; are all hosts on the same versions?")


def _buffers(train_state: TrainState) -> list[Tensor]:
    return [buffer for model in train_state.models for buffer in float_buffers(model)]
