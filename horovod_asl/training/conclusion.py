"""The end of a run: the best weights scored on every split, its result written, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horovod_asl.command_line.progress import Display
from horovod_asl.config import TrainConfig
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.predictions import Predictions, metrics_report
from horovod_asl.labels import CLASSES
from horovod_asl.runs import checkpoint
from horovod_asl.runs.run_folder import training_unknown
from horovod_asl.store.store import Store
from horovod_asl.training.announce import next_step, wrapped
from horovod_asl.training.parent_run import ParentRun
from horovod_asl.training.trainer import Trainer

_LOW_SCORE = 0.7  # of held-out photos: networks that read hands are above it
_NAMES = {"train": "training recordings", "validation": "validation", "test": "held-out recordings"}


@dataclass(frozen=True)
class Started:
    """When a run and its training began, in seconds of `time.perf_counter`."""

    run: float
    training: float


def conclude(
    trainer: Trainer,
    photos: Mapping[str, Dataset],
    display: Display,
    earlier: ParentRun | None,
    started: Started,
) -> None:
    """Score the best weights on every split, write the result, and say it. Every rank must come here.

    Args:
        photos: those to score, or their features, by the name of their split.
        earlier: the run that this one began with.
    """
    train_seconds = time.perf_counter() - started.training
    manifest, best_digest, predictions = _predictions_of_best(trainer, photos)
    result = _result(trainer, manifest, predictions, earlier) | {
        "seconds": time.perf_counter() - started.run,
        "train_seconds": train_seconds,
        "best_weights_digest": best_digest,
    }
    if trainer.backend.rank == 0:
        from horovod_asl.reports.run_report import write_report  # no other rank needs matplotlib

        trainer.folder.write_predictions(
            {
                f"{split}_{name}": array
                for split, one in predictions.items()
                for name, array in vars(one).items()
            }
        )
        trainer.folder.write_result(result)  # last: a run that has it is finished
        write_report(trainer.folder)
    if result["stopped_early"]:
        display.log(
            f"ended after {result['epochs']} of {trainer.config.epochs:g} epochs: validation has not improved for "
            f"{trainer.config.patience} (--patience)"
        )
    _log_scores(predictions, result["held_out_in_training"], display)
    _log_what_they_are_worth(trainer, result, predictions, display)
    trainer.backend.barrier()


def _result(
    trainer: Trainer,
    manifest: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
    earlier: ParentRun | None,
) -> dict[str, Any]:
    seen = {} if earlier is None else earlier.held_out
    temperature = predictions["validation"].temperature() if "validation" in predictions else None
    if earlier is not None and ("validation" not in predictions or "validation" in seen):
        temperature = earlier.temperature  # one that is fitted on photos of training is too sure
    return {
        "epochs": trainer.position.epoch,
        "stopped_early": trainer.stopped_early and trainer.position.epoch < trainer.config.epoch_count,
        "epoch": manifest.get("epoch"),
        "weights_digest": checkpoint.weights_digest(dict(trainer.train_state.model.named_parameters())),
        "temperature": temperature,
        "held_out_in_training": dict(seen),
        "scores": {
            split: metrics_report(answer, CLASSES, temperature or 1.0)
            for split, answer in predictions.items()
        },
    }


def _log_scores(predictions: Mapping[str, Predictions], seen: Mapping[str, int], display: Display) -> None:
    for split, answer in predictions.items():
        score = answer.scores()
        display.log(
            f"{_NAMES[split]:<20} {score.top1:7.2%} of {score.n:,} photos  "
            f"(top-3 {score.top3:.2%}, macro F1 {score.macro_f1:.3f})"
        )
        if split in seen:
            display.log(
                wrapped(
                    f"  {seen[split]:,} of these {score.n:,} were in the training of the first weights, so this says "
                    "nothing about other people: score photos of theirs"
                )
            )


def _log_what_they_are_worth(
    trainer: Trainer, result: Mapping[str, Any], predictions: Mapping[str, Predictions], display: Display
) -> None:
    """Why a score is low, the temperature, and whose training is not known."""
    if _reads_badly(trainer.config, predictions.get("test") or predictions.get("validation")):
        display.log(wrapped(_why_low(trainer.config)))
    temperature = result["temperature"]
    if (
        temperature is not None
        and "validation" in predictions
        and "validation" not in result["held_out_in_training"]
    ):
        before, after = (result["scores"]["validation"][key] for key in ("ece", "ece_calibrated"))
        display.log(
            f"temperature {temperature:.3f}, fitted on validation (its calibration error {before:.3f} → {after:.3f})"
        )
    unknown = trainer.folder.unknown_weights() if trainer.backend.rank == 0 else None
    if unknown is not None:
        display.log(f"note: {training_unknown(unknown)}: people who are held out may have been in it")
    display.log(f"done in {result['seconds']:.0f} s: {trainer.folder.path}/report.html")


def _reads_badly(config: TrainConfig, held_out: Predictions | None) -> bool:
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


def log_what_is_next(trainer: Trainer, display: Display) -> None:
    """The commands that make use of the run."""
    if trainer.backend.rank == 0:
        is_sample = trainer.config.data.store is None
        display.log(next_step(trainer.folder.path, trainer.folder.facts()["store"], is_sample=is_sample))


def _predictions_of_best(
    trainer: Trainer, photos: Mapping[str, Dataset]
) -> tuple[dict[str, Any], str, dict[str, Predictions]]:
    """The manifest and digest of the best weights, and their answers to every split that has photos."""
    backend, model = trainer.backend, trainer.train_state.model
    best = backend.broadcast(trainer.folder.best_weights() if backend.rank == 0 else None)
    assert best is not None
    manifest, weights = best
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(weights))
    digest = checkpoint.weights_digest(dict(model.named_parameters()))
    trainer.train_state.average, average = None, trainer.train_state.average
    predictions = {split: trainer.predictions(part) for split, part in photos.items() if len(part)}
    model.load_state_dict(final)
    trainer.train_state.average = average
    return manifest, digest, predictions
