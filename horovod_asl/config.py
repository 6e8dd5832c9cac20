"""What a training run is asked to do: frozen dataclasses, validated where they are declared. No torch here.

The docstring under a field is its help text; its unit is in its name. Groups have no prefix on the command
line (`--learning-rate`) and are sections in YAML.
"""
# ruff: noqa: UP045 - tyro takes `Optional` as it is; to check `X | None` it imports typeguard, a quarter of --help's time

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Optional

from horovod_asl.errors import UserError

PLACE = {"is_place": True}
"""The metadata of a text field that may name a file or folder, plain or as NAME=PLACE. A Path field needs none."""

ModelName = Literal[
    "hand_net",
    "landmark_mlp",
    "small_cnn",
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "alexnet",
    "vgg19",
    "googlenet",
    "inception_v3",
]
_TUNED_BLOCKS = range(5, 17)
_MODEL_OF_INPUT: dict[str | None, ModelName] = {
    None: "small_cnn",
    "photos": "small_cnn",
    "pixels": "small_cnn",
    "landmarks": "landmark_mlp",
    "both": "hand_net",
}
_INPUT_OF_MODEL = {"landmark_mlp": "landmarks", "hand_net": "both"}

# Dropout between frozen layers: what they give the head differs from epoch to epoch.
_RANDOM_WITHIN = ("alexnet", "vgg19")
# Learning rate of one replica of 32 photos, and weight decay.
_USUAL_RATES = {"sgd": (0.05, 5e-4), "adam": (1e-3, 0.0), "adamw": (1e-3, 0.05)}

SCHEMA = 1
"""Of config.yaml, run.json and the manifests of checkpoints, which hold it as `schema` (none: 1). Raise it when an
older version would misread them: it then refuses them and names the remedy."""
RETIRED: dict[str, Any] = {}
"""Options that are gone, with the default that they had, by their YAML key. A config that holds one at its old
default is read as if it did not. Another value is refused where a training is to be repeated or to go on, and ignored
where a trained network is only used: so no option may stand here that decides a network's shape."""

# Where a run takes place, and what it writes beside its weights: a resume may change these, and learns the same. The
# store may have moved: its digest is compared. All other options decide what is learned, or which weights are kept.
NOT_LEARNED = frozenset(
    {
        *("run_folder", "resume", "store", "features_file", "stop_after_steps"),
        *("backend", "device", "threads_per_rank", "stall_timeout_seconds"),
        *("save_every_steps", "commit_every_steps", "ledger", "keep_top"),
    }
)
# How long a run goes on: a resume may change these too, and then learns more, or less.
HOW_LONG = frozenset({"epochs", "patience"})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_at_least_1(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value is None or value >= 1, f"--{name.replace('_', '-')} must be at least 1, not {value}")


def _require_finite(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            value is None or math.isfinite(value),
            f"--{name.replace('_', '-')} must be a finite number, not {value}",
        )


def _is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8: of one that is not, Python holds the bytes as lone surrogates."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    store: Optional[Path] = None
    """A store made by `horovod-asl prepare`; none: the built-in synthetic sample, prepared on first use."""
    samples: Optional[int] = None
    """Train on a class-balanced subset of this many photos; none: on all."""
    all_splits: bool = False
    """Train on every photo of the store: for a model to be used, once cross-validation has told what it is worth.
    Nothing is left to score it on."""
    balance: float = 0.0
    """Show the photos of small sources more often: (size of the largest ÷ its own size) to this power, rounded.
    0: each photo once an epoch; 1: as much of every source."""

    hands_in_nothing: float = 1.0
    """Show this share of the photos of `nothing` in which a hand was found: they teach to call hands nothing."""

    epoch_share: float = 1.0
    """Show this share of the photos in an epoch, drawn anew for each."""

    def __post_init__(self) -> None:
        _require_at_least_1(self, "samples")
        _require(
            0 <= self.hands_in_nothing <= 1,
            f"--hands-in-nothing must be in [0, 1], not {self.hands_in_nothing}",
        )
        _require(0 < self.epoch_share <= 1, f"--epoch-share must be in (0, 1], not {self.epoch_share}")
        _require(0 <= self.balance <= 1, f"--balance must be in [0, 1], not {self.balance}")


@dataclass(frozen=True)
class ModelConfig:
    """The network and what it sees."""

    model: Optional[ModelName] = None
    """hand_net reads the hand's landmarks and the pixels around them, landmark_mlp the landmarks alone; small_cnn,
    for 64 px, and torchvision's, with the head replaced, read pixels. None: by the next option; without that hand_net
    where the store has hands, else small_cnn."""
    input: Optional[Literal["both", "landmarks", "pixels", "photos"]] = None
    """What the network reads. Of a store with hands: the crop around the hand and its landmarks (both), the landmarks
    alone, or the crop alone (pixels); of any store the whole photos. None: what the model reads; without a --model
    both where the store has hands, else photos."""
    pretrained: Optional[str] = field(default=None, metadata=PLACE)
    """`imagenet` (torchvision's hub), `hands` (MediaPipe's landmark network, for hand_net), a local file of weights
    (.safetensors, .pt, .pth), `default` (the model that ships), or the folder of a run, whose best weights are taken.
    For crossval also the folder of another: each fold begins with what the same fold left there. Of a file in a run
    folder it is known who was in training, of any other file it is not, and scores say so. None: for hand_net
    `default` where the store is small, else `hands`; for other networks random weights. `none`: random weights for
    any network."""
    freeze_backbone: bool = False
    """Train the new head only; the backbone's BatchNorm statistics stay as they are. With --no-augment its
    features are computed once instead of in every epoch."""
    tuned_blocks: int = 0
    """With a frozen backbone: train the last so many of hand_net's 16 blocks all the same, at 0.4 of the head's rate;
    0, or 5 and more."""
    views: Optional[int] = None
    """With a frozen backbone: compute its features once, of so many versions of each photo, the first as it is, the
    others augmented; an epoch then sees them all."""

    features_file: Optional[Path] = None
    """Keep there what the frozen backbone makes of the store's photos, for other runs with the same views of the same
    store. None: a temporary file."""
    keep_maps: int = 0
    """Of a frozen hand_net: pass its trunk in two parts, and keep also what enters its last so many blocks, in half
    precision, in FEATURES_FILE.maps: the features file of runs with as many --tuned-blocks. 0: in one part."""

    def __post_init__(self) -> None:
        _require_at_least_1(self, "views")
        model = self.model or ("hand_net" if self.pretrained == "hands" else _MODEL_OF_INPUT[self.input])
        sees = _INPUT_OF_MODEL.get(model, self.input)
        _require(
            self.input in (None, sees) and (model in _INPUT_OF_MODEL) == (sees in ("landmarks", "both")),
            f"--model {model} cannot read --input {self.input}: leave one of the two out",
        )
        _require(
            self.pretrained != "hands" or model == "hand_net",
            "--pretrained hands is for --model hand_net: its pixel network is the hand finder's",
        )
        for name, blocks in (("tuned-blocks", self.tuned_blocks), ("keep-maps", self.keep_maps)):
            _require(
                blocks in (0, *_TUNED_BLOCKS),
                f"--{name} must be 0 or in {_TUNED_BLOCKS[0]} … {_TUNED_BLOCKS[-1]}, not {blocks}: "
                "the map that is read at the joints stands before the last five",
            )
        _require(
            self.tuned_blocks == 0 or (model == "hand_net" and self.freeze_backbone),
            "--tuned-blocks trains the last blocks of hand_net where the others are frozen: --model hand_net "
            "--freeze-backbone",
        )
        _require(
            self.keep_maps == 0 or (model == "hand_net" and self.freeze_backbone and self.tuned_blocks == 0),
            "--keep-maps is for a hand_net whose whole trunk is frozen: --model hand_net --freeze-backbone, without "
            "--tuned-blocks (which keeps such maps itself)",
        )
        _require(
            self.views is None or self.freeze_backbone,
            "--views keeps what a frozen backbone makes of photos: add --freeze-backbone",
        )
        _require(
            self.features_file is None or self.freeze_backbone,
            "--features-file keeps what a frozen backbone makes of photos: add --freeze-backbone",
        )
        object.__setattr__(self, "model", model)  # resolved, as it is saved with a run
        object.__setattr__(self, "input", None if sees == "photos" else sees)
        if self.pretrained == "none":
            object.__setattr__(self, "pretrained", None)

    @property
    def name(self) -> ModelName:
        """The model, resolved."""
        assert self.model is not None
        return self.model


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """SGD has Nesterov momentum."""
    learning_rate: Optional[float] = None
    """That of one replica; see the next option for several. None: 1e-3, for SGD 0.05."""
    learning_rate_scaling: Literal["auto", "linear", "sqrt", "none"] = "auto"
    """How the rate grows with replicas × accumulation steps: linear (Goyal et al. 2017) or with the square root
    (Malladi et al. 2022, for Adam and AdamW); auto: linear for SGD, sqrt for the others."""
    momentum: float = 0.9
    """For SGD."""
    weight_decay: Optional[float] = None
    """Not applied to biases and normalisation layers. None: 0.05 for AdamW, 5e-4 for SGD, 0 for Adam."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """After the warm-up: cosine to zero, or ÷ 10 after 1/2 and 3/4 of the epochs, or constant."""
    warmup_epochs: float = 2.0
    """Linear warm-up from the peak rate ÷ replicas (÷ 10 for fewer than ten), at most a quarter of the run."""
    cycles: int = 1
    """How often the schedule runs over the epochs, warm-up included, a cycle beginning with the weights of the one
    before. Of several, the mean of the weights at their ends is scored and kept (Izmailov et al. 2018,
    arXiv:1803.05407), BatchNorm's statistics likewise."""
    clip_norm: Optional[float] = 5.0
    """Clip the gradient's global L2 norm; `None` never does."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights, used for scoring; 0: none. 0.99 to 0.9999 are usual."""

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        _require_at_least_1(self, "cycles")
        _require_finite(self, "learning_rate", "weight_decay", "warmup_epochs")
        _require(rate is None or rate > 0, f"--learning-rate must be positive, not {rate}")
        _require(decay is None or decay >= 0, f"--weight-decay must not be negative: {decay}")
        _require(0 <= self.momentum < 1, f"--momentum must be in [0, 1), not {self.momentum}")
        _require(0 <= self.ema_decay < 1, f"--ema-decay must be in [0, 1), not {self.ema_decay}")
        _require(
            self.cycles == 1 or self.ema_decay == 0,
            "--cycles keeps the mean over cycles and --ema-decay a moving average: leave one of the two out",
        )
        _require(self.warmup_epochs >= 0, f"--warmup-epochs must not be negative: {self.warmup_epochs}")
        _require(
            self.clip_norm is None or self.clip_norm > 0, f"--clip-norm must be positive: {self.clip_norm}"
        )

    @property
    def learning_rate_in_force(self) -> float:
        """The learning rate of one replica: as asked for, or the usual one of the optimizer."""
        return _USUAL_RATES[self.optimizer][0] if self.learning_rate is None else self.learning_rate

    @property
    def weight_decay_in_force(self) -> float:
        """The weight decay: as asked for, or the usual one of the optimizer."""
        return _USUAL_RATES[self.optimizer][1] if self.weight_decay is None else self.weight_decay

    def resolved(self) -> OptimizerConfig:
        """The same with numbers in place of None, as it is saved with a run."""
        return replace(
            self, learning_rate=self.learning_rate_in_force, weight_decay=self.weight_decay_in_force
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation, on the device, on whole batches, with a draw of its own for every photo."""

    augment: bool = True
    """All of the below; `--no-augment` trains on the photos as they are (labels are smoothed all the same)."""
    rotation_degrees: float = 20.0
    """Uniform in ± this."""
    scale: float = 0.3
    """Zoom, log-uniform between 1 − this and 1 / (1 − this)."""
    translation: float = 0.15
    """Uniform in ± this share of the width and height."""
    perspective: float = 0.25
    """How far the vanishing point may tilt; 0: affine only."""
    mirror: float = 0.0
    """Probability of a mirrored hand: a left hand makes the same signs mirrored."""
    colour: float = 0.5
    """Strength of brightness, contrast, saturation, hue and gamma changes, 0 to 1."""
    blur: float = 0.3
    """Probability of a blur."""
    cutout: float = 0.3
    """Probability of a grey rectangle over part of the photo (DeVries & Taylor 2017)."""
    backgrounds: float = 0.0
    """Probability that a hand cut out on black is put before soft colours."""
    darken: float = 0.0
    """Probability of a dark room: pixel values down to an eighth, with noise."""
    jpeg: float = 0.0
    """Probability of a webcam's compression."""
    mixup_alpha: float = 0.0
    """Beta parameter of mixup (Zhang et al. 2018); 0: none. Pairs are within a rank's micro-batch."""
    cutmix_alpha: float = 0.0
    """Beta parameter of cutmix (Yun et al. 2019); 0: none. With both, each batch takes one of the two."""
    label_smoothing: float = 0.1
    """Share of the target given to all classes alike (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        _require_finite(self, "rotation_degrees", "translation", "mixup_alpha", "cutmix_alpha")
        for name in (
            *("mirror", "colour", "blur", "cutout", "label_smoothing", "perspective"),
            *("backgrounds", "darken", "jpeg"),
        ):
            _require(0 <= getattr(self, name) <= 1, f"--{name.replace('_', '-')} must be in [0, 1]")
        _require(0 <= self.scale < 1, f"--scale must be in [0, 1), not {self.scale}")
        _require(
            self.mixup_alpha >= 0 and self.cutmix_alpha >= 0, "mixup and cutmix alphas must not be negative"
        )


@dataclass(frozen=True)
class ExecutionConfig:
    """Where and how it runs."""

    backend: Literal["auto", "serial", "dp", "ddp", "horovod"] = "auto"
    """auto reads the launcher's environment: horovodrun, mpirun, srun, torchrun or none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast in bf16, or in fp16 with a gradient scaler (CUDA); weights stay fp32. On a CPU that is of the steps
    alone, and faster where the CPU has bf16 (AVX512_BF16, AMX); what is scored or kept is fp32."""
    channels_last: bool = False
    """NHWC memory format."""
    compile: bool = False
    """torch.compile the network."""
    threads_per_rank: Optional[int] = None
    """torch's threads; none: usable cores ÷ ranks on this machine."""
    adasum: bool = False
    """Adasum in place of averaging (Horovod under MPI, a power of two of ranks)."""
    fp16_compression: bool = False
    """Send gradients as fp16 (Horovod)."""
    stall_timeout_seconds: float = 180.0
    """Of several ranks: end the job when a rank has kept the others waiting so long, and say which."""
    deterministic: bool = False
    """Refuse nondeterministic kernels; the CPU path is deterministic without."""

    def __post_init__(self) -> None:
        _require_at_least_1(self, "threads_per_rank")
        _require_finite(self, "stall_timeout_seconds")
        _require(
            self.stall_timeout_seconds >= 5,
            f"--stall-timeout-seconds must be at least 5, not {self.stall_timeout_seconds}",
        )


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

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
    epochs: int = 12
    """Passes over the training photos. With --resume another number extends a run, finished or not, or shortens it:
    from there on the learning rate follows the schedule of a run of so many epochs; the warm-up is not repeated."""
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
        _require_at_least_1(self, "epochs", "batch_size_per_replica", "accumulation_steps", "keep_top")
        _require_at_least_1(self, "save_every_steps", "stop_after_steps", "commit_every_steps", "patience")
        for flag, is_set in (
            ("last-epoch", self.last_epoch),
            ("all-splits", self.data.all_splits),
            ("cycles", self.optimizer.cycles > 1),
        ):
            _require(
                self.patience is None or not is_set,
                f"--patience ends a run by its accuracy on validation, which does not go with --{flag}: leave one of "
                "the two out",
            )
        _require(
            self.epochs % self.optimizer.cycles == 0,
            f"--epochs {self.epochs} cannot be divided into {self.optimizer.cycles} equal --cycles",
        )
        for flag, folder in (("run-folder", self.run_folder), ("resume", self.resume)):
            _require(
                _is_utf8(str(folder)),
                f"--{flag} {folder}: TensorBoard and safetensors take no name that is not UTF-8; name another folder",
            )
        _require(0 <= self.seed < 2**32, f"--seed must be in [0, 2³²), not {self.seed}")
        _require(
            not (self.execution.adasum and self.optimizer.clip_norm is not None),
            "--adasum reduces whole updates, so gradients can't be clipped: add `--clip-norm None`",
        )
        _require(
            not (self.execution.adasum and self.execution.precision == "fp16"),
            "--adasum and --precision fp16 do not go together; use --precision bf16",
        )
        _require(
            self.model.input in (None, "pixels") or self.augment.mixup_alpha + self.augment.cutmix_alpha == 0,
            f"mixup and cutmix mix pixels alone, and {self.model.model} sees landmarks: leave them out",
        )
        _require(
            not (self.model.freeze_backbone and self.model.pretrained is None),
            "--freeze-backbone without --pretrained would freeze random weights; name weights with --pretrained",
        )
        for flag, value in (("features-file", self.model.features_file), ("keep-maps", self.model.keep_maps)):
            _require(
                not value or self.trains_on_features,
                f"--{flag} keeps what every epoch sees again: add --views N or --no-augment"
                if self.model.model not in _RANDOM_WITHIN
                else f"--{flag}: {self.model.model} has dropout among its frozen layers; leave it out",
            )
        _require(
            self.model.model != "hand_net" or self.augment.mirror == 0,
            "--mirror is of no use to hand_net, which reads every hand as both sides: leave it out",
        )

    @property
    def trains_on_features(self) -> bool:
        """Whether every epoch sees the same features: a frozen backbone, photos as they are or in so many views.

        They are then computed once (`features.py`), and the steps are of the head.
        """
        return (
            self.model.freeze_backbone
            and (not self.augment.augment or self.model.views is not None)
            and self.model.model not in _RANDOM_WITHIN
        )


# Augmentation that is off by default: whoever names one of these wants it.
_ASKED_FOR = ("mirror", "backgrounds", "darken", "jpeg", "mixup_alpha", "cutmix_alpha")
_OF_PIXELS = ("backgrounds", "darken", "jpeg")
_MIXING = ("mixup_alpha", "cutmix_alpha")


def refuse_without_effect(config: TrainConfig) -> None:
    """Refuse options of a new run that others of its options would leave without effect, or turn into the opposite.

    The config itself does not: a run of an older version may have been trained with them, and is still read.

    Raises:
        UserError: one of these options, and why it would do nothing.
    """
    model, views = config.model, config.model.views
    if views is not None:
        _require(
            model.name not in _RANDOM_WITHIN,
            f"--views: {model.name} has dropout among its frozen layers, which keeps nothing the same: leave it out",
        )
        _require(
            views == 1 or config.augment.augment,
            f"--views {views}: all versions but the first are augmented, and --no-augment asks for none: leave one "
            "of the two out",
        )
    if not config.augment.augment:
        _refuse_augmentation(config, _ASKED_FOR, "with --no-augment")
    if model.input == "landmarks":
        _refuse_augmentation(config, _OF_PIXELS, f"for {model.name}, which sees landmarks alone")
    if config.trains_on_features:
        _refuse_augmentation(config, _MIXING, "with --views, whose features are kept and not mixed")
        if views == 1:
            _refuse_augmentation(config, (*_OF_PIXELS, "mirror"), "with --views 1, which is each photo as it is")
    _require(
        config.optimizer.optimizer == "sgd" or config.optimizer.momentum == OptimizerConfig.momentum,
        f"--momentum {config.optimizer.momentum} has no effect with --optimizer {config.optimizer.optimizer}: add "
        "--optimizer sgd, or leave it out",
    )


def _refuse_augmentation(config: TrainConfig, names: tuple[str, ...], when: str) -> None:
    for name in names:
        value = getattr(config.augment, name)
        _require(value == 0, f"--{name.replace('_', '-')} {value} has no effect {when}: leave one of the two out")


def without_folders(config: TrainConfig) -> TrainConfig:
    """The same without the folders of the machine that trained it, which no other has; of weights the name alone."""
    pretrained = config.model.pretrained
    return replace(
        config,
        run_folder=None,
        resume=None,
        data=replace(config.data, store=None),
        model=replace(config.model, features_file=None, pretrained=pretrained and Path(pretrained).name),
    )
