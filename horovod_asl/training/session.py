"""A training run from config to result: the store opened, the trainer run, the splits scored, the folder written."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horovod_asl.command_line.progress import Display
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.distributed.threads import limit_threads
from horovod_asl.engine.dataset import Dataset, Rows, photos_of
from horovod_asl.engine.features import StoreFeatures, features_of_store
from horovod_asl.engine.resume import State, read_state
from horovod_asl.errors import UserError
from horovod_asl.runs.opening import full_disk_in_one_line, open_run_folder
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.store.store import Store
from horovod_asl.system.memory import keep_freed_memory
from horovod_asl.training.announce import (
    announce_run,
    how_to_begin_again,
    log_how_to_resume,
    resume_command_of,
)
from horovod_asl.training.conclusion import Started, conclude, log_what_is_next
from horovod_asl.training.curves import Curves
from horovod_asl.training.datasets import on_gpu_if_it_fits, photos_to_train, recording_names, training_rows
from horovod_asl.training.parent_run import FirstWeights, first_weights
from horovod_asl.training.run_facts import begin_folder, facts_of
from horovod_asl.training.trainer import Trainer

HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class RunOptions:
    """How a run is shown, and what is scored.

    Attributes:
        scores_training: whether the photos of training are scored at the end, beside the others.
        resume_command: what is printed as the way to resume a run that stops early; None: `train --resume`.
        shows_next: whether the commands that make use of the finished run are printed.
        title: shown before the steps that are done.
    """

    scores_training: bool = True
    resume_command: str | None = None
    shows_next: bool = True
    title: str = ""


@dataclass(frozen=True)
class _Run:
    """What a run is made of, once its folder is locked and its photos are there."""

    trainer: Trainer
    store: Store
    rows: Mapping[str, Rows]
    photos: Mapping[str, Dataset]
    first: FirstWeights
    display: Display
    resume_hint: str
    ranks_changed: bool


def run_training(
    config: TrainConfig,
    store: Path | Store,
    backend: Backend,
    stop: StopSignal | None = None,
    committed: dict[str, Any] | None = None,
    features: StoreFeatures | None = None,
    options: RunOptions = RunOptions(),
) -> Outcome:
    """Train `config` on the store and write the run folder.

    Args:
        store: where it is; or one that is open, as `open_equal_stores` gives it, perhaps with other splits.
        stop: the signal by which this process may be asked to save and leave.
        committed: what an earlier call committed before ranks came or went; the run goes on from it.
        features: of all photos of the store, for several runs over it; None: each computes what it needs.

    Raises:
        UserError: the stores of two hosts differ, the run folder is taken, the run to resume was trained on another
            store or split, or training cannot go on.
        KeyboardInterrupt: Ctrl-C was pressed twice, or while photos are scored; its text says how to go on.
    """
    started, stop = time.perf_counter(), stop or StopSignal()
    threads = settle_process(config, backend)
    with contextlib.ExitStack() as exit_stack:
        run = _set_up(config, store, backend, stop, committed, features, options, exit_stack)
        if run is None:
            return stop.outcome
        _announce_and_write_facts(run, threads)
        training_started = time.perf_counter()
        try:
            with run.display.bar(), stop.catching_interrupts(), _reporting_steps(run):
                outcome = run.trainer.run()
            if outcome is not Outcome.FINISHED:
                log_how_to_resume(outcome, run.trainer, run.display, run.resume_hint)
                return outcome
            scored = _to_score(run, scores_training=options.scores_training)
            conclude(run.trainer, scored, run.display, run.first.run, Started(started, training_started))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"from its last checkpoint {run.resume_hint}") from None
        if options.shows_next:
            log_what_is_next(run.trainer, run.display)
        return outcome


def _set_up(
    config: TrainConfig,
    store: Path | Store,
    backend: Backend,
    stop: StopSignal,
    committed: State | None,
    features: StoreFeatures | None,
    options: RunOptions,
    exit_stack: contextlib.ExitStack,
) -> _Run | None:
    """Everything before the first step: who may train here, from where, on which photos. None if asked to stop."""
    opened = _opened(store, config, backend)
    display = exit_stack.enter_context(display_of(config, backend, options.title))
    rows = _rows_of_splits(config, opened)
    resumed_from = config.resume if committed is None else Path(committed["run_folder"])
    held_out = {split: rows[split] for split in HELD_OUT}
    first = first_weights(config, opened, held_out, backend, began_in=resumed_from)
    folder = open_run_folder(config, opened, backend, committed, exit_stack, display.log)
    resume_hint = f"resume with: {options.resume_command or resume_command_of(config, folder, backend)}"
    exit_stack.enter_context(full_disk_in_one_line(folder, resume_hint))
    loaded = read_state(config, folder, backend, committed)
    photos = _photos(config, opened, rows, features, loaded, backend, stop, display)
    if photos is None:
        display.log(how_to_begin_again(config, folder, resume_hint))
        return None
    validation = photos["validation"] if len(photos["validation"]) else None
    trainer = Trainer(
        config,
        backend,
        folder,
        photos["train"],
        validation,
        stop=stop,
        loaded=loaded,
        on_scored=display.on_scored,
    )
    return _Run(trainer, opened, rows, photos, first, display, resume_hint, committed is not None)


def _opened(store: Path | Store, config: TrainConfig, backend: Backend) -> Store:
    """The store, the same on all ranks; with `--all-splits` every photo of it is in training."""
    opened = store if isinstance(store, Store) else open_equal_stores(store, backend)
    if config.data.all_splits:
        return opened.with_splits(np.zeros(len(opened), np.uint8), {"kind": "none"})
    return opened


def _rows_of_splits(config: TrainConfig, store: Store) -> dict[str, Rows]:
    """The rows of the store by the name of their split; UserError where `--patience` has no photos to go by."""
    rows = {"train": training_rows(config, store)} | {split: store.rows(split) for split in HELD_OUT}
    if config.patience is not None and not len(rows["validation"]):
        raise UserError(
            "--patience ends a run by its accuracy on validation, and this store has no validation split: leave it "
            "out"
        )
    return rows


def _photos(
    config: TrainConfig,
    store: Store,
    rows: Mapping[str, Rows],
    features: StoreFeatures | None,
    loaded: State | None,
    backend: Backend,
    stop: StopSignal,
    display: Display,
) -> dict[str, Dataset] | None:
    """The photos of each split, or where frozen layers read them, their features; None if asked to stop meanwhile."""
    if config.trains_on_features and features is None:
        needed = np.unique(np.concatenate([*rows.values()]))
        weights = None if loaded is None else loaded["weights"]
        with stop.catching_interrupts():
            features = features_of_store(
                config, store, backend, stop, rows=needed, weights=weights, on_progress=display.on_features
            )
        if features is None:
            return None
    if features is not None:
        photos = {split: features.of(own) for split, own in rows.items()}
    else:
        photos = {split: photos_of(store, own, config.model.input) for split, own in rows.items()}
    shown = {"train": photos_to_train(photos["train"], rows["train"], store, config, backend)}
    return shown | {split: on_gpu_if_it_fits(photos[split], backend) for split in HELD_OUT}


def _announce_and_write_facts(run: _Run, threads: int) -> None:
    """Say what begins, and write it into the run folder."""
    trainer, rows = run.trainer, run.rows["train"]
    trained_on = recording_names(run.store, rows)
    facts = facts_of(trainer, run.store, trained_on, threads, run.first)
    announce_run(facts, trained_on, run.display, trainer, run.resume_hint, ranks_changed=run.ranks_changed)
    if trainer.backend.rank == 0:
        seen = run.store.digests[rows[~run.store.copies[rows]]]
        digests = seen if run.first.run is None else [*seen, *run.first.run.digests]
        begin_folder(trainer, facts, digests, ranks_changed=run.ranks_changed)


@contextlib.contextmanager
def _reporting_steps(run: _Run) -> Iterator[None]:
    """Within, each step and epoch is shown, and rank 0 writes them down."""
    trainer, is_first = run.trainer, run.trainer.backend.rank == 0
    curves = Curves(
        trainer.folder.path / "tensorboard",
        trainer.position,
        trainer.sums,
        shown=is_first,
        goes_on=trainer.config.resume is not None or run.ranks_changed,
        steps_per_epoch=trainer.plan.steps_per_epoch,
    )

    def on_step(step: int, total: int) -> None:
        if is_first:
            run.display.on_step(step, total, trainer.position.photos, trainer.sums.tolist)
            curves.on_step(trainer.plan.learning_rate(trainer.position.step - 1))

    def on_epoch(row: dict[str, Any]) -> None:
        run.display.on_epoch(row)
        curves.add(row)
        if is_first:
            trainer.folder.write_metrics(trainer.position.history)

    trainer.on_step, trainer.on_epoch = on_step, on_epoch
    yield
    curves.close()


def _to_score(run: _Run, *, scores_training: bool) -> dict[str, Dataset]:
    """What is scored at the end, by split; of training the photos that are no copies, where it is asked for."""
    held_out = {split: run.photos[split] for split in HELD_OUT}
    if not scores_training:
        return held_out
    own = np.flatnonzero(~run.store.copies[run.rows["train"]])
    return {"train": run.photos["train"].select(own), **held_out}


def display_of(config: TrainConfig, backend: Backend, title: str = "") -> Display:
    """What this rank shows of a run."""
    return Display(rank=backend.rank, epochs=config.epoch_count, world_size=backend.world_size, title=title)


def settle_process(config: TrainConfig, backend: Backend) -> int:
    """Have torch compute as the config asks, and freed memory stay here; returns the threads of this rank."""
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it alone
    if config.execution.deterministic != torch.are_deterministic_algorithms_enabled():
        # Only where it changes something: this imports the compiler, whose settings it keeps in step.
        torch.use_deterministic_algorithms(config.execution.deterministic)
    return limit_threads(config.execution.threads_per_rank, backend.local_size)


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
