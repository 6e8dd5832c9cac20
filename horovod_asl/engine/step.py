"""The training step, the same for every backend: it uses only the interface `Backend`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horovod_asl.config_groups import AugmentConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.engine.dataset import Dataset, labels_to, map_tensors
from horovod_asl.engine.loader import Shard
from horovod_asl.engine.train_state import TrainState
from horovod_asl.errors import UserError
from horovod_asl.inputs.augment_hands import augment_hands
from horovod_asl.inputs.pixels import Augment, Inputs, draws, mix, normalise, to_input, to_unit

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    train_state: TrainState,
    backend: Backend,
    photos: Dataset,
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
    for group in train_state.optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)
    torch.manual_seed(int(np.random.SeedSequence([options.seed, step, backend.rank]).generate_state(1)[0]))
    train_state.optimizer.zero_grad()
    sums = torch.zeros(3, dtype=torch.float64, device=backend.device)
    local_replicas = backend.num_replicas // backend.world_size
    for index, part in enumerate(shard.micro_batches(options.accumulation_steps, replicas=local_replicas)):
        last = index + 1 == options.accumulation_steps
        with backend.gradients(train_state.module, last=last):
            sums += _backward(train_state, backend, photos, part, options, step)
    _update(train_state, backend, options.clip_norm, step)
    return sums


def _backward(
    train_state: TrainState, backend: Backend, photos: Dataset, part: Shard, options: StepOptions, step: int
) -> Tensor:
    images, labels = photos.batch(part.indices, backend.device)
    inputs, targets = _prepare(images, labels, part, options, step)
    weights = labels_to(part.weights, backend.device)
    with autocast(backend.device, options.precision):
        logits = train_state.module(inputs)
    losses = -(targets * torch.log_softmax(logits.float(), 1)).sum(1) * weights
    loss = losses.sum() * (backend.world_size / part.global_count)
    scaled: Tensor = loss if train_state.scaler is None else train_state.scaler.scale(loss)
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
        return map_tensors(_layout(options), to_input(images, smallest_px=options.smallest_px)), targets
    uniform = draws(options.seed, step, part.positions, options.global_batch)
    batch = augmented(images, uniform, config, smallest_px=options.smallest_px)
    if isinstance(batch, Tensor) and batch.ndim == 4:
        batch, targets = mix(batch, targets, config, seed=options.seed, step=step)
    return map_tensors(_layout(options), batch), targets


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


def _update(train_state: TrainState, backend: Backend, clip_norm: float | None, step: int) -> None:
    optimizer, scaler = train_state.optimizer, train_state.scaler
    backend.reduce_gradients(optimizer)
    if scaler is not None:
        scaler.unscale_(optimizer)
    trained = [parameter for parameter in train_state.model.parameters() if parameter.requires_grad]
    norm = nn.utils.clip_grad_norm_(trained, clip_norm if clip_norm is not None else float("inf"))
    if scaler is None:
        _skip_if_not_finite(norm, train_state, step)
    backend.apply(optimizer, scaler)
    if scaler is not None:
        scaler.update()
    train_state.after_step()


def _skip_if_not_finite(norm: Tensor, train_state: TrainState, step: int) -> None:
    """Stop before a step that would ruin the weights. The norm is of the averaged gradients, so all ranks stop.

    On a GPU nobody waits for the norm: `found_inf` has the fused optimizer pass over the step on the device,
    and `train_state.skipped` counts it there, to be asked for when the run next waits for the device anyway.
    """
    if norm.device.type != "cpu":
        bad = (~torch.isfinite(norm)).float()
        train_state.optimizer.found_inf = bad  # type: ignore[attr-defined]
        train_state.skipped = bad if train_state.skipped is None else train_state.skipped + bad
    elif not bool(torch.isfinite(norm)):
        raise not_finite(f"at step {step}")


def not_finite(when: str) -> UserError:
    """The error for a loss or gradient that is not a number."""
    return UserError(
        f"the loss or its gradient is not finite {when}: the weights were left as before it; "
        "lower --learning-rate, lengthen --warmup-epochs, or set --clip-norm"
    )


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Mixed precision of the forward pass: `fp32` (none), `bf16` or `fp16`."""
    dtype = _AUTOCAST[precision]
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def train_epoch(
    train_state: TrainState,
    backend: Backend,
    photos: Dataset,
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
        after_step: gets the number of steps taken in the run and this step's sums; True ends the epoch early.

    Returns:
        Whether all of `shards` was used up.
    """
    for step, shard in enumerate(shards, start=first_step):
        backend.heartbeat(step)
        rate = learning_rate_at(step)
        sums = train_step(train_state, backend, photos, shard, options, step=step, learning_rate=rate)
        if after_step(step + 1, sums):
            return False
    return True
