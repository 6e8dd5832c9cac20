"""What a run writes down before its first step: its facts, its config, and whose photos it is trained on."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from horovod_asl import __version__
from horovod_asl.config import TrainConfig
from horovod_asl.engine.dataset import DeviceDataset
from horovod_asl.labels import CLASSES
from horovod_asl.runs.restarts import agents_of
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.store.store import Store
from horovod_asl.training.datasets import recording_names
from horovod_asl.training.parent_run import FirstWeights
from horovod_asl.training.trainer import Trainer


def begin_folder(
    trainer: Trainer, facts: dict[str, Any], digests: Iterable[str], *, ranks_changed: bool
) -> None:
    """Write what is known before the first step; `digests`: SHA-256 of the photos of training.

    `ranks_changed`: the run went on all the time, as ranks came or went.
    """
    folder = trainer.folder
    folder.write_facts(facts)
    folder.write_training_photos(digests)
    folder.write_metrics(trainer.position.history)
    if not folder.holds_run():  # last: a start that failed may be tried again under the same name
        folder.create(_with_absolute_paths(dataclasses.replace(trainer.config, run_folder=folder.path)))
    elif trainer.config.resume is not None and not ranks_changed:
        folder.set_result_aside()  # first: if this is as far as it comes, a resume finishes it again
        _note_changes(folder, trainer.config)


def _note_changes(folder: RunFolder, config: TrainConfig) -> None:
    """Write what a resume changes into the run's config, but for what holds for this resume alone."""
    began = folder.config()
    kept = ("epochs", "patience", "save_every_steps", "commit_every_steps", "ledger", "keep_top")
    now = dataclasses.replace(
        began,
        **{name: getattr(config, name) for name in kept},
        data=dataclasses.replace(began.data, store=config.data.store),
    )
    if _with_absolute_paths(now) != began:
        folder.create(_with_absolute_paths(now))


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """So that the run can be resumed from any working folder."""
    store, file, first = config.data.store, config.model.cache_file, config.model.pretrained
    if first is not None and Path(first).exists():
        first = str(Path(first).absolute())
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, store=store and store.absolute()),
        model=dataclasses.replace(
            config.model,
            cache_features=str(file.absolute()) if file else config.model.cache_features,
            pretrained=first,
        ),
    )


def facts_of(
    trainer: Trainer, store: Store, trained_on: list[str], threads: int, first: FirstWeights
) -> dict[str, Any]:
    """The facts of a run, as `RunFolder.write_facts` saves them."""
    config, backend, earlier = trainer.config, trainer.backend, first.run
    return {
        "model": config.model.name,
        "input": config.model.input or "photos",
        "tuned_blocks": config.model.tuned_blocks,
        "classes": list(CLASSES),
        "image_size": store.image_size,
        "crop_size": store.crop_size,
        "hands": store.hand_settings if config.model.input is not None else None,
        "precision": config.execution.precision,
        "store": str(store.path.absolute()),
        "store_digest": store.digest,
        "split_rule": store.manifest["split_rule"],
        "split_digest": store.split_digest,
        "trained_on": sorted({*trained_on, *(earlier.trained_on if earlier else ())}),
        "initialized_from": earlier and earlier.facts,
        "unknown_weights": first.unknown,
        "validated_on": recording_names(store, store.rows("validation")),
        "torchrun": agents_of(backend),
        "settings": _settings(trainer, store, threads),
        "versions": {
            "horovod_asl": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _settings(trainer: Trainer, store: Store, threads: int) -> dict[str, Any]:
    """What is in force, by default or as asked."""
    config, backend, every = trainer.config, trainer.backend, max(1, trainer.plan.total_steps // 1000)
    return {
        "backend": backend.name,
        "world_size": backend.world_size,
        "replicas": backend.num_replicas,
        "device": str(backend.device),
        "threads_per_rank": threads,
        "photos_in": _photos_in(trainer, store),
        "precision": config.execution.precision,
        "global_batch": trainer.position.global_batch,
        "accumulation_steps": trainer.accumulation,
        "optimizer": config.optimizer.optimizer,
        "learning_rate": config.optimizer.learning_rate_in_force,
        "weight_decay": config.optimizer.weight_decay_in_force,
        "peak_learning_rate": max(map(trainer.plan.learning_rate, range(0, trainer.plan.total_steps, every))),
        "steps": trainer.plan.total_steps,
        "parameters": sum(parameter.numel() for parameter in trainer.train_state.model.parameters()),
        **backend.describe(),
    }


def _photos_in(trainer: Trainer, store: Store) -> str:
    """Where the photos of a step come from."""
    if isinstance(trainer.train, DeviceDataset):
        return "device memory"
    return "mapped files" if store.is_mapped else "memory"
