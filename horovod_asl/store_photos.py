"""The photos of a store as a training sees them: which, how often, and as pixels, crops, landmarks or features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from horovod_asl import checkpoint
from horovod_asl.backends import Backend
from horovod_asl.config import DataConfig, TrainConfig
from horovod_asl.data.hands import hand_arrays, readings
from horovod_asl.data.split import balanced_subset
from horovod_asl.data.store import Store
from horovod_asl.engine import Photos, fits_on_device, on_device
from horovod_asl.errors import UserError
from horovod_asl.features import FEATURES_VERSION, Kept, of_photos
from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.models import build_model, freeze_backbone, tail
from horovod_asl.stopping import StopSignal

# What augmentation does to no photo of its own.
_OF_STEPS = ("label_smoothing", "mixup_alpha", "cutmix_alpha")
Rows = npt.NDArray[np.int64]


def photos_of(store: Store, rows: Rows, sees: str | None) -> Photos:
    """The photos of these rows of the store as a network that sees `pixels`, `landmarks` or `both` takes them.

    Else (None or `photos`) the whole photos. UserError where it wants hands and the store has none.
    """
    labels = store.labels[rows]
    if sees == "landmarks":
        return Photos(gather=hand_arrays(store.hands[rows]).__getitem__, labels=labels)
    if sees == "pixels":
        store.require_hands()
        return Photos(gather=lambda indices: store.gather_crops(rows[indices]), labels=labels)
    if sees == "both":
        hands = store.hands[rows]
        return Photos(
            gather=lambda indices: readings(store.gather_crops(rows[indices]), hands[indices]), labels=labels
        )
    return Photos(gather=lambda indices: store.gather(rows[indices]), labels=labels)


def photos_of_split(
    split: str, rows: Rows, store: Store, config: TrainConfig, backend: Backend, features: Photos | None
) -> Photos:
    """Those of a run's split: from `features` (`features_of_store`) where there are any, of training in all views."""
    times = times_shown(store, rows, config.data) if split == "train" else None
    if features is None:
        photos = _placed(photos_of(store, rows, config.model.input), config, backend)
    else:
        views = (config.model.views or 1) if split == "train" else 1
        photos = features.select(rows, views=views, of=len(store))
        times = None if times is None else np.tile(times, views)
    return dataclasses.replace(photos, times=times)


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


def _placed(photos: Photos, config: TrainConfig, backend: Backend) -> Photos:
    """On the GPU where there is room for all of them: batches are then made there, and nothing waits for a copy.

    Those that a frozen backbone passes once stay where they are.
    """
    worth_it = not config.trains_on_features and fits_on_device(photos, backend.device)
    return on_device(photos, backend.device) if worth_it else photos


def features_of_store(
    config: TrainConfig,
    store: Store,
    backend: Backend,
    stop: StopSignal,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Photos | None:
    """What the frozen backbone of `config` makes of every photo of the store, in `--views` versions, for many runs.

    None where some rank was asked to stop meanwhile, and for nothing else: `config` must train on features. Every
    rank must come here.
    """
    assert config.trains_on_features
    model, views = _partly_frozen(config), config.model.views or 1
    photos = photos_of(store, np.arange(len(store)), config.model.input)
    kept = _kept(config, store, _digest_of_frozen(model))
    if config.model.keep_maps:
        before = _keeping_maps(config)
        maps = features_of_store(before, store, backend, stop, on_progress)
        if maps is None:
            return None
        photos, views = maps, 1  # they are of all views
        freeze_backbone(model, tuned_blocks=before.model.tuned_blocks)
        model = tail(model)
    return of_photos(
        model.to(backend.device).eval(),
        backend,
        photos,
        config,
        stop,
        views=views,
        kept=kept,
        on_progress=on_progress,
    )


def _keeping_maps(config: TrainConfig) -> TrainConfig:
    """Of the run that would tune as many of the trunk's last blocks as `config` keeps maps for."""
    file = config.model.features_file
    model = dataclasses.replace(
        config.model,
        tuned_blocks=config.model.keep_maps,
        keep_maps=0,
        features_file=file and file.with_name(f"{file.name}.maps"),
    )
    return dataclasses.replace(config, model=model)


def frozen_digest(config: TrainConfig) -> str | None:
    """Of the weights that make the features that `config` trains on; None where it trains on none."""
    return _digest_of_frozen(_partly_frozen(config)) if config.trains_on_features else None


def _partly_frozen(config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    model = build_model(config.model.name, num_classes=len(CLASSES), pretrained=config.model.pretrained)
    freeze_backbone(model, tuned_blocks=config.model.tuned_blocks)
    return model


def _digest_of_frozen(model: nn.Module) -> str:
    return checkpoint.weights_digest(
        {name: part for name, part in model.named_parameters() if not part.requires_grad}
    )


def _kept(config: TrainConfig, store: Store, frozen: str) -> Kept | None:
    if config.model.features_file is None:
        return None
    about = {
        "version": FEATURES_VERSION,
        "store": store.digest,
        "model": config.model.name,
        "input": config.model.input,
        "precision": "fp32",  # of features, whatever the steps are in
        "backbone": frozen,
        "views": config.model.views or 1,
    }
    if config.model.keep_maps:  # they passed through half precision
        about["maps"] = config.model.keep_maps
    if about["views"] != 1:  # the first is the photo as it is
        about["seed"] = config.seed
        about["augment"] = {
            name: value for name, value in dataclasses.asdict(config.augment).items() if name not in _OF_STEPS
        }
    return Kept(config.model.features_file, about)


def parts_of(store: Store, rows: Rows) -> list[str]:
    """The recordings of photos, as `source/recording`."""
    pairs = zip(store.sources[rows], store.recordings[rows], strict=True)
    return sorted({f"{source}/{recording}" for source, recording in pairs})
