"""The photos of a store as a training sees them: which, how often, and as pixels, crops or landmarks."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import DataConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.engine.dataset import Dataset, Rows, fits_on_device, on_device
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX
from horovod_asl.splits.split import balanced_subset
from horovod_asl.store.store import Store


def photos_to_train(
    photos: Dataset, rows: Rows, store: Store, config: TrainConfig, backend: Backend
) -> Dataset:
    """Photos or features of these rows as training shows them: how often each, and where they lie.

    On a GPU where there is room for all of them: batches are then made there, and nothing waits for a copy.
    """
    shown = dataclasses.replace(photos, times=times_shown(store, rows, config.data))
    return on_gpu_if_it_fits(shown, backend)


def on_gpu_if_it_fits(photos: Dataset, backend: Backend) -> Dataset:
    """Photos on the GPU where it has room for all of them; features stay in their file."""
    if photos.are_features or not fits_on_device(photos, backend.device):
        return photos
    return on_device(photos, backend.device)


def training_rows(config: TrainConfig, store: Store) -> Rows:
    """The rows of the training split, or of its class-balanced subset where `--samples` asks for one, with copies."""
    rows, photos, samples = store.training_rows, store.rows("train"), config.data.samples
    if samples is None:
        return rows
    if samples > len(photos):
        raise UserError(f"--samples {samples}: the training split has only {len(photos)} photos")
    recordings = list(zip(store.sources[photos], store.recordings[photos], strict=True))
    drawn = photos[balanced_subset(store.labels[photos], recordings, samples, config.seed)]
    return rows[np.isin(store.originals[rows], drawn)]


def times_shown(store: Store, rows: Rows, config: DataConfig) -> npt.NDArray[np.int64] | None:
    """How often an epoch shows each photo (`--balance`, `--hands-in-nothing`); None: once."""
    if config.balance == 0 and config.hands_in_nothing == 1:
        return None
    _, source, sizes = np.unique(store.sources[rows], return_inverse=True, return_counts=True)
    times: npt.NDArray[np.int64] = np.rint((sizes.max() / sizes) ** config.balance).astype(np.int64)[source]
    if config.hands_in_nothing < 1:
        suspects = np.flatnonzero((store.labels[rows] == CLASS_INDEX["nothing"]) & store.hands["found"][rows])
        # Evenly over the photos, which are in the order of their recordings: whole numbers that add up to the share.
        shown = np.cumsum(times[suspects]) * config.hands_in_nothing
        times[suspects] = np.diff(np.floor(shown).astype(np.int64), prepend=0)
    return times


def recording_names(store: Store, rows: Rows) -> list[str]:
    """The recordings of photos, as `source/recording`."""
    pairs = zip(store.sources[rows], store.recordings[rows], strict=True)
    return sorted({f"{source}/{recording}" for source, recording in pairs})
