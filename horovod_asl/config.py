"""What a training run is asked to do: frozen dataclasses, validated where they are declared. No torch here."""
# ruff: noqa: UP045 - tyro takes `Optional` as it is; to check `X | None` it imports typeguard, a quarter of --help's time

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

from horovod_asl.config_groups import (
    TEMPORARY,
    AugmentConfig,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    require,
    require_at_least_1,
)
from horovod_asl.networks import NETWORKS

SCHEMA = 2
"""Of config.yaml, run.json and the manifests of checkpoints, which hold it as `schema` (none: 1). Raise it when an
older version would misread them: it then refuses them and names the remedy."""
RETIRED: dict[str, Any] = {
    "cycles": 1,
    **dict.fromkeys(("mirror", "backgrounds", "darken", "jpeg"), 0.0),
}
"""Options that are gone, with the default that they had, by their YAML key. A config that holds one at its old
default is read as if it did not. Another value is refused where a training is to be repeated or to go on, and ignored
where a trained network is only used: so no option may stand here that decides a network's shape. What is spelt
otherwise today is translated (`config_upgrade`)."""

# Where a run takes place, and what it writes beside its weights: a resume may change these, and learns the same. The
# store may have moved: its digest is compared. All other options decide what is learned, or which weights are kept.
NOT_LEARNED = frozenset(
    {
        *("run_folder", "resume", "store", "stop_after_steps"),
        *("backend", "device", "threads_per_rank", "stall_timeout_seconds"),
        *("save_every_steps", "commit_every_steps", "ledger", "keep_top"),
    }
)
# How long a run goes on: a resume may change these too, and then learns more, or less.
HOW_LONG = frozenset({"epochs", "patience"})


def _is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8: of one that is not, Python holds the bytes as lone surrogates."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    COMMON: ClassVar[frozenset[str]] = frozenset(
        {
            *("store", "samples", "model", "input", "pretrained", "train", "cache_features"),
            *("optimizer", "learning_rate", "weight_decay", "schedule", "warmup_epochs", "augment"),
            *("backend", "device", "precision", "compile", "threads_per_rank"),
            *(
                "run_folder",
                "resume",
                "epochs",
                "patience",
                "batch_size_per_replica",
                "accumulation_steps",
                "seed",
            ),
        }
    )
    """The options that `--help` shows; `--help-all` shows the others, too."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    run_folder: Optional[Path] = None
    """The run folder; none: runs/<date>-<model>. It must be new, or hold the run to resume."""
    resume: Optional[Path] = None
    """Continue the run in this folder with its own config. Flags that change what is learned are refused; --epochs
    and --patience extend it or end it earlier."""
    epochs: float = 12
    """Passes over the training photos; the last may be a part of one (0.5: half of the photos, drawn by the seed).
    With --resume another number extends a run, finished or not, or shortens it: from there on the learning rate
    follows the schedule of a run of so many epochs; the warm-up is not repeated."""
    patience: Optional[int] = None
    """End the run when the accuracy on validation has not risen for this many epochs; an equal one is no rise. None:
    train all --epochs."""
    batch_size_per_replica: int = 32
    """Photos per replica and backward pass; the global batch is this × replicas × accumulation steps."""
    accumulation_steps: int = 1
    """Backward passes per optimizer step (Horovod's backward_passes_per_step)."""
    seed: int = 0
    """Seeds weights, order and augmentation."""
    save_every_steps: Optional[int] = None
    """Save a checkpoint after every so many steps, besides one at the end of each epoch."""
    commit_every_steps: int = 10
    """Under `horovodrun --min-np`: steps that a rank which is lost costs at most."""
    ledger: bool = False
    """Write down which photos each step saw (rows of the training split), a file per process under ledger/."""
    keep_top: int = 3
    """Keep the weights of this many best epochs."""
    last_epoch: bool = False
    """Keep the last epoch's weights, not those of the best on validation: for validation photos that are few, or
    easier than what is to come."""
    stop_after_steps: Optional[int] = None
    """Save and leave after this many steps in all, as a preempted job would; `--resume` goes on."""

    def __post_init__(self) -> None:
        if math.isfinite(self.epochs) and self.epochs == int(self.epochs):
            object.__setattr__(self, "epochs", int(self.epochs))  # so it is shown as one writes it
        require(0 < self.epochs < math.inf, f"--epochs must be above 0 and finite, not {self.epochs}")
        require_at_least_1(self, "batch_size_per_replica", "accumulation_steps", "keep_top")
        require_at_least_1(self, "save_every_steps", "stop_after_steps", "commit_every_steps", "patience")
        for flag, is_set in (
            ("last-epoch", self.last_epoch),
            ("all-splits", self.data.all_splits),
        ):
            require(
                self.patience is None or not is_set,
                f"--patience ends a run by its accuracy on validation, which does not go with --{flag}: leave one of "
                "the two out",
            )
        for flag, folder in (("run-folder", self.run_folder), ("resume", self.resume)):
            require(
                _is_utf8(str(folder)),
                f"--{flag} {folder}: TensorBoard and safetensors take no name that is not UTF-8; name another folder",
            )
        require(0 <= self.seed < 2**32, f"--seed must be in [0, 2³²), not {self.seed}")
        require(
            not (self.execution.adasum and self.optimizer.clip_norm is not None),
            "--adasum reduces whole updates, so gradients can't be clipped: add `--clip-norm None`",
        )
        require(
            not (self.execution.adasum and self.execution.precision == "fp16"),
            "--adasum and --precision fp16 do not go together; use --precision bf16",
        )
        require(
            self.model.input in (None, "pixels") or self.augment.mixup_alpha + self.augment.cutmix_alpha == 0,
            f"mixup and cutmix mix pixels alone, and {self.model.model} sees landmarks: leave them out",
        )
        require(
            self.model.train == "all" or self.model.pretrained is not None,
            f"--train {self.model.train} without --pretrained would freeze random weights; name weights with "
            "--pretrained",
        )

    @property
    def epoch_count(self) -> int:
        """The epochs that are begun: of 1.5 the second is half of one."""
        return math.ceil(self.epochs)

    @property
    def trains_on_features(self) -> bool:
        """Whether every epoch sees the same features: frozen layers, and pixels that are not augmented.

        They are then computed once (`engine/features.py`), and the steps are of the layers behind them.
        """
        return (
            self.model.train != "all"
            and (not self.augment.augment or self.model.cache_features is not None)
            and not NETWORKS[self.model.name].frozen_dropout
        )


# Augmentation that is off by default: whoever names one of these wants it.
_MIXING = ("mixup_alpha", "cutmix_alpha")


def refuse_without_effect(config: TrainConfig) -> None:
    """Refuse options of a new run that others of its options would leave without effect, or turn into the opposite.

    The config itself does not: a run of an older version may have been trained with them, and is still read.

    Raises:
        UserError: one of these options, and why it would do nothing.
    """
    if not config.augment.augment:
        _refuse_augmentation(config, _MIXING, "with --no-augment")
    if config.trains_on_features:
        _refuse_augmentation(config, _MIXING, "with --cache-features, whose features are kept and not mixed")
    require(
        config.model.cache_features is None or not NETWORKS[config.model.name].frozen_dropout,
        f"--cache-features: {config.model.name} has dropout among its frozen layers, whose features are never the "
        "same: leave it out",
    )
    require(
        config.optimizer.optimizer == "sgd" or config.optimizer.momentum == OptimizerConfig.momentum,
        f"--momentum {config.optimizer.momentum} has no effect with --optimizer {config.optimizer.optimizer}: add "
        "--optimizer sgd, or leave it out",
    )


def _refuse_augmentation(config: TrainConfig, names: tuple[str, ...], when: str) -> None:
    for name in names:
        value = getattr(config.augment, name)
        require(
            value == 0, f"--{name.replace('_', '-')} {value} has no effect {when}: leave one of the two out"
        )


def without_folders(config: TrainConfig) -> TrainConfig:
    """The same without the folders of the machine that trained it, which no other has; of weights the name alone."""
    pretrained = config.model.pretrained
    return replace(
        config,
        run_folder=None,
        resume=None,
        data=replace(config.data, store=None),
        model=replace(
            config.model,
            cache_features=config.model.cache_features and TEMPORARY,
            pretrained=pretrained and Path(pretrained).name,
        ),
    )
