"""The evaluation loop, the same for every backend: each photo once, one sum at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class PassOptions:
    """How photos pass a network to be scored.

    Attributes:
        precision: of autocast on a GPU: `fp32`, `bf16` or `fp16`; on a CPU it is fp32.
        smallest_px: smaller photos are enlarged to this side.
        on_progress: gets the photos of this rank that are done, and in all.
    """

    batch_size: int = 256
    precision: str = "fp32"
    smallest_px: int = 0
    on_progress: Report = no_report


def evaluate(
    model: nn.Module,
    backend: Backend,
    photos: Dataset,
    options: PassOptions = PassOptions(),
    *,
    num_classes: int,
) -> Metrics:
    """Score `photos`, which all ranks hold: each photo once, one sum at the end, the same scores on every rank."""
    accumulator = MetricAccumulator(num_classes, backend.device)
    rows = evaluation_shard(len(photos), world_size=backend.world_size, rank=backend.rank)
    for logits, labels in forward_passes(model, backend, photos, rows, options):
        accumulator.add(logits, labels)
    return accumulator.scores(backend.sum)


@torch.no_grad()
def forward_passes(
    model: nn.Module,
    backend: Backend,
    photos: Dataset,
    rows: npt.NDArray[np.int64],
    options: PassOptions,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits float32 (m, classes) and labels int64 (m,) of these rows, a batch at a time, on the device."""
    model.eval()
    done = 0
    for indices in chunks(rows, options.batch_size):
        options.on_progress(done, len(rows))
        backend.heartbeat()
        images, labels = photos.batch(indices, backend.device)
        with scoring_autocast(backend.device, options.precision):
            logits = model(to_input(images, smallest_px=options.smallest_px))
        yield logits.float(), labels
        done += len(indices)
    options.on_progress(done, len(rows))


def scoring_autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """As `autocast`, for what is scored: on a CPU fp32, whatever the steps were in.

    Many CPUs have no bf16 and are slow with it, and a run in bf16 is to be read on any of them, and by ONNX Runtime.
    """
    return autocast(device, "fp32" if device.type == "cpu" else precision)
