"""The training step and the evaluation loop, blind to the backend: it only meets the verbs of `Backend`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horovod_asl.backends import Backend
from horovod_asl.config import AugmentConfig
from horovod_asl.data.landmarks import augment_hands
from horovod_asl.data.loader import Shard, evaluation_shard
from horovod_asl.data.transforms import Augment, Inputs, draws, mix, normalise, to_input, to_tensors, to_unit
from horovod_asl.errors import UserError
from horovod_asl.learner import Learner
from horovod_asl.metrics import Scores, Tally
from horovod_asl.progress import Report, no_report

Gather = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.generic]]
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Photos:
    """A set of photos to train on or to score.

    Attributes:
        gather: `gather(i)` gives uint8 (len(i), H, W, 3); for a network that reads landmarks the hands, float32
            (len(i), 50, 3); for one that sees both, records of `hands.reading_dtype`; or what a frozen backbone has
            made of them.
        labels: int64 (n,).
        are_features: whether it is the last of these.
        times: int64 (n,), how often an epoch shows each photo; None: once.
    """

    gather: Gather
    labels: npt.NDArray[np.int64]
    are_features: bool = False
    times: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: npt.NDArray[np.int64], device: torch.device) -> tuple[Inputs, Tensor]:
        """What `gather` gives for m photos and labels int64 (m,), on `device`; the copy to a GPU does not block."""
        return _to_device(self.gather(indices), device), _labels_to(self.labels[indices], device)

    def select(self, rows: npt.NDArray[np.int64]) -> Photos:
        """Some of them."""
        return Photos(
            lambda indices: self.gather(rows[indices]), self.labels[rows], are_features=self.are_features
        )

    def order(self) -> npt.NDArray[np.int64]:
        """The photos of an epoch before they are shuffled: each as often as `times` says."""
        numbers = np.arange(len(self))
        return numbers if self.times is None else np.repeat(numbers, self.times)


@dataclass(frozen=True)
class ResidentPhotos(Photos):
    """Photos that lie on the device as a whole: of a batch, only its numbers travel there.

    Attributes:
        images: what `gather` gives for all of them, on the device.
        answers: `labels` on the device.
    """

    images: Inputs = field(default_factory=lambda: torch.empty(0))
    answers: Tensor = field(default_factory=lambda: torch.empty(0))

    def batch(self, indices: npt.NDArray[np.int64], device: torch.device) -> tuple[Inputs, Tensor]:
        """As `Photos.batch`; `device` is where they are."""
        rows = _labels_to(indices, device)
        return each(lambda part: part[rows], self.images), self.answers[rows]


def each(change: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """`change` of the tensor, or of each of several."""
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def on_device(photos: Photos, device: torch.device, *, block: int = 4096) -> ResidentPhotos:
    """All of `photos` copied to `device`, a block at a time."""
    made: list[Tensor] = []
    for rows in _chunks(np.arange(len(photos)), block):
        parts = _to_device(photos.gather(rows), device)
        for index, part in enumerate(parts if isinstance(parts, tuple) else (parts,)):
            if rows[0] == 0:
                made.append(torch.empty((len(photos), *part.shape[1:]), dtype=part.dtype, device=device))
            made[index][int(rows[0]) : int(rows[-1]) + 1] = part
    return ResidentPhotos(
        photos.gather,
        photos.labels,
        times=photos.times,
        images=made[0] if len(made) == 1 else tuple(made),
        answers=_labels_to(photos.labels, device),
    )


def fits_on_device(photos: Photos, device: torch.device, *, share: float = 0.25) -> bool:
    """Whether a GPU has room for all of them in `share` of the memory that is free; never so on a CPU."""
    if device.type != "cuda" or len(photos) == 0:
        return False
    size = photos.gather(np.zeros(1, np.int64)).nbytes * len(photos)
    return size <= share * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True)
class StepOptions:
    """What every step has in common."""

    augment: AugmentConfig
    num_classes: int
    global_batch: int
    seed: int
    precision: str = "fp32"
    accumulation_steps: int = 1
    clip_norm: float | None = None
    smallest_px: int = 0
    channels_last: bool = False


def train_step(
    learner: Learner,
    backend: Backend,
    photos: Photos,
    shard: Shard,
    options: StepOptions,
    *,
    step: int,
    learning_rate: float,
) -> Tensor:
    """One optimizer step on this rank's shard of the global batch.

    The loss is the sum over the photos of the whole global batch ÷ their number: each rank weighs its photos
    by world_size ÷ global_count, and the backend takes the mean over ranks. N ranks at batch B thus take the
    step of one process at batch N·B, also where the last batch is short and ranks hold unequal shares.

    Args:
        step: the step of the run, from 0; it keys augmentation and dropout.

    Returns:
        float64 (3,) on the device: summed loss, hits and photos of this rank, for the epoch's log.

    Raises:
        UserError: the gradient is not finite (seen by all ranks, before the weights change).
    """
    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)
    torch.manual_seed(int(np.random.SeedSequence([options.seed, step, backend.rank]).generate_state(1)[0]))
    learner.optimizer.zero_grad()
    sums = torch.zeros(3, dtype=torch.float64, device=backend.device)
    here = backend.num_replicas // backend.world_size
    for index, part in enumerate(shard.micro_batches(options.accumulation_steps, replicas=here)):
        last = index + 1 == options.accumulation_steps
        with backend.gradients(learner.module, last=last):
            sums += _backward(learner, backend, photos, part, options, step)
    _update(learner, backend, options.clip_norm, step)
    return sums


def _backward(
    learner: Learner, backend: Backend, photos: Photos, part: Shard, options: StepOptions, step: int
) -> Tensor:
    images, labels = photos.batch(part.indices, backend.device)
    inputs, targets = _prepare(images, labels, part, options, step)
    weights = _labels_to(part.weights, backend.device)
    with autocast(backend.device, options.precision):
        logits = learner.module(inputs)
    losses = -(targets * torch.log_softmax(logits.float(), 1)).sum(1) * weights
    loss = losses.sum() * (backend.world_size / part.global_count)
    scaled: Tensor = loss if learner.scaler is None else learner.scaler.scale(loss)
    scaled.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        hits = ((logits.argmax(1) == labels) * weights).sum()
        return torch.stack([losses.sum(), hits, weights.sum()]).double()


def _prepare(
    images: Inputs, labels: Tensor, part: Shard, options: StepOptions, step: int
) -> tuple[Inputs, Tensor]:
    config = options.augment
    targets = F.one_hot(labels, options.num_classes).float()
    if config.label_smoothing:
        targets = targets * (1 - config.label_smoothing) + config.label_smoothing / options.num_classes
    if not config.augment:
        return each(_layout(options), to_input(images, smallest_px=options.smallest_px)), targets
    uniform = draws(options.seed, step, part.positions, options.global_batch)
    batch = augmented(images, uniform, config, smallest_px=options.smallest_px)
    if isinstance(batch, Tensor) and batch.ndim == 4:
        batch, targets = mix(batch, targets, config, seed=options.seed, step=step)
    return each(_layout(options), batch), targets


def _layout(options: StepOptions) -> Callable[[Tensor], Tensor]:
    def arranged(batch: Tensor) -> Tensor:
        nhwc = options.channels_last and batch.ndim == 4
        return batch.contiguous(memory_format=torch.channels_last) if nhwc else batch

    return arranged


def augmented(images: Inputs, uniform: Tensor, config: AugmentConfig, *, smallest_px: int = 0) -> Inputs:
    """A batch as a network takes it, changed by draws float (n, 32).

    Photos uint8 (n, H, W, 3) in shape and colour; hands float (n, 50, 3) in shape; of crops with hands the crops in
    colour and the hands in shape, by which the network then views the crops. Features float (n, width) stay.
    """
    if isinstance(images, tuple):
        crops, hands = images
        seen = (
            crops if crops.is_floating_point() else _augmented_photos(crops, uniform, config, 0, warp=False)
        )
        return seen, augment_hands(hands, uniform, config)
    if images.is_floating_point():
        return augment_hands(images, uniform, config) if images.ndim == 3 else images
    return _augmented_photos(images, uniform, config, smallest_px)


def _augmented_photos(
    images: Tensor, uniform: Tensor, config: AugmentConfig, smallest_px: int, *, warp: bool = True
) -> Tensor:
    return normalise(Augment(config, warp=warp)(to_unit(images, smallest_px=smallest_px), uniform))


def _update(learner: Learner, backend: Backend, clip_norm: float | None, step: int) -> None:
    optimizer, scaler = learner.optimizer, learner.scaler
    backend.reduce_gradients(optimizer)
    if scaler is not None:
        scaler.unscale_(optimizer)
    trained = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    norm = nn.utils.clip_grad_norm_(trained, clip_norm if clip_norm is not None else float("inf"))
    if scaler is None:
        _skip_if_not_finite(norm, learner, step)
    backend.apply(optimizer, scaler)
    if scaler is not None:
        scaler.update()
    learner.after_step()


def _skip_if_not_finite(norm: Tensor, learner: Learner, step: int) -> None:
    """Stop before a step that would ruin the weights. The norm is of the averaged gradients, so all ranks stop.

    On a GPU nobody waits for the norm: `found_inf` has the fused optimizer pass over the step on the device,
    and `learner.skipped` counts it there, to be asked for when the run next waits for the device anyway.
    """
    if norm.device.type != "cpu":
        bad = (~torch.isfinite(norm)).float()
        learner.optimizer.found_inf = bad  # type: ignore[attr-defined]
        learner.skipped = bad if learner.skipped is None else learner.skipped + bad
    elif not bool(torch.isfinite(norm)):
        raise not_finite(f"at step {step}")


def not_finite(when: str) -> UserError:
    """The error for a loss or gradient that is not a number."""
    return UserError(
        f"the loss or its gradient is not finite {when}: the weights were left as before it; "
        "lower --learning-rate, lengthen --warmup-epochs, or set --clip-norm"
    )


def evaluate(
    model: nn.Module,
    backend: Backend,
    photos: Photos,
    *,
    num_classes: int,
    batch_size: int = 256,
    precision: str = "fp32",
    smallest_px: int = 0,
    own_share: bool = False,
    on_progress: Report = no_report,
) -> Scores:
    """Score `photos` over all ranks: every photo once, one sum at the end, the same scores on every rank.

    Args:
        own_share: `photos` are this rank's share already; else all ranks hold the same ones and divide them.
        on_progress: gets the photos of this rank that are done, and in all.
    """
    tally = Tally(num_classes, backend.device)
    rows = evaluation_share(photos, backend, own_share=own_share)
    for logits, labels in forward_passes(
        model,
        backend,
        photos,
        rows,
        batch_size=batch_size,
        precision=precision,
        smallest_px=smallest_px,
        on_progress=on_progress,
    ):
        tally.add(logits, labels)
    return tally.scores(backend.sum)


def evaluation_share(photos: Photos, backend: Backend, *, own_share: bool) -> npt.NDArray[np.int64]:
    """The rows that this rank answers for: all of them where they are its `own_share`, else its part of them."""
    rank, world_size = (0, 1) if own_share else (backend.rank, backend.world_size)
    return evaluation_shard(len(photos), world_size=world_size, rank=rank)


@torch.no_grad()
def forward_passes(
    model: nn.Module,
    backend: Backend,
    photos: Photos,
    rows: npt.NDArray[np.int64],
    *,
    batch_size: int = 256,
    precision: str = "fp32",
    smallest_px: int = 0,
    on_progress: Report = no_report,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits float32 (m, classes) and labels int64 (m,) of these rows, a batch at a time, on the device."""
    model.eval()
    done = 0
    for indices in _chunks(rows, batch_size):
        on_progress(done, len(rows))
        backend.heartbeat()
        images, labels = photos.batch(indices, backend.device)
        with scoring_autocast(backend.device, precision):
            logits = model(to_input(images, smallest_px=smallest_px))
        yield logits.float(), labels
        done += len(indices)
    on_progress(done, len(rows))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Mixed precision of the forward pass: `fp32` (none), `bf16` or `fp16`."""
    dtype = _AUTOCAST[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def scoring_autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """As `autocast`, for what is scored: on a CPU fp32, whatever the steps were in.

    Many CPUs have no bf16 and are slow with it, and a run in bf16 is to be read on any of them, and by ONNX Runtime.
    """
    return autocast(device, "fp32" if device.type == "cpu" else precision)


def _chunks(indices: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _to_device(array: npt.NDArray[np.generic], device: torch.device) -> Inputs:
    return each(lambda tensor: _moved(tensor, device), to_tensors(array))


def _labels_to(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    return _moved(torch.from_numpy(array), device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def train_epoch(
    learner: Learner,
    backend: Backend,
    photos: Photos,
    shards: Iterable[Shard],
    options: StepOptions,
    *,
    first_step: int,
    learning_rate_at: Callable[[int], float],
    after_step: Callable[[int, Tensor], bool],
) -> bool:
    """Take the steps of `shards`; the first is step `first_step` of the run.

    Args:
        learning_rate_at: the learning rate of a step of the run.
        after_step: told the number of steps taken in the run and this step's sums; True ends the epoch early.

    Returns:
        Whether all of `shards` was used up.
    """
    for step, shard in enumerate(shards, start=first_step):
        backend.heartbeat(step)
        rate = learning_rate_at(step)
        sums = train_step(learner, backend, photos, shard, options, step=step, learning_rate=rate)
        if after_step(step + 1, sums):
            return False
    return True
