"""The weights that a run begins with (`--pretrained`): the run of ours that left them, and whom it has seen.

A head that is trained before anything below it is tuned keeps the features that the backbone brought: tuned together
from the start, a fresh head's first errors distort them, at the cost of inputs unlike those of training (Kumar et al.
2022, arXiv:2202.10054). So a training may have two stages, each a run. Whoever was in the training of the first has
been seen by the second: its facts say so, and it refuses to be scored on them. That holds also where --pretrained
names a file of weights in a run folder. Of any other file nothing says who was in its training; the facts say that.

The bundled model is the exception, since no user can train it again without the photos that they hold out. A run
that begins with it gets its scores all the same, with how many of the photos it has seen; and its temperature is the
bundled model's, since one that was fitted on photos of training would be too sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from horovod_asl.command_line.config_file import to_yaml
from horovod_asl.config import TrainConfig, without_folders
from horovod_asl.distributed.base import Backend, from_rank_0
from horovod_asl.errors import UserError
from horovod_asl.models.registry import is_imagenet_file
from horovod_asl.runs.bundled_model import is_bundled, names_run_folder, open_run, run_of_weights
from horovod_asl.runs.initial_weights import KNOWN_WEIGHTS
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.store.folds import CROSSVAL
from horovod_asl.store.store import Store


@dataclass(frozen=True)
class ParentRun:
    """What a run must say of the one that it begins with.

    Attributes:
        trained_on: its recordings, and those of the run that it began with itself.
        digests: the lines of its `trained_on.sha256`.
        config: its config as YAML, without folders.
        temperature: what its logits are divided by.
        held_out: photos of the new run's splits that were in its training, by the name of the split.
    """

    path: Path
    trained_on: tuple[str, ...]
    digests: tuple[str, ...]
    config: str
    temperature: float = 1.0
    held_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What stands as `initialized_from` in the facts of the later run."""
        return {
            "run": str(self.path),
            "trained_on": list(self.trained_on),
            "config": self.config,
            "temperature": self.temperature,
            "held_out": dict(self.held_out),
        }


@dataclass(frozen=True)
class FirstWeights:
    """What is known of the weights that a run begins with.

    Attributes:
        run: the run that left them; None for any others.
        unknown: the file of weights, these or those that the run began with, of which nothing says who was in its
            training; None: there is none.
    """

    run: ParentRun | None = None
    unknown: str | None = None


def first_weights(
    config: TrainConfig, store: Store, held_out: Mapping[str, Any], backend: Backend, *, began_in: Path | None
) -> FirstWeights:
    """Whom the weights that `config` begins with have seen. Every rank must come here.

    Args:
        held_out: rows of the store on which the new run will be scored, by the name of their split.
        began_in: the folder of the new run, where it began before and goes on: it knows what it began with.

    Raises:
        UserError: the folder holds no trained run, or some of these photos were in its training.
    """

    def found() -> FirstWeights:
        if began_in is not None:
            return _remembered(RunFolder(began_in))
        if config.model.pretrained is None or config.model.pretrained in KNOWN_WEIGHTS:
            return FirstWeights()
        return _read(Path(config.model.pretrained), config.model.name, store, held_out)

    return from_rank_0(backend, found)


def is_path(pretrained: str | None) -> bool:
    """Whether `--pretrained` names a folder or file that is there, and not one of the known weights."""
    return pretrained not in (None, *KNOWN_WEIGHTS) and Path(str(pretrained)).exists()


def _read(path: Path, model: str, store: Store, held_out: Mapping[str, Any]) -> FirstWeights:
    run = open_run(path) if names_run_folder(path) else run_of_weights(path)
    if run is not None:
        return FirstWeights(_earlier(path, run, store, held_out), run.unknown_weights())
    is_known = not path.is_file() or is_imagenet_file(model, path)  # one that is not there is refused elsewhere
    return FirstWeights(unknown=None if is_known else str(path))


def _earlier(path: Path, run: RunFolder, store: Store, held_out: Mapping[str, Any]) -> ParentRun:
    config, facts, seen = run.config(), run.facts(), run.training_photos()
    if seen is None:
        raise UserError(f"--pretrained {path}: it does not say which photos it was trained on: train it anew")
    counts = {split: sum(run.were_in_training(store.digests[rows]) or []) for split, rows in held_out.items()}
    counts = {split: count for split, count in counts.items() if count}
    is_fold = store.manifest["split_rule"]["kind"] == CROSSVAL
    for split, count in counts.items():
        if is_fold or not is_bundled(run):
            raise UserError(
                f"--pretrained {path}: {count:,} photos of this run's {split} split were in its training, "
                "so no score would be honest: name a run that left them out, or a store with the same split"
            )
    return ParentRun(
        run.path if path.is_file() else path,
        tuple(facts["trained_on"]),
        tuple(seen),
        to_yaml(without_folders(config)),
        run.temperature(run.best_weights()[0]),
        counts,
    )


def _remembered(run: RunFolder) -> FirstWeights:
    begun, unknown = run.facts().get("initialized_from"), run.unknown_weights()
    if begun is None:
        return FirstWeights(unknown=unknown)
    seen = tuple(run.training_photos() or ())
    earlier = ParentRun(
        Path(begun["run"]),
        tuple(begun["trained_on"]),
        seen,
        begun["config"],
        begun.get("temperature", 1.0),  # an older version saved none, and refused held-out photos
        begun.get("held_out", {}),
    )
    return FirstWeights(earlier, unknown)
