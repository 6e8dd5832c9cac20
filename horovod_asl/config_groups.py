"""The groups of `train`'s options: data, model, optimizer, augmentation, execution. No torch here.

The docstring under a field is its help text; its unit is in its name. Groups have no prefix on the command
line (`--learning-rate`) and are sections in YAML.
"""
# ruff: noqa: UP045 - tyro takes `Optional` as it is; to check `X | None` it imports typeguard, a quarter of --help's time

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Optional

from tyro.conf import arg

from horovod_asl.errors import UserError
from horovod_asl.networks import DEFAULT_NETWORK, NETWORKS, NetworkName

PLACE = {"is_place": True}
"""The metadata of a text field that may name a file or folder, plain or as NAME=PLACE. A Path field needs none."""

TEMPORARY = "temporary"
"""The value of `--cache-features` without a file."""
_BARE = {"bare_value": TEMPORARY}
_TUNED_BLOCKS = range(5, 17)
# Learning rate of one replica of 32 photos, and weight decay.
_USUAL_RATES = {"sgd": (0.05, 5e-4), "adam": (1e-3, 0.0), "adamw": (1e-3, 0.05)}


def require(condition: bool, message: str) -> None:
    """UserError where a condition does not hold."""
    if not condition:
        raise UserError(message)


def require_at_least_1(config: object, *names: str) -> None:
    """UserError where one of these fields is below 1; None is none."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= 1, f"--{name.replace('_', '-')} must be at least 1, not {value}")


def _require_finite(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(
            value is None or math.isfinite(value),
            f"--{name.replace('_', '-')} must be a finite number, not {value}",
        )


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    store: Optional[Path] = None
    """A store made by `horovod-asl prepare`; none: the built-in synthetic sample, prepared on first use."""
    samples: Optional[int] = None
    """Train on a class-balanced subset of this many photos; none: on all."""
    all_splits: bool = False
    """Train on every photo of the store: for a model to be used, once cross-validation has measured what it is worth.
    Nothing is left to score it on."""
    balance: float = 0.0
    """Show the photos of small sources more often: (size of the largest ÷ its own size) to this power, rounded.
    0: each photo once an epoch; 1: as much of every source."""

    hands_in_nothing: float = 1.0
    """Show this fraction of the photos of `nothing` in which a hand was found: they teach the network to call hands
    nothing."""

    def __post_init__(self) -> None:
        require_at_least_1(self, "samples")
        require(
            0 <= self.hands_in_nothing <= 1,
            f"--hands-in-nothing must be in [0, 1], not {self.hands_in_nothing}",
        )
        require(0 <= self.balance <= 1, f"--balance must be in [0, 1], not {self.balance}")


@dataclass(frozen=True)
class ModelConfig:
    """The network and its input."""

    model: Optional[NetworkName] = None
    """hand_net reads the hand's landmarks and the pixels around them; landmark_mlp reads the landmarks alone. The
    others read pixels: small_cnn is for 64 px, torchvision's networks get a new head. None: by --input; without it,
    hand_net where the store has hands, else small_cnn."""
    input: Optional[Literal["both", "landmarks", "pixels", "photos"]] = None
    """What the network reads. A store with hands has the crop around the hand and its landmarks (both), the landmarks
    alone, or the crop alone (pixels). Every store has the whole photos. None: what the model reads; without --model,
    both where the store has hands, else photos."""
    pretrained: Optional[str] = field(default=None, metadata=PLACE)
    """The first weights: `imagenet` (torchvision's hub), `hands` (MediaPipe's landmark network, for hand_net),
    `default` (the bundled model), a file of weights (.safetensors, .pt, .pth), or the folder of a run, whose best
    weights are taken. crossval also takes the folder of another cross-validation: each fold starts from the same fold
    there. For a file outside a run folder it is unknown who was in its training; scores then say so. None: for
    hand_net `default` where the store is small, else `hands`; for other networks random weights. `none`: random
    weights for any network."""
    train: Annotated[str, arg(metavar="{all,head,last-N}")] = "all"
    """Train all layers, the new head alone, or the head and the last N of hand_net's 16 blocks (N at least 5, at 0.4
    of the head's learning rate). Frozen layers keep the BatchNorm statistics that they came with. With --no-augment
    the features of frozen layers are computed once instead of in every epoch."""
    cache_features: Annotated[Optional[str], arg(metavar="[FILE]")] = field(
        default=None, metadata=PLACE | _BARE
    )
    """With --train head or last-N: compute the features of frozen layers once, from photos that are not augmented;
    landmarks are augmented in every step all the same. In a temporary file; or in FILE, for other runs on the same
    store. Of hand_net, FILE.last-10 then holds what enters its last ten blocks (125 kB a photo), for --train last-10
    with the same FILE."""

    def __post_init__(self) -> None:
        model = self.model or ("hand_net" if self.pretrained == "hands" else DEFAULT_NETWORK[self.input])
        reads = NETWORKS[model].input_type
        fits = self.input in (None, "photos", "pixels") if reads == "pixels" else self.input in (None, reads)
        require(fits, f"--model {model} cannot read --input {self.input}: leave one of the two out")
        require(
            self.pretrained != "hands" or model == "hand_net",
            "--pretrained hands is for --model hand_net: its pixel network is the hand finder's",
        )
        names = ("all", "head", *(f"last-{blocks}" for blocks in _TUNED_BLOCKS))
        require(
            self.train in names,
            f"--train {self.train}: it must be all, head, or {names[2]} to {names[-1]} (the map that is read at the "
            "joints stands before the last five blocks)",
        )
        require(
            self.tuned_blocks == 0 or model == "hand_net",
            f"--train {self.train} counts the blocks of hand_net: add --model hand_net, or use --train head or all",
        )
        require(
            self.cache_features is None or self.train != "all",
            "--cache-features keeps the features of frozen layers: add --train head, or --train last-N",
        )
        object.__setattr__(self, "model", model)  # resolved, as it is saved with a run
        crops = "pixels" if self.input == "pixels" else None
        object.__setattr__(self, "input", crops if reads == "pixels" else reads)
        if self.pretrained == "none":
            object.__setattr__(self, "pretrained", None)

    @property
    def tuned_blocks(self) -> int:
        """How many of the last blocks are trained where the others are frozen: N of `last-N`, else 0."""
        return int(self.train.removeprefix("last-")) if self.train.startswith("last-") else 0

    @property
    def cache_file(self) -> Optional[Path]:
        """The file that `--cache-features` names; None for a temporary one, or none."""
        return None if self.cache_features in (None, TEMPORARY) else Path(str(self.cache_features))

    @property
    def name(self) -> NetworkName:
        """The model, resolved."""
        assert self.model is not None
        return self.model


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """SGD has Nesterov momentum."""
    learning_rate: Optional[float] = None
    """That of one replica; --learning-rate-scaling sets how it grows with their number. None: 1e-3, for SGD 0.05."""
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
    clip_norm: Optional[float] = 5.0
    """Clip the gradient's global L2 norm; `None` never does."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights, used for scoring; 0: none. 0.99 to 0.9999 are usual."""

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        _require_finite(self, "learning_rate", "weight_decay", "warmup_epochs")
        require(rate is None or rate > 0, f"--learning-rate must be positive, not {rate}")
        require(decay is None or decay >= 0, f"--weight-decay must not be negative: {decay}")
        require(0 <= self.momentum < 1, f"--momentum must be in [0, 1), not {self.momentum}")
        require(0 <= self.ema_decay < 1, f"--ema-decay must be in [0, 1), not {self.ema_decay}")
        require(self.warmup_epochs >= 0, f"--warmup-epochs must not be negative: {self.warmup_epochs}")
        require(
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
    """Uniform in ± this fraction of the width and height."""
    perspective: float = 0.25
    """How far the vanishing point may tilt; 0: affine only."""
    colour: float = 0.5
    """Strength of brightness, contrast, saturation, hue and gamma changes, 0 to 1."""
    blur: float = 0.3
    """Probability of a blur."""
    cutout: float = 0.3
    """Probability of a grey rectangle over part of the photo (DeVries & Taylor 2017)."""
    mixup_alpha: float = 0.0
    """Beta parameter of mixup (Zhang et al. 2018); 0: none. Pairs are within a rank's micro-batch."""
    cutmix_alpha: float = 0.0
    """Beta parameter of cutmix (Yun et al. 2019); 0: none. With both, each batch takes one of the two."""
    label_smoothing: float = 0.1
    """Fraction of the target that is spread over all classes (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        _require_finite(self, "rotation_degrees", "translation", "mixup_alpha", "cutmix_alpha")
        for name in ("colour", "blur", "cutout", "label_smoothing", "perspective"):
            require(0 <= getattr(self, name) <= 1, f"--{name.replace('_', '-')} must be in [0, 1]")
        require(0 <= self.scale < 1, f"--scale must be in [0, 1), not {self.scale}")
        require(
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
        require_at_least_1(self, "threads_per_rank")
        _require_finite(self, "stall_timeout_seconds")
        require(
            self.stall_timeout_seconds >= 5,
            f"--stall-timeout-seconds must be at least 5, not {self.stall_timeout_seconds}",
        )
