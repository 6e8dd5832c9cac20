"""The evaluation loop, the same for every backend: each photo once, one sum at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from horovod_asl.command_line.progress import Report, no_report
from horovod_asl.distributed.base import Backend
from horovod_asl.engine.dataset import Dataset, chunks
from horovod_asl.engine.loader import evaluation_shard
from horovod_asl.engine.step import autocast
from horovod_asl.inputs.pixels import to_input
from horovod_asl.metrics.metrics import MetricAccumulator, Metrics


def evaluate(
    model: nn.Module,
    backend: Backend,
    photos: Dataset,
    *,
    num_classes: int,
    batch_size: int = 256,
    precision: str = "fp32",
    smallest_px: int = 0,
    already_sharded: bool = False,
    on_progress: Report = no_report,
) -> Metrics:
    """Score `photos` over all ranks: every photo once, one sum at the end, the same scores on every rank.

    Args:
        already_sharded: `photos` are those of this rank alone; else all ranks hold the same ones and divide them.
        on_progress: gets the photos of this rank that are done, and in all.
    """
    accumulator = MetricAccumulator(num_classes, backend.device)
    rows = evaluation_share(photos, backend, already_sharded=already_sharded)
    for logits, labels in forward_passes(
        model,
        backend,
        photos,
        rows,
        batch_size=batch_size,
        precision=precision,
        smallest_px=smallest_px,
        on_progress=on_progress,
    ):
        accumulator.add(logits, labels)
    return accumulator.scores(backend.sum)


def evaluation_share(photos: Dataset, backend: Backend, *, already_sharded: bool) -> npt.NDArray[np.int64]:
    """The rows that this rank scores: all of them where they are `already_sharded`, else its share."""
    rank, world_size = (0, 1) if already_sharded else (backend.rank, backend.world_size)
    return evaluation_shard(len(photos), world_size=world_size, rank=rank)


@torch.no_grad()
def forward_passes(
    model: nn.Module,
    backend: Backend,
    photos: Dataset,
    rows: npt.NDArray[np.int64],
    *,
    batch_size: int = 256,
    precision: str = "fp32",
    smallest_px: int = 0,
    on_progress: Report = no_report,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits float32 (m, classes) and labels int64 (m,) of these rows, a batch at a time, on the device."""
    model.eval()
    done = 0
    for indices in chunks(rows, batch_size):
        on_progress(done, len(rows))
        backend.heartbeat()
        images, labels = photos.batch(indices, backend.device)
        with scoring_autocast(backend.device, precision):
            logits = model(to_input(images, smallest_px=smallest_px))
        yield logits.float(), labels
        done += len(indices)
    on_progress(done, len(rows))


def scoring_autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """As `autocast`, for what is scored: on a CPU fp32, whatever the steps were in.

    Many CPUs have no bf16 and are slow with it, and a run in bf16 is to be read on any of them, and by ONNX Runtime.
    """
    return autocast(device, "fp32" if device.type == "cpu" else precision)
