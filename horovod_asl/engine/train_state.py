"""What a step changes: the model, its wrapped forward, the optimizer, and what follows them; how they are built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import OptimizerConfig
from horovod_asl.distributed.base import Backend, ReductionOptions, sync_buffers
from horovod_asl.engine import optimizers
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models import registry as models

AveragedModel = torch.optim.swa_utils.AveragedModel


@dataclass
class TrainState:
    """What a step changes: `module` (the wrapped `model` or its tail), `optimizer`, and `average`, which follows."""

    model: nn.Module
    module: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None = None
    """A moving average of the weights over the steps."""
    scaler: torch.amp.GradScaler | None = None
    skipped: Tensor | None = None
    """On a GPU: how many steps were passed over because their gradient was not finite, float32 () there."""

    @property
    def models(self) -> list[nn.Module]:
        """The model, and the average of its weights where one is kept."""
        return [self.model] if self.average is None else [self.model, self.average]

    @property
    def scored(self) -> nn.Module:
        """The model that is scored and saved: the average of the weights, once it holds any."""
        if self.average is None or int(self.average.n_averaged) == 0:
            return self.model
        return self.average.module

    def after_step(self) -> None:
        """Have the moving average follow."""
        if self.average is not None:
            self.average.update_parameters(self.model)


def build_train_state(
    config: TrainConfig, backend: Backend, *, accumulation_steps: int, resumed: bool
) -> TrainState:
    """The parts of a run from its config, the same weights on every rank.

    Args:
        accumulation_steps: backward passes per optimizer step.
        resumed: the weights will be loaded, so pretrained ones need not be fetched again.
    """
    torch.manual_seed(config.seed)  # so all ranks draw the same weights
    pretrained = None if resumed else config.model.pretrained
    model = models.build_model(config.model.name, num_classes=NUM_CLASSES, pretrained=pretrained)
    if config.model.train != "all":
        models.freeze_backbone(model, tuned_blocks=config.model.tuned_blocks)
    execution = config.execution
    if execution.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(backend.device)
    average = _average(model, config.optimizer)
    options = ReductionOptions(
        accumulation_steps, execution.adasum, execution.fp16_compression, execution.deterministic
    )
    called = models.classifier(model) if config.trains_on_features else model
    module, optimizer = backend.wrap(called, build_optimizer(model, config.optimizer), options)
    if execution.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    scaler = torch.amp.GradScaler(backend.device.type) if execution.precision == "fp16" else None
    return TrainState(model, module, optimizer, average, scaler)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the parameters that are trained, each step one fused kernel."""
    groups = models.weight_decay_groups(model, config.weight_decay_in_force)
    if config.optimizer == "sgd":
        return optimizers.SGD(
            groups,
            lr=config.learning_rate_in_force,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=True,
        )
    kind = optimizers.AdamW if config.optimizer == "adamw" else optimizers.Adam
    return kind(groups, lr=config.learning_rate_in_force, fused=True)


def _average(model: nn.Module, config: OptimizerConfig) -> AveragedModel | None:
    if config.ema_decay == 0:
        return None
    moving = torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=moving, use_buffers=True)


@contextlib.contextmanager
def shared_buffers(backend: Backend, *models: nn.Module) -> Iterator[None]:
    """Within, the models' statistics are averaged over ranks; afterwards each rank has its own again."""
    buffers = [buffer for model in models for buffer in float_buffers(model)]
    own = [buffer.clone() for buffer in buffers]
    for model in models:
        sync_buffers(backend, model)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)


def float_buffers(model: nn.Module) -> list[Tensor]:
    """BatchNorm's running statistics, and whatever else a model keeps of its batches."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]
