"""Features of frozen layers: computed once, where every epoch would compute the same ones again.

Without augmentation of its pixels a photo gives frozen layers the same input in each epoch, so what they hand on is
the same too. Training the layers behind them on features that are kept takes the steps that training the whole
network would, but for the rounding of sums (a test holds the weights of the two side by side). What is random stays
random: a dropout behind the frozen layers draws in every step, as it would have.

Features are computed in fp32 whatever the steps are in: one file serves trainings in any precision. hand_net's trunk
is passed in two parts, and the map between them is rounded to half precision. So features are the same whether a file
keeps these maps, for `--train last-N`, or not. `TrainConfig.trains_on_features` says when all this is done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from horovod_asl.command_line.progress import Report, no_report
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.engine.dataset import Dataset, Rows, map_tensors, photos_of
from horovod_asl.engine.feature_cache import FeatureCache, alone, record_rows, shared_table
from horovod_asl.inputs.pixels import Inputs, to_input
from horovod_asl.labels import CLASSES
from horovod_asl.models import registry
from horovod_asl.models.hand_net import HandNet, TunedTail
from horovod_asl.runs import checkpoint
from horovod_asl.runs.preemption import StopSignal
from horovod_asl.store.store import Store

FEATURES_VERSION = 2
"""Raise when the same photo and weights would give other features: kept files are then refused."""
_PHOTOS_PER_PASS = 256
_PHOTOS_PER_BATCH = 8  # a CPU's caches like it: larger ones are slower
_PASSES_PER_NOTE = 8
_BLOCKS_OF_MAPS = 10
"""How many of hand_net's last blocks a map that is kept stands before, where the run itself trains none of them: as
many as recipes/tuned.yaml trains."""

Extract = Callable[[Inputs], tuple[Tensor, ...]]
"""From a batch as a network takes it to features float (n, …), and the hands float (n, 50, 3) where it reads them."""


@dataclass(frozen=True)
class StoreFeatures:
    """Features of photos of a store.

    Attributes:
        rows: int64 (n,), of the store, ascending.
        photos: their features, in this order.
    """

    rows: Rows
    photos: Dataset

    def of(self, rows: Rows) -> Dataset:
        """Those of some of `rows`."""
        return self.photos.select(np.searchsorted(self.rows, rows))


def features_of_store(
    config: TrainConfig,
    store: Store,
    backend: Backend,
    stop: StopSignal,
    *,
    rows: Rows | None = None,
    weights: checkpoint.Weights | None = None,
    on_progress: Report = no_report,
) -> StoreFeatures | None:
    """What the frozen layers of `config` make of the photos of a store; `config` must train on features.

    Every rank must come here. None where some rank was asked to stop meanwhile.

    Args:
        rows: those that are needed, ascending; None, and where a file is named, all of the store, for other runs too.
        weights: of the run that is resumed; None: those that it begins with.

    Raises:
        UserError: too little room for the features on some machine, or the file is of other photos or weights.
    """
    assert config.trains_on_features
    network = _frozen_network(config, weights)
    if rows is None or config.model.cache_file is not None:
        rows = np.arange(len(store))
    cache = _cache(config, store, network)
    if cache is not None and isinstance(network, HandNet) and not config.model.tuned_blocks:
        of_maps = replace(config, model=replace(config.model, train=f"last-{_BLOCKS_OF_MAPS}"))
        maps = features_of_store(of_maps, store, backend, stop, weights=weights, on_progress=on_progress)
        if maps is None:
            return None
        photos = maps.photos
    else:
        photos = photos_of(store, rows, config.model.input)
    smallest_px = registry.smallest_input_px(config.model.name)
    features = extracted(
        network, photos, backend, stop, smallest_px=smallest_px, cache=cache, on_progress=on_progress
    )
    return None if features is None else StoreFeatures(rows, features)


def frozen_digest(config: TrainConfig) -> str | None:
    """Of the weights that make the features that `config` trains on; None where it trains on none."""
    return _digest(_frozen_network(config)) if config.trains_on_features else None


def _frozen_network(config: TrainConfig, weights: checkpoint.Weights | None = None) -> nn.Module:
    torch.manual_seed(config.seed)
    pretrained = config.model.pretrained if weights is None else None
    network = registry.build_model(config.model.name, num_classes=len(CLASSES), pretrained=pretrained)
    if weights is not None:
        network.load_state_dict(dict(weights))
    registry.freeze_backbone(network, tuned_blocks=config.model.tuned_blocks)
    return network.eval()


def _digest(network: nn.Module) -> str:
    return checkpoint.weights_digest(
        {name: part for name, part in network.named_parameters() if not part.requires_grad}
    )


def _cache(config: TrainConfig, store: Store, network: nn.Module) -> FeatureCache | None:
    """The file of `--cache-features`; beside it one for each N of `--train last-N`."""
    file, train = config.model.cache_file, config.model.train
    if file is None:
        return None
    fingerprint = {
        "version": FEATURES_VERSION,
        "store": store.digest,
        "model": config.model.name,
        "input": config.model.input,
        "train": train,
        "backbone": _digest(network),
    }
    return FeatureCache(file if train == "head" else file.with_name(f"{file.name}.{train}"), fingerprint)


def extracted(
    network: nn.Module,
    photos: Dataset,
    backend: Backend,
    stop: StopSignal,
    *,
    smallest_px: int = 0,
    cache: FeatureCache | None = None,
    on_progress: Report = no_report,
) -> Dataset | None:
    """The photos as features of `network`'s frozen layers. Each rank computes its share; every rank must come here.

    Float32 (n, width); for hand_net records of such features (of maps in half precision) and of the hand. None where
    some rank was asked to stop meanwhile.

    Args:
        network: in evaluation mode, frozen by `registry.freeze_backbone`.
        smallest_px: smaller photos are enlarged to this side.
        photos: to read; or, for hand_net's head, the maps that a pass for `--train last-10` made of them.
        cache: a file in which they stay for other runs, and from which an interrupted pass goes on.

    Raises:
        UserError: the folder for temporary files has too little room on some machine, or the file is of another pass.
    """
    read = _Reader(network.to(backend.device), backend.device, photos, smallest_px)
    if cache is not None:
        cache = replace(cache, fingerprint={**cache.fingerprint, "row": str(read.dtype)})
    with alone(cache, len(photos), read.dtype, backend, stop) as makes_file:
        if makes_file is None:
            return None
        table = shared_table(backend, len(photos), read.dtype, cache, makes_file=makes_file)
        if not _fill(table, read, backend, stop, cache, on_progress, makes_notes=makes_file):
            return None
    records: npt.NDArray[Any] = np.asarray(table)
    whole = records["features"] if records.dtype.names == ("features",) else records
    return Dataset(whole.__getitem__, photos.labels, are_features=True, times=photos.times)


def _fill(
    table: np.memmap[Any, Any],
    read: _Reader,
    backend: Backend,
    stop: StopSignal,
    kept: FeatureCache | None,
    on_progress: Report,
    *,
    makes_notes: bool,
) -> bool:
    """Write what is missing, over all ranks; False where some rank was asked to stop meanwhile."""
    block = _PHOTOS_PER_PASS * backend.world_size
    done = 0 if kept is None else min(backend.gather(kept.rows_done()))
    for number, start in enumerate(range(done, len(table), block)):
        backend.heartbeat()
        on_progress(start, len(table))
        if kept is not None and makes_notes and number % _PASSES_PER_NOTE == 0:
            record_rows(kept, table, start)
        if float(backend.sum(torch.tensor(float(stop.is_asked), device=backend.device))) > 0:
            return False
        rows = np.arange(start, min(start + block, len(table)))
        own = rows[backend.rank :: backend.world_size]
        part = np.zeros(len(rows), table.dtype)
        if len(own):
            part[own - start] = read(own)
        summed = backend.sum(torch.from_numpy(part.view(np.int32)).to(backend.device))
        if backend.local_rank == 0:  # each row is one rank's, and zero on the others: nothing was rounded
            table[rows] = summed.cpu().numpy().view(table.dtype)
    if kept is not None and makes_notes and done < len(table):
        record_rows(kept, table, len(table))
    on_progress(len(table), len(table))
    backend.barrier()
    return True


class _Reader:
    """Reads rows of `photos` into the records that are kept of them.

    `dtype` is that of a record: its `features`, and the `hand` where the network reads one.
    """

    def __init__(self, network: nn.Module, device: torch.device, photos: Dataset, smallest_px: int) -> None:
        self._device, self._photos, self._smallest_px = device, photos, smallest_px
        self._extract = _extract(network, reads_maps=photos.are_features)
        first = self._read(np.zeros(1, np.int64))
        self._names = ("features", "hand")[: len(first)]
        fields = [(name, _numpy(part), part.shape[1:]) for name, part in zip(self._names, first, strict=True)]
        self.dtype = np.dtype(fields)

    def __call__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The records of `rows`, (len(rows),)."""
        records = np.empty(len(rows), self.dtype)
        for start in range(0, len(rows), _PHOTOS_PER_BATCH):
            chosen = slice(start, start + _PHOTOS_PER_BATCH)
            for name, part in zip(self._names, self._read(rows[chosen]), strict=True):
                records[name][chosen] = part.cpu().numpy()
        return records

    @torch.no_grad()
    def _read(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, ...]:
        images, _ = self._photos.batch(rows, self._device)
        return self._extract(map_tensors(_nhwc, to_input(images, smallest_px=self._smallest_px)))


def _numpy(part: Tensor) -> type[np.generic]:
    return np.float16 if part.dtype == torch.float16 else np.float32


def _extract(network: nn.Module, *, reads_maps: bool) -> Extract:
    """How the frozen layers of a network are passed; of hand_net's head perhaps from the maps that were kept."""
    if not isinstance(network, HandNet):
        return _Folded(network)
    if network.tuned_blocks:
        return lambda reading: _halved(network.extract_features(reading))  # type: ignore[arg-type]
    before = copy.copy(network)  # the same layers
    before.tuned_blocks = _BLOCKS_OF_MAPS
    after = TunedTail(before)
    if reads_maps:
        return lambda maps: after.extract_features(maps)  # type: ignore[arg-type]
    return lambda reading: after.extract_features(_halved(before.extract_features(reading)))  # type: ignore[arg-type]


def _halved(maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Maps are large, and half precision is finer than what the blocks behind them make of it."""
    return maps[0].half(), maps[1]


class _Folded:
    """What enters the head of a network of torchvision's kind, its BatchNorm folded."""

    def __init__(self, model: nn.Module) -> None:
        from torch.fx.experimental.optimization import fuse

        self._network: nn.Module = fuse(copy.deepcopy(model).eval())
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._seen: list[Tensor] = []
        entry = registry.layers_of_classifier(self._network)[0]
        entry.register_forward_pre_hook(lambda module, inputs: self._seen.append(inputs[0]))

    def __call__(self, batch: Inputs) -> tuple[Tensor, ...]:
        """Features (n, width)."""
        self._seen.clear()
        self._network(batch)
        return (self._seen[0].flatten(1),)


def _nhwc(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
