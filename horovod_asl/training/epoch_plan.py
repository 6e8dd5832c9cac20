"""The epochs of a run: how many photos each shows, in which order, in how many steps, at which learning rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from horovod_asl.config import TrainConfig
from horovod_asl.engine import schedule
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.loader import Shard, ShardedSteps
from horovod_asl.engine.resume import Position


class EpochPlan:
    """The steps of a run over `photos` on this rank; pure functions of the config and of the step.

    Attributes:
        steps_per_epoch: optimizer steps of a whole epoch.
        total_steps: those of the run.
        ahead: by how many steps the schedule is ahead of the count of steps, where ranks came or went.
    """

    def __init__(
        self, config: TrainConfig, photos: Dataset, position: Position, *, world_size: int, rank: int
    ) -> None:
        self._config, self._photos, self._position = config, photos, position
        self._world_size, self._rank = world_size, rank
        self._whole = len(photos.order())
        self.steps_per_epoch = self._steps_over(self._whole).steps_per_epoch
        epochs = range(config.epoch_count)
        self.total_steps = sum(self._steps_over(self.photos_in(epoch)).steps_per_epoch for epoch in epochs)
        self.ahead = 0

    def photos_in(self, epoch: int) -> int:
        """The photos that an epoch shows: all, or the part of them that the last one is of `--epochs`."""
        return math.ceil(min(1.0, max(0.0, round(self._config.epochs - epoch, 9))) * self._whole)

    def catch_up(self) -> None:
        """Have the schedule go by photos seen: the steps so far had other sizes, where ranks came or went."""
        position = self._position
        at = position.epoch * self.steps_per_epoch + position.photos // position.global_batch
        self.ahead = at - position.step

    def shards(self) -> Iterator[Shard]:
        """The shards of the rest of this epoch, their indices those of the photos."""
        epoch, order = self._position.epoch, self._photos.order()
        shown = self.photos_in(epoch)
        if shown < len(order):
            order = np.random.default_rng([self._config.seed, epoch, 3]).permutation(order)[:shown]
        for shard in self._steps_over(shown).epoch(epoch, first_photo=self._position.photos):
            yield dataclasses.replace(shard, indices=order[shard.indices])

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step of the run."""
        optimizer = self._config.optimizer
        growth = self._position.replicas * self._config.accumulation_steps
        factor = schedule.batch_scaling_factor(
            optimizer.learning_rate_scaling, growth, optimizer=optimizer.optimizer
        )
        return schedule.learning_rate(
            step + self.ahead,
            peak=optimizer.learning_rate_in_force * factor,
            kind=optimizer.schedule,
            total_steps=self.total_steps,
            warmup_steps=round(optimizer.warmup_epochs * self.steps_per_epoch),
            replicas=self._position.replicas,
        )

    def _steps_over(self, photos: int) -> ShardedSteps:
        return ShardedSteps(
            photos,
            global_batch=self._position.global_batch,
            world_size=self._world_size,
            rank=self._rank,
            seed=self._config.seed,
        )


def accumulation_of(position: Position, config: TrainConfig, replicas: int) -> int:
    """Backward passes per step such that no replica takes more photos at once than the config allows."""
    per_pass = config.batch_size_per_replica * replicas
    return -(-position.global_batch // per_pass)
