"""A frozen backbone's features: computed once, where every epoch would compute the same ones again.

Without augmentation a photo gives a frozen backbone the same input in each epoch, so the head's input is the same
too: training the head on features that are kept takes the steps that training the whole network would, but for the
rounding of sums (a test holds the weights of the two side by side). What is random stays random: a dropout before
the head draws in every step, as it would have.

The features of all photos lie in one file per machine, float32 (n, width), mapped by its ranks and already removed
from its folder, so it goes when the last of them ends. `learner.trains_on_features` says when all this is done.
"""

from __future__ import annotations

import copy
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from horovod_asl import models
from horovod_asl.backends import Backend
from horovod_asl.config import TrainConfig
from horovod_asl.data.transforms import to_input
from horovod_asl.engine import Photos, autocast
from horovod_asl.errors import UserError
from horovod_asl.stopping import StopSignal

Table = npt.NDArray[np.float32]
_PHOTOS_PER_PASS = 256


def of_photos(
    model: nn.Module, backend: Backend, photos: Photos, config: TrainConfig, stop: StopSignal
) -> Photos | None:
    """The photos as features of `model`'s backbone: float32 (n, width) where they were uint8 (n, H, W, 3).

    Each rank computes its share. Every rank must come here. None where some rank was asked to stop meanwhile.

    Raises:
        UserError: the folder for temporary files has too little room on some machine.
    """
    extract = _Extractor(model, backend.device, config)
    width = extract(photos.gather(np.zeros(1, np.int64))).shape[1]
    table = _shared_table(backend, len(photos), width)
    block = _PHOTOS_PER_PASS * backend.world_size
    for start in range(0, len(photos), block):
        backend.heartbeat()
        if float(backend.sum(torch.tensor(float(stop.received), device=backend.device))) > 0:
            return None
        rows = np.arange(start, min(start + block, len(photos)))
        own = rows[backend.rank :: backend.world_size]
        part = torch.zeros(len(rows), width, device=backend.device)
        if len(own):
            part[own - start] = extract(photos.gather(own))
        part = backend.sum(part)  # each row is one rank's, and zero on the others: nothing is rounded
        if backend.local_rank == 0:
            table[rows] = part.cpu().numpy()
    backend.barrier()
    return Photos(table.__getitem__, photos.labels, are_features=True)


class _Extractor:
    """The backbone as it is fastest for inference: BatchNorm folded into the convolutions, NHWC on a CPU."""

    def __init__(self, model: nn.Module, device: torch.device, config: TrainConfig) -> None:
        from torch.fx.experimental.optimization import fuse

        self._network: nn.Module = fuse(copy.deepcopy(model).eval())
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._precision = device, config.execution.precision
        self._smallest_px = models.SMALLEST_INPUT_PX.get(config.model.model, 0)
        self._seen: list[Tensor] = []
        entry = models.tail_of(self._network)[0]
        entry.register_forward_pre_hook(lambda module, inputs: self._seen.append(inputs[0]))

    @torch.no_grad()
    def __call__(self, images: npt.NDArray[np.generic]) -> Tensor:
        """Features float32 (n, width) of photos uint8 (n, H, W, 3)."""
        self._seen.clear()
        batch = to_input(torch.from_numpy(images).to(self._device), smallest_px=self._smallest_px)
        with autocast(self._device, self._precision):
            self._network(batch.contiguous(memory_format=torch.channels_last))
        return self._seen[0].flatten(1).float()


def _shared_table(backend: Backend, photos: int, width: int) -> Table:
    """float32 (photos, width), one for all ranks of a machine: the first of them makes it, the others map it."""
    made, fault = _make_file(photos * width * 4) if backend.local_rank == 0 else (None, None)
    told = backend.gather((platform.node(), made, fault))
    faults = [text for _, _, text in told if text is not None]
    if faults:
        if made is not None:
            made.unlink()
        raise UserError(faults[0])
    path = made or next(file for host, file, _ in told if file is not None and host == platform.node())
    table: Table = np.memmap(path, np.float32, "r+", shape=(photos, width))
    backend.barrier()
    if made is not None:
        made.unlink()
    return np.asarray(table)


def _make_file(size_bytes: int) -> tuple[Path | None, str | None]:
    """A file whose room is taken already, or why there is none."""
    path = None
    try:
        handle, name = tempfile.mkstemp(prefix="horovod_asl-features-")
        path = Path(name)
        with os.fdopen(handle, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError as error:
        if path is not None:
            path.unlink()
        return None, (
            f"no room for the features of the frozen backbone on {platform.node()}: they take "
            f"{size_bytes / 2**30:.2f} GiB in a temporary file ({error}); name another folder in TMPDIR"
        )
    return path, None
