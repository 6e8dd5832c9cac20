"""One training run: its parts built from the config, its state captured and applied, its epochs.

Scoring and saving use BatchNorm statistics averaged over ranks; each rank then continues with its own. So how
often a run is scored, saved or interrupted has no influence on its weights.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from horovod_asl.command_line.progress import Report, no_report
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.evaluate import PassOptions, evaluate
from horovod_asl.engine.loader import Shard
from horovod_asl.engine.predictions import Predictions, predict_all
from horovod_asl.engine.resume import (
    State,
    apply,
    capture,
    own_buffers,
    position_of,
    require_equal_weights,
)
from horovod_asl.engine.step import StepOptions, not_finite, train_epoch
from horovod_asl.engine.train_state import build_train_state, shared_buffers
from horovod_asl.errors import UserError
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.metrics.metrics import Metrics
from horovod_asl.models import registry
from horovod_asl.runs import checkpoint
from horovod_asl.runs.preemption import Outcome, StopSignal, StopVote, epochs_without_gain
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.training.epoch_plan import EpochPlan, accumulation_of


class Trainer:
    """A run on this rank. `run()` trains to the end, or to the step at which `config` says to stop."""

    def __init__(
        self,
        config: TrainConfig,
        backend: Backend,
        folder: RunFolder,
        train: Dataset,
        validation: Dataset | None,
        *,
        stop: StopSignal | None = None,
        loaded: State | None = None,
        on_step: Report = no_report,
        on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
        on_scored: Report = no_report,
    ) -> None:
        self.config, self.backend, self.folder = config, backend, folder
        self.train, self.validation = train, validation
        self.on_step, self.on_epoch = on_step, on_epoch
        self.on_scored = on_scored
        self.smallest_px = registry.smallest_input_px(config.model.name)
        self.position = position_of(loaded, config, backend)
        self._began_at_step = self.position.step
        self.accumulation = accumulation_of(self.position, config, backend.num_replicas)
        self.train_state = build_train_state(
            config, backend, accumulation_steps=self.accumulation, resumed=loaded is not None
        )
        assert train.are_features == config.trains_on_features
        self.plan = EpochPlan(config, train, self.position, world_size=backend.world_size, rank=backend.rank)
        self.sums = torch.zeros(3, dtype=torch.float64, device=backend.device)
        if loaded is not None:
            apply(loaded, self.train_state, backend)
            self._refuse_too_few_epochs()
            if backend.rank == 0:
                self.sums += torch.tensor(
                    self.position.epoch_sums, dtype=torch.float64, device=backend.device
                )
        require_equal_weights(self.train_state, backend)
        self._stop = stop or StopSignal()
        self._vote = StopVote(backend, self._stop)
        self.preempted = False

    def _refuse_too_few_epochs(self) -> None:
        begun = self.position.epoch + (self.position.photos > 0)
        if begun > self.config.epoch_count or self.position.photos > self.plan.photos_in(begun - 1):
            raise UserError(
                f"--epochs {self.config.epochs}: {self.folder.path} is in epoch {begun} already: name as many or more"
            )

    @property
    def stopped_early(self) -> bool:
        """Whether validation has not improved for `--patience` epochs; the same on every rank."""
        patience = self.config.patience
        return patience is not None and epochs_without_gain(self.position.history) >= patience

    @property
    def _keeps_last(self) -> bool:
        return self.validation is None or self.config.last_epoch

    @property
    def _is_done(self) -> bool:
        return self.position.epoch >= self.config.epoch_count or (
            self.position.photos == 0 and self.stopped_early
        )

    def run(self) -> Outcome:
        """Train, to the end or until asked to stop."""
        self._commit()
        if self._is_done and self._keeps_last:  # a resume with fewer epochs may be the first to know the last
            self._save_best(self.position.history[-1])
        while not self._is_done:
            registry.set_train_mode(self.train_state.model)
            stopped = not self._train_epoch()
            if not stopped:
                self._finish_epoch()
            if not self._is_done and (stopped or self._asked_to_stop()):
                return self._stop.outcome if self.preempted else Outcome.STOPPED
        return Outcome.FINISHED

    @contextlib.contextmanager
    def scoring_model(self) -> Iterator[nn.Module]:
        """The model to score or to save: averaged weights where kept, statistics averaged over ranks."""
        model = self.train_state.scored
        with shared_buffers(self.backend, model):
            yield model

    def score(self, photos: Dataset) -> Metrics:
        """Score `photos` with the present weights, over all ranks."""
        with self.scoring_model() as model:
            network = registry.classifier(model) if photos.are_features else model
            return evaluate(network, self.backend, photos, self._pass_options, num_classes=NUM_CLASSES)

    def predictions(self, photos: Dataset) -> Predictions:
        """The present weights' answers to `photos`, over all ranks."""
        with self.scoring_model() as model:
            network = registry.classifier(model) if photos.are_features else model
            return predict_all(network, self.backend, photos, self._pass_options)

    @property
    def _pass_options(self) -> PassOptions:
        precision = self.config.execution.precision
        return PassOptions(precision=precision, smallest_px=self.smallest_px, on_progress=self.on_scored)

    # -- an epoch ---------------------------------------------------------------------------------------------

    def _train_epoch(self) -> bool:
        self.plan.catch_up()
        return train_epoch(
            self.train_state,
            self.backend,
            self.train,
            self._shards(),
            self._step_options(),
            first_step=self.position.step,
            learning_rate_at=self.plan.learning_rate,
            after_step=self._after_step,
        )

    def _shards(self) -> Iterator[Shard]:
        """The shards of the rest of this epoch, each written to the ledger where one is kept."""
        if not self.config.ledger:
            yield from self.plan.shards()
            return
        epoch = self.position.epoch
        about = {"world_size": self.backend.world_size, "began_at_step": self._began_at_step, "epoch": epoch}
        for step, shard in enumerate(self.plan.shards(), start=self.position.step):
            photos = shard.indices[shard.weights > 0].tolist()
            self.folder.write_ledger(about | {"step": step, "time_s": time.time(), "photos": photos})
            yield shard

    def _step_options(self) -> StepOptions:
        config = self.config
        return StepOptions(
            augment=config.augment,
            num_classes=NUM_CLASSES,
            global_batch=self.position.global_batch,
            seed=config.seed,
            precision=config.execution.precision,
            accumulation_steps=self.accumulation,
            clip_norm=config.optimizer.clip_norm,
            smallest_px=self.smallest_px,
            channels_last=config.execution.channels_last,
        )

    def _after_step(self, step: int, sums: Tensor) -> bool:
        position = self.position
        position.step = step
        shown = self.plan.photos_in(position.epoch)
        position.photos = min(position.photos + position.global_batch, shown)
        self.sums += sums
        self.on_step(step + self.plan.ahead, self.plan.total_steps)
        if position.photos == shown:
            return False
        if step % self.config.commit_every_steps == 0:
            self._commit()
        every = self.config.save_every_steps
        stop = self._asked_to_stop()
        if stop or (every is not None and step % every == 0):
            self.save()
        return stop

    def _asked_to_stop(self) -> bool:
        """Whether to stop after this step, the same on every rank; asked once per step."""
        step, last = self.position.step, self.config.stop_after_steps
        if self._vote.is_due(step):
            self._refuse_if_not_finite()
            self.preempted = self._vote(step)
        return self.preempted or (last is not None and step >= last)

    def _refuse_if_not_finite(self) -> None:
        skipped = self.train_state.skipped
        if skipped is not None and float(skipped) > 0:
            raise not_finite(f"in {int(skipped)} of the last steps before step {self.position.step}")

    def _finish_epoch(self) -> None:
        self._refuse_if_not_finite()
        epoch = self.position.epoch
        loss, hits, count = self.backend.sum(self.sums).tolist()
        self.sums.zero_()
        if not math.isfinite(loss):  # in fp16 alone: its scaler skips such steps for as long as they come
            raise UserError(
                f"the training loss of epoch {epoch + 1} is not finite, so the epoch was not saved; "
                "lower --learning-rate, or use --precision bf16"
            )
        row: dict[str, Any] = {"epoch": epoch + 1, "step": self.position.step}
        row |= {"learning_rate": self.plan.learning_rate(self.position.step - 1)}
        row |= {"train_loss": loss / count, "train_top1": hits / count, "photos": round(count)}
        if self.validation is not None:
            scores = self.score(self.validation)
            row |= {"validation_top1": scores.top1, "validation_nll": scores.nll}
        self.position.history.append(row)
        self.position.epoch, self.position.photos = epoch + 1, 0
        self._save_best(row)  # first: a run that dies between the two does this epoch's end again
        self.save()
        self.on_epoch(row)
        self._commit()

    def _save_best(self, row: dict[str, Any]) -> None:
        """Without a validation split nothing tells one epoch from another, and the last one alone is kept."""
        if self._keeps_last and row["epoch"] < self.config.epoch_count:
            return
        with self.scoring_model() as model:
            if self.backend.rank == 0:
                self.folder.save_best(
                    row["epoch"],
                    row.get("validation_top1", 0.0),
                    model.state_dict(),
                    keep=self.config.keep_top,
                    alone=self._keeps_last,
                )
        self.backend.barrier()

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a resumable checkpoint; every rank must come here."""
        self._refuse_if_not_finite()
        sums = self.backend.sum(self.sums).tolist()
        buffers = self.backend.gather(own_buffers(self.train_state))
        with shared_buffers(self.backend, *self.train_state.models):
            if self.backend.rank == 0:
                self.position.epoch_sums = sums
                self._write(buffers)
        self.backend.barrier()

    def _write(self, buffers: list[list[Tensor]]) -> None:
        weights, step = self.train_state.model.state_dict(), self.position.step
        checkpoint.save(
            self.folder.checkpoints / f"step-{step:09d}",
            weights=weights,
            state=capture(self.train_state, self.position, buffers),
            facts={"step": step, "weights_digest": checkpoint.weights_digest(weights)},
        )
        checkpoint.keep_newest(self.folder.checkpoints, 2)

    def _commit(self) -> None:
        """Where ranks may come and go: keep in memory what those that stay go on from. Every rank comes here."""
        if not self.backend.elastic:
            return
        self._refuse_if_not_finite()
        self.position.epoch_sums = self.backend.sum(self.sums).tolist()
        with shared_buffers(self.backend, *self.train_state.models):
            weights = self.train_state.model.state_dict()
            state = capture(self.train_state, self.position, []) | {
                "weights": weights,
                "run_folder": str(self.folder.path),
            }
            state = copy.deepcopy(checkpoint.on_cpu(state))
        self.backend.commit(state)
