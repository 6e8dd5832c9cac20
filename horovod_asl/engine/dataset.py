"""Photos as training and scoring take them: gathered by number, and copied to the device a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from horovod_asl.hands.record import hand_arrays, readings
from horovod_asl.inputs.pixels import Inputs, to_tensors
from horovod_asl.store.store import Store

Rows = npt.NDArray[np.int64]
Gather = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Dataset:
    """A set of photos to train on or to score.

    Attributes:
        gather: `gather(i)` gives uint8 (len(i), H, W, 3); for a network that reads landmarks the hands, float32
            (len(i), 50, 3); for one that sees both, records of `record.reading_dtype`; or what a frozen backbone has
            made of them.
        labels: int64 (n,).
        are_features: whether it is the last of these.
        times: int64 (n,), how often an epoch shows each photo; None: once.
    """

    gather: Gather
    labels: npt.NDArray[np.int64]
    are_features: bool = False
    times: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: npt.NDArray[np.int64], device: torch.device) -> tuple[Inputs, Tensor]:
        """What `gather` gives for m photos and labels int64 (m,), on `device`; the copy to a GPU does not block."""
        return _to_device(self.gather(indices), device), labels_to(self.labels[indices], device)

    def select(self, rows: npt.NDArray[np.int64]) -> Dataset:
        """Some of them."""
        return Dataset(
            lambda indices: self.gather(rows[indices]), self.labels[rows], are_features=self.are_features
        )

    def order(self) -> npt.NDArray[np.int64]:
        """The photos of an epoch before they are shuffled: each as often as `times` says."""
        numbers = np.arange(len(self))
        return numbers if self.times is None else np.repeat(numbers, self.times)


@dataclass(frozen=True)
class DeviceDataset(Dataset):
    """Photos that lie on the device as a whole: of a batch, only its numbers travel there.

    Attributes:
        images: what `gather` gives for all of them, on the device.
        answers: `labels` on the device.
    """

    images: Inputs = field(default_factory=lambda: torch.empty(0))
    answers: Tensor = field(default_factory=lambda: torch.empty(0))

    def batch(self, indices: npt.NDArray[np.int64], device: torch.device) -> tuple[Inputs, Tensor]:
        """As `Dataset.batch`; `device` is where they are."""
        rows = labels_to(indices, device)
        return map_tensors(lambda part: part[rows], self.images), self.answers[rows]


def map_tensors(change: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """`change` of the tensor, or of each of several."""
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def on_device(photos: Dataset, device: torch.device, *, block: int = 4096) -> DeviceDataset:
    """All of `photos` copied to `device`, a block at a time."""
    made: list[Tensor] = []
    for rows in chunks(np.arange(len(photos)), block):
        parts = _to_device(photos.gather(rows), device)
        for index, part in enumerate(parts if isinstance(parts, tuple) else (parts,)):
            if rows[0] == 0:
                made.append(torch.empty((len(photos), *part.shape[1:]), dtype=part.dtype, device=device))
            made[index][int(rows[0]) : int(rows[-1]) + 1] = part
    return DeviceDataset(
        photos.gather,
        photos.labels,
        times=photos.times,
        images=made[0] if len(made) == 1 else tuple(made),
        answers=labels_to(photos.labels, device),
    )


def fits_on_device(photos: Dataset, device: torch.device, *, fraction: float = 0.25) -> bool:
    """Whether a GPU has room for all of them in this `fraction` of the memory that is free; never so on a CPU."""
    if device.type != "cuda" or len(photos) == 0:
        return False
    size = photos.gather(np.zeros(1, np.int64)).nbytes * len(photos)
    return size <= fraction * torch.cuda.mem_get_info(device)[0]


def chunks(indices: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows int64 in parts of `size`, the last perhaps smaller."""
    yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _to_device(array: npt.NDArray[np.generic], device: torch.device) -> Inputs:
    return map_tensors(lambda tensor: _moved(tensor, device), to_tensors(array))


def labels_to(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on `device`; the copy to a GPU does not block."""
    return _moved(torch.from_numpy(array), device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def photos_of(store: Store, rows: Rows, input_type: str | None) -> Dataset:
    """The photos of these rows of the store as a network that reads `pixels`, `landmarks` or `both` takes them.

    Else (None or `photos`) the whole photos. UserError where it wants hands and the store has none.
    """
    labels = store.labels[rows]
    if input_type == "landmarks":
        return Dataset(gather=hand_arrays(store.hands[rows]).__getitem__, labels=labels)
    if input_type == "pixels":
        store.require_hands()
        return Dataset(gather=lambda indices: store.gather_crops(rows[indices]), labels=labels)
    if input_type == "both":
        hands = store.hands[rows]
        return Dataset(
            gather=lambda indices: readings(store.gather_crops(rows[indices]), hands[indices]), labels=labels
        )
    return Dataset(gather=lambda indices: store.gather(rows[indices]), labels=labels)
