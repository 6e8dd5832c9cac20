"""A training run from config to report: the store opened, the trainer run, the splits scored, the folder written."""

from __future__ import annotations

import dataclasses
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from horovod_asl import __version__, checkpoint
from horovod_asl.backends import Backend, detect
from horovod_asl.backends.threads import limit_threads
from horovod_asl.config import TrainConfig
from horovod_asl.console import Display
from horovod_asl.data.split import balanced_subset
from horovod_asl.data.store import Store
from horovod_asl.engine import Photos
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.metrics import Scores
from horovod_asl.runfolder import RunFolder
from horovod_asl.trainer import Trainer

SPLITS = ("train", "validation", "test")


def run_training(config: TrainConfig, store_path: Path, backend: Backend) -> bool:
    """Train `config` on the store and write the run folder; False when stopped before the last epoch.

    Raises:
        UserError: the stores of two hosts differ, the run folder is taken, or training cannot go on.
    """
    started = time.perf_counter()
    threads = limit_threads(config.execution.threads_per_rank, backend.local_size)
    torch.use_deterministic_algorithms(config.execution.deterministic)
    store = open_equal_stores(store_path, backend)
    display = Display(rank=backend.rank, epochs=config.epochs, launched=detect().name != "none")
    folder = _open_folder(config, store, backend)
    photos = {split: photos_of(store, split, config.data.samples, config.seed) for split in SPLITS}
    validation = photos["validation"] if len(photos["validation"]) else None
    trainer = Trainer(
        config,
        backend,
        folder,
        photos["train"],
        validation,
        on_step=display.on_step,
        on_epoch=lambda row: _record(row, trainer, display, board),
    )
    facts = _facts(trainer, store, threads)
    _announce(facts, display, trainer)
    if backend.rank == 0:
        if config.resume is None:  # not before: a start that failed may be tried again under the same name
            folder.create(dataclasses.replace(config, run_folder=folder.path))
        folder.write_facts(facts)
        folder.write_metrics(trainer.position.history)
    board = _Board(folder, enabled=backend.rank == 0)
    training_started = time.perf_counter()
    with display.bar():
        finished = trainer.run()
    if not finished:
        display.say(f"stopped at step {trainer.position.step}; go on with: train --resume {folder.path}")
        return False
    _conclude(trainer, photos, display, started=started, training_started=training_started)
    board.close()
    return True


def open_equal_stores(path: Path, backend: Backend) -> Store:
    """Open the store on every rank, and refuse to train where hosts hold different ones."""
    store = Store.open(path)
    digests = backend.gather((platform.node(), store.digest))
    others = sorted({host for host, digest in digests if digest != digests[0][1]})
    if others:
        raise UserError(
            f"the store {path} on {', '.join(others)} differs from {digests[0][0]}'s; prepare or copy it again"
        )
    return store


def photos_of(store: Store, split: str, samples: int | None = None, seed: int = 0) -> Photos:
    """The photos of a split; of the training split a class-balanced subset of `samples` where given."""
    rows = store.rows(split)
    if samples is not None and split == "train":
        if samples > len(rows):
            raise UserError(f"--samples {samples}: the training split has only {len(rows)} photos")
        recordings = list(zip(store.sources[rows], store.recordings[rows], strict=True))
        rows = rows[balanced_subset(store.labels[rows], recordings, samples, seed)]
    return Photos(gather=lambda indices: store.gather(rows[indices]), labels=store.labels[rows])


def _open_folder(config: TrainConfig, store: Store, backend: Backend) -> RunFolder:
    """Rank 0 makes the run folder, or holds the store against the run's to resume; all ranks see its refusal."""
    path = config.resume or config.run_folder or backend.broadcast(RunFolder.default_path(config.model.model))
    folder = RunFolder(path)
    fault = None
    if backend.rank == 0:
        try:
            folder.claim() if config.resume is None else _refuse_another_store(folder, store)
        except (UserError, OSError) as error:
            fault = str(error)
    fault = backend.broadcast(fault)
    if fault is not None:
        raise UserError(fault)
    return folder


def _refuse_another_store(folder: RunFolder, store: Store) -> None:
    trained = folder.facts()["store_digest"]
    if trained != store.digest:
        raise UserError(
            f"{folder.path} was trained on a store with digest {trained[:12]}, and {store.path} has "
            f"{store.digest[:12]}; name the first with --store, or start a new run"
        )


def _facts(trainer: Trainer, store: Store, threads: int) -> dict[str, Any]:
    config, backend = trainer.config, trainer.backend
    return {
        "model": config.model.model,
        "classes": list(CLASSES),
        "image_size": store.image_size,
        "precision": config.execution.precision,
        "store": str(store.path),
        "store_digest": store.digest,
        "split_rule": store.manifest["split_rule"],
        "trained_on": parts_of(store, "train"),
        "validated_on": parts_of(store, "validation"),
        "settings": {
            "backend": backend.name,
            "world_size": backend.world_size,
            "replicas": backend.num_replicas,
            "device": str(backend.device),
            "threads_per_rank": threads,
            "precision": config.execution.precision,
            "global_batch": trainer.position.global_batch,
            "accumulation_steps": trainer.accumulation,
            "peak_learning_rate": max(
                map(trainer.learning_rate, range(0, trainer.total_steps, max(1, trainer.total_steps // 1000)))
            ),
            "steps": trainer.total_steps,
            "parameters": sum(parameter.numel() for parameter in trainer.learner.model.parameters()),
            **backend.describe(),
        },
        "versions": {
            "horovod_asl": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def parts_of(store: Store, split: str) -> list[str]:
    """The recordings of a split, as `source/recording`."""
    rows = store.rows(split)
    return sorted(
        {
            f"{source}/{recording}"
            for source, recording in zip(store.sources[rows], store.recordings[rows], strict=True)
        }
    )


def _announce(facts: dict[str, Any], display: Display, trainer: Trainer) -> None:
    display.say("  ".join(f"{name} {_short(value)}" for name, value in facts["settings"].items()))
    display.say(f"train on {len(trainer.train):,} photos: {', '.join(facts['trained_on'])}")
    if trainer.validation is None:
        display.say("no validation split: the last epoch's weights are kept")
    else:
        display.say(f"validate on {len(trainer.validation):,} photos: {', '.join(facts['validated_on'])}")
    display.say(
        f"run folder {trainer.folder.path}, from step {trainer.position.step} of {trainer.total_steps}"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _record(row: dict[str, Any], trainer: Trainer, display: Display, board: _Board) -> None:
    display.on_epoch(row)
    board.add(row)
    if trainer.backend.rank == 0:
        trainer.folder.write_metrics(trainer.position.history)


def _conclude(
    trainer: Trainer, photos: dict[str, Photos], display: Display, *, started: float, training_started: float
) -> None:
    """Score the best weights on every split and write result and report; times are of `time.perf_counter`."""
    train_seconds = time.perf_counter() - training_started
    manifest, scores = _score_best(trainer, photos)
    seconds = time.perf_counter() - started
    result = {
        "seconds": seconds,
        "train_seconds": train_seconds,
        "epoch": manifest.get("epoch"),
        "weights_digest": checkpoint.weights_digest(dict(trainer.learner.model.named_parameters())),
        "scores": {split: score.as_dict(CLASSES) for split, score in scores.items()},
    }
    if trainer.backend.rank == 0:
        from horovod_asl.report import write_report

        trainer.folder.write_result(result)
        write_report(trainer.folder)
    for split, score in scores.items():
        name = {"train": "training recordings", "validation": "validation", "test": "held-out recordings"}[
            split
        ]
        display.say(
            f"{name:<20} {score.top1:7.2%} of {score.n:,} photos  "
            f"(top-3 {score.top3:.2%}, macro F1 {score.macro_f1:.3f})"
        )
    display.say(f"done in {seconds:.0f} s: {trainer.folder.path}/report.html")
    trainer.backend.barrier()


def _score_best(trainer: Trainer, photos: dict[str, Photos]) -> tuple[dict[str, Any], dict[str, Scores]]:
    backend, model = trainer.backend, trainer.learner.model
    best = backend.broadcast(trainer.folder.best_weights() if backend.rank == 0 else None)
    assert best is not None
    manifest, weights = best
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(weights))
    trainer.learner.ema, average = None, trainer.learner.ema
    scores = {split: trainer.score(part) for split, part in photos.items() if len(part)}
    model.load_state_dict(final)
    trainer.learner.ema = average
    return manifest, scores


class _Board:
    """The epochs as TensorBoard curves."""

    def __init__(self, folder: RunFolder, *, enabled: bool) -> None:
        self._writer = SummaryWriter(str(folder.path / "tensorboard")) if enabled else None

    def add(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            return
        for name in row.keys() - {"epoch", "step"}:
            self._writer.add_scalar(name, row[name], row["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
