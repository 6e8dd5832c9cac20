"""A training run from config to report: the store opened, the trainer run, the splits scored, the folder written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horovod_asl import __version__, checkpoint
from horovod_asl.announce import next_step, settings_lines
from horovod_asl.answers import Answers, measures
from horovod_asl.backends import Backend
from horovod_asl.backends.threads import limit_threads
from horovod_asl.boxed import DEFAULT
from horovod_asl.cli import command
from horovod_asl.config import TrainConfig
from horovod_asl.curves import Curves
from horovod_asl.data.recordings import listed
from horovod_asl.data.store import Store
from horovod_asl.earlier_run import EarlierRun, FirstWeights, first_weights
from horovod_asl.engine import Photos, ResidentPhotos
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.memory import keep_freed_memory
from horovod_asl.progress import Display
from horovod_asl.restarts import agents_of
from horovod_asl.run_opening import full_disk_in_one_line, open_run_folder
from horovod_asl.runfolder import RunFolder, training_unknown
from horovod_asl.stopping import Outcome, StopSignal
from horovod_asl.store_photos import Rows, features_of_store, parts_of, photos_of_split, training_rows
from horovod_asl.trainer import Trainer

SPLITS = ("train", "validation", "test")
_LOW_SCORE = 0.7  # of held-out photos: networks that read hands are above it


def run_training(
    config: TrainConfig,
    store: Path | Store,
    backend: Backend,
    stop: StopSignal | None = None,
    committed: dict[str, Any] | None = None,
    features: Photos | None = None,
    *,
    scores_training: bool = True,
    resume_command: str | None = None,
    shows_next: bool = True,
    title: str = "",
) -> Outcome:
    """Train `config` on the store and write the run folder.

    Args:
        store: where it is; or one that is open, as `open_equal_stores` gives it, perhaps with other splits.
        stop: the signal by which this process may be asked to save and leave.
        committed: what an earlier call committed before ranks came or went; the run goes on from it.
        features: `features_of_store`, for several runs over one store; None: each computes what it needs.
        scores_training: whether the photos of training are scored at the end, beside the others.
        resume_command: what is printed as the way to go on with a run that stops early; None: `train --resume`.
        shows_next: whether the commands that make use of the finished run are printed.
        title: shown before the steps that are done.

    Raises:
        UserError: the stores of two hosts differ, the run folder is taken, the run to resume was trained on another
            store or split, or training cannot go on.
        KeyboardInterrupt: Ctrl-C was pressed twice, or while photos are scored; its text says how to go on.
    """
    with contextlib.ExitStack() as held:
        return _train(
            config,
            store,
            backend,
            stop or StopSignal(),
            committed,
            features,
            held,
            scores_training=scores_training,
            resume_command=resume_command,
            shows_next=shows_next,
            title=title,
        )


def _train(
    config: TrainConfig,
    store: Path | Store,
    backend: Backend,
    stop: StopSignal,
    committed: dict[str, Any] | None,
    features: Photos | None,
    held: contextlib.ExitStack,
    *,
    scores_training: bool,
    resume_command: str | None,
    shows_next: bool,
    title: str,
) -> Outcome:
    """`run_training`; `held` keeps the lock of the run folder until the end."""
    started = time.perf_counter()
    threads = settle_process(config, backend)
    store = store if isinstance(store, Store) else open_equal_stores(store, backend)
    if config.data.all_splits:
        store = store.with_splits(np.zeros(len(store), np.uint8), {"kind": "none"})
    display = held.enter_context(display_of(config, backend, title))
    rows = {split: store.rows(split) for split in SPLITS} | {"train": training_rows(config, store)}
    held_out = {split: rows[split] for split in SPLITS[1:]}
    began_in = config.resume if committed is None else Path(committed["run_folder"])
    first = first_weights(config, store, held_out, backend, began_in=began_in)
    if config.patience is not None and not len(rows["validation"]):
        raise UserError(
            "--patience ends a run by its accuracy on validation, and this store has no validation split: leave it "
            "out"
        )
    folder = open_run_folder(config, store, backend, committed, held, display.say)
    go_on = f"go on with: {resume_command or _resume_command(config, folder, backend)}"
    held.enter_context(full_disk_in_one_line(folder, go_on))
    if features is None and (config.model.features_file is not None or config.model.keep_maps):
        with stop.catching_interrupts():
            features = features_of_store(config, store, backend, stop, display.on_features)
        if features is None:
            display.say(_how_to_begin_again(config, folder, go_on))
            return stop.outcome
    photos = {
        split: photos_of_split(split, rows[split], store, config, backend, features) for split in SPLITS
    }
    trainer = Trainer(
        config,
        backend,
        folder,
        photos["train"],
        photos["validation"] if len(photos["validation"]) else None,
        stop=stop,
        committed=committed,
        on_step=lambda step, total: _show_step(step, total, trainer, display, curves),
        on_epoch=lambda row: _record(row, trainer, display, curves),
        on_features=display.on_features,
        on_scored=display.on_scored,
    )
    trained_on = parts_of(store, rows["train"])
    facts = _facts(trainer, store, trained_on, threads, first)
    _announce(facts, trained_on, display, trainer, go_on)
    if backend.rank == 0:
        seen = store.digests[rows["train"][~store.copies[rows["train"]]]]
        _begin_folder(trainer, facts, seen if first.run is None else [*seen, *first.run.digests])
    curves = Curves(
        folder.path / "tensorboard",
        trainer.position,
        trainer.sums,
        shown=backend.rank == 0,
        goes_on=config.resume is not None or committed is not None,
        steps_per_epoch=trainer.steps.steps_per_epoch,
    )
    training_started = time.perf_counter()
    try:
        with display.bar(), stop.catching_interrupts():
            outcome = trainer.run()
        if outcome is Outcome.FINISHED:
            own = np.flatnonzero(~store.copies[rows["train"]]) if scores_training else None
            scored = _to_score(trainer, photos, own)
            _conclude(trainer, scored, display, first.run, started=started, training_started=training_started)
            if shows_next:
                _say_what_is_next(trainer, display)
        else:
            _say_how_to_go_on(outcome, trainer, display, go_on)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"from its last checkpoint {go_on}") from None
    curves.close()
    return outcome


def display_of(config: TrainConfig, backend: Backend, title: str = "") -> Display:
    """What this rank shows of a run."""
    return Display(rank=backend.rank, epochs=config.epochs, world_size=backend.world_size, title=title)


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


def _begin_folder(trainer: Trainer, facts: dict[str, Any], digests: Iterable[str]) -> None:
    """Write what is known before the first step; `digests`: SHA-256 of the photos of training."""
    folder = trainer.folder
    folder.write_facts(facts)
    folder.write_training_photos(digests)
    folder.write_metrics(trainer.position.history)
    if not folder.holds_run():  # last: a start that failed may be tried again under the same name
        folder.create(_with_absolute_paths(dataclasses.replace(trainer.config, run_folder=folder.path)))
    elif trainer.config.resume is not None and trainer.committed is None:
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
    store, file, first = config.data.store, config.model.features_file, config.model.pretrained
    if first is not None and Path(first).exists():
        first = str(Path(first).absolute())
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, store=store and store.absolute()),
        model=dataclasses.replace(config.model, features_file=file and file.absolute(), pretrained=first),
    )


def _facts(
    trainer: Trainer, store: Store, trained_on: list[str], threads: int, first: FirstWeights
) -> dict[str, Any]:
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
        "begun_with": earlier and earlier.facts,
        "unknown_weights": first.unknown,
        "validated_on": parts_of(store, store.rows("validation")),
        "torchrun": agents_of(backend),
        "settings": {
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


def _photos_in(trainer: Trainer, store: Store) -> str:
    """Where the photos of a step come from."""
    if isinstance(trainer.train, ResidentPhotos):
        return "device memory"
    return "mapped files" if store.is_mapped else "memory"


def _announce(
    facts: dict[str, Any], trained_on: list[str], display: Display, trainer: Trainer, go_on: str
) -> None:
    for line in settings_lines(facts["settings"]):
        display.say(line)
    display.say(_wrapped(f"train on {len(trainer.train):,} photos: {listed(trained_on)}"))
    begun_with = facts["begun_with"]
    if begun_with is not None:
        seen = listed(begun_with["trained_on"])
        named = "the bundled model" if begun_with["run"] == DEFAULT else f"the run {begun_with['run']}"
        display.say(_wrapped(f"first weights: those of {named}, which was trained on {seen}"))
    if trainer.config.model.name == "hand_net" and trainer.config.model.pretrained is None:
        display.say("first weights: random. --pretrained hands or default reads new people better")
    if facts["unknown_weights"] is not None:
        display.say(f"note: {training_unknown(facts['unknown_weights'])}")
    if trainer.validation is None:
        display.say("no validation split: the last epoch's weights are kept")
    else:
        display.say(_wrapped(f"validate on {len(trainer.validation):,} photos: {listed(facts['validated_on'])}"))
        if trainer.config.last_epoch:
            display.say("the last epoch's weights are kept, whatever validation says")
    if trainer.config.trains_on_features:
        views = trainer.config.model.views or 1
        of = "each photo" if views == 1 else f"{views} versions of each photo"
        display.say(f"frozen backbone: its features of {of} are computed once")
    if trainer.committed is not None:
        display.say(f"ranks came or went: going on with {trainer.backend.world_size} from the last commit")
    position, total = trainer.position, trainer.total_steps
    if position.history and position.step < total:
        began = trainer.folder.config().epochs if trainer.backend.rank == 0 else trainer.config.epochs
        if trainer.config.epochs != began:
            display.say(
                f"{trainer.config.epochs} epochs in place of {began}: from here the learning rate follows the "
                f"schedule of a run of {trainer.config.epochs} (now {trainer.learning_rate(position.step):.2e})"
            )
    display.say(f"run folder {trainer.folder.path}, from step {position.step} of {total}")
    if trainer.backend.world_size > 1:  # whose launcher may end them before they can say it
        display.say(f"if it is interrupted, {go_on}")


def _wrapped(line: str) -> str:
    """As wide as a terminal; what follows the first line is indented."""
    return textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _say_how_to_go_on(outcome: Outcome, trainer: Trainer, display: Display, go_on: str) -> None:
    why = {Outcome.PREEMPTED: "stopped by a signal", Outcome.INTERRUPTED: "stopped by Ctrl-C"}.get(
        outcome, "stopped"
    )
    display.say(f"{why} at step {trainer.position.step}; {go_on}")


def _resume_command(config: TrainConfig, folder: RunFolder, backend: Backend) -> str:
    file = config.model.features_file
    words = ("--features-file", file) if file is not None else ()
    launched = f" (on {backend.world_size} ranks by the same launcher)" if backend.world_size > 1 else ""
    return f"{command('train', '--resume', folder.path, *words)}{launched}"


def _how_to_begin_again(config: TrainConfig, folder: RunFolder, go_on: str) -> str:
    """Of a run that was asked to stop before its first step, while photos passed the frozen backbone."""
    why = "stopped while the photos passed the frozen backbone"
    if folder.holds_run():
        return f"{why}; {go_on}"
    file = config.model.features_file
    return f"{why}; the same command " + (f"goes on with them in {file}" if file else "begins with them again")


def _show_step(step: int, total: int, trainer: Trainer, display: Display, curves: Curves) -> None:
    if trainer.backend.rank != 0:
        return
    display.on_step(step, total, trainer.position.photos, trainer.sums.tolist)
    curves.on_step(trainer.learning_rate(trainer.position.step - 1))


def _record(row: dict[str, Any], trainer: Trainer, display: Display, curves: Curves) -> None:
    display.on_epoch(row)
    curves.add(row)
    if trainer.backend.rank == 0:
        trainer.folder.write_metrics(trainer.position.history)


def _to_score(trainer: Trainer, photos: dict[str, Photos], own: Rows | None) -> dict[str, Photos]:
    """The photos of each split, as features where the trainer took their place by some.

    Args:
        own: those photos of training that are no copies, for nobody is scored on copies; None: none are scored.
    """
    test = photos["test"]
    if trainer.config.trains_on_features and len(test) and not test.are_features:
        test = trainer.features_of(test) or test
    scored = {"validation": trainer.validation or photos["validation"], "test": test}
    return scored if own is None else {"train": trainer.train.select(own)} | scored


def _conclude(
    trainer: Trainer,
    photos: dict[str, Photos],
    display: Display,
    earlier: EarlierRun | None,
    *,
    started: float,
    training_started: float,
) -> None:
    """Score the best weights on every split and write result and report; times are of `time.perf_counter`."""
    train_seconds = time.perf_counter() - training_started
    manifest, best_digest, answers = _answers_of_best(trainer, photos)
    seen = {} if earlier is None else earlier.held_out
    temperature = answers["validation"].temperature() if "validation" in answers else None
    if earlier is not None and ("validation" not in answers or "validation" in seen):
        temperature = earlier.temperature  # one that is fitted on photos of training is too sure
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "seconds": seconds,
        "train_seconds": train_seconds,
        "epochs": trainer.position.epoch,
        "stopped_early": trainer.stopped_early and trainer.position.epoch < trainer.config.epochs,
        "epoch": manifest.get("epoch"),
        "weights_digest": checkpoint.weights_digest(dict(trainer.learner.model.named_parameters())),
        "best_weights_digest": best_digest,
        "temperature": temperature,
        "held_out_in_training": dict(seen),
        "scores": {split: measures(answer, CLASSES, temperature or 1.0) for split, answer in answers.items()},
    }
    if trainer.backend.rank == 0:
        from horovod_asl.run_report import write_report

        trainer.folder.write_answers(
            {
                f"{split}_{name}": array
                for split, answer in answers.items()
                for name, array in vars(answer).items()
            }
        )
        trainer.folder.write_result(result)  # last: a run that has it is finished
        write_report(trainer.folder)
    if result["stopped_early"]:
        display.say(
            f"ended after {result['epochs']} of {trainer.config.epochs} epochs: validation has not improved for "
            f"{trainer.config.patience} (--patience)"
        )
    for split, answer in answers.items():
        score = answer.scores()
        name = {"train": "training recordings", "validation": "validation", "test": "held-out recordings"}[
            split
        ]
        display.say(
            f"{name:<20} {score.top1:7.2%} of {score.n:,} photos  "
            f"(top-3 {score.top3:.2%}, macro F1 {score.macro_f1:.3f})"
        )
        if split in seen:
            display.say(
                _wrapped(
                    f"  {seen[split]:,} of these {score.n:,} were in the training of the first weights, so this says "
                    "nothing about other people: score photos of theirs"
                )
            )
    if _reads_badly(trainer.config, answers.get("test") or answers.get("validation")):
        display.say(_wrapped(_why_low(trainer.config)))
    if temperature is not None and "validation" in answers and "validation" not in seen:
        before, after = (result["scores"]["validation"][key] for key in ("ece", "ece_calibrated"))
        display.say(
            f"temperature {temperature:.3f}, fitted on validation (its calibration error {before:.3f} → {after:.3f})"
        )
    unknown = trainer.folder.unknown_weights() if trainer.backend.rank == 0 else None
    if unknown is not None:
        display.say(f"note: {training_unknown(unknown)}: people who are held out may have been in it")
    display.say(f"done in {seconds:.0f} s: {trainer.folder.path}/report.html")
    trainer.backend.barrier()


def _reads_badly(config: TrainConfig, held_out: Answers | None) -> bool:
    """Whether a network that reads whole photos, other than the sample's, reads few of those that were held out."""
    reads_photos = config.model.input is None and config.data.store is not None
    return reads_photos and held_out is not None and held_out.scores().top1 < _LOW_SCORE


def _why_low(config: TrainConfig) -> str:
    """Why such a network reads so few, and what to try."""
    has_hands = Store.open(config.data.store or Path()).hand_settings is not None
    return (
        "this network reads whole photos: it learns the rooms, the light and the skin of the training set, and few "
        "hands of other people. Networks that read the hand itself do better: "
        + ("leave out --input photos" if has_hands else "prepare the photos with --hands")
    )


def _say_what_is_next(trainer: Trainer, display: Display) -> None:
    if trainer.backend.rank == 0:
        is_sample = trainer.config.data.store is None
        display.say(next_step(trainer.folder.path, trainer.folder.facts()["store"], is_sample=is_sample))


def _answers_of_best(
    trainer: Trainer, photos: dict[str, Photos]
) -> tuple[dict[str, Any], str, dict[str, Answers]]:
    """The manifest and digest of the best weights, and their answers to every split that has photos."""
    backend, model = trainer.backend, trainer.learner.model
    best = backend.broadcast(trainer.folder.best_weights() if backend.rank == 0 else None)
    assert best is not None
    manifest, weights = best
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(weights))
    digest = checkpoint.weights_digest(dict(model.named_parameters()))
    trainer.learner.average, average = None, trainer.learner.average
    answers = {split: trainer.answers(part) for split, part in photos.items() if len(part)}
    model.load_state_dict(final)
    trainer.learner.average = average
    return manifest, digest, answers
