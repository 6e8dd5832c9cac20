"""Run by launchers: take training steps on a fixed set of photos and save what every rank ends with.

    LAUNCHER … python steps_worker.py OUT_FOLDER

Every rank writes OUT_FOLDER/rank-R.pt. In process, `take_steps(Serial(...), scenario)` is the reference.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from horovod_asl.config_groups import AugmentConfig, OptimizerConfig
from horovod_asl.distributed.base import Backend, ReductionOptions, sync_buffers
from horovod_asl.distributed.create import create
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.evaluate import PassOptions, evaluate
from horovod_asl.engine.loader import ShardedSteps
from horovod_asl.engine.step import StepOptions, train_epoch
from horovod_asl.engine.train_state import TrainState, build_optimizer
from horovod_asl.inputs.pixels import normalise, to_unit
from horovod_asl.models.registry import SmallCNN

NUM_PHOTOS, SIZE, CLASSES = 53, 16, 7  # 53 divides by no number of ranks and no batch
GLOBAL_BATCH = 12  # divides by 1, 2 and 3
EPOCHS = 2


@dataclass(frozen=True)
class Scenario:
    """A way of training that must not depend on the number of ranks."""

    optimizer: OptimizerConfig
    augment: AugmentConfig
    clip_norm: float | None = None
    accumulation_steps: int = 1
    global_batch: int = GLOBAL_BATCH
    deterministic: bool = False


PLAIN = Scenario(
    OptimizerConfig(optimizer="sgd", weight_decay=5e-4), AugmentConfig(augment=False, label_smoothing=0.0)
)
SCENARIOS: dict[str, Scenario] = {
    "sgd": PLAIN,
    "adamw, augmented, clipped": Scenario(
        OptimizerConfig(optimizer="adamw"), AugmentConfig(), clip_norm=1.0
    ),
    "accumulated": replace(PLAIN, accumulation_steps=2),
    "ranks do not divide the batch": replace(PLAIN, global_batch=13),
    "one group": replace(PLAIN, deterministic=True),
}


def make_photos() -> Dataset:
    generator = np.random.default_rng(5)
    images = generator.integers(0, 256, (NUM_PHOTOS, SIZE, SIZE, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, NUM_PHOTOS)
    return Dataset(gather=lambda indices: images[indices], labels=labels)


def make_model() -> SmallCNN:
    """A small network in evaluation mode whose BatchNorm has seen all photos once, so that signals reach the head."""
    torch.manual_seed(3)
    model = SmallCNN(CLASSES, width=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(normalise(to_unit(torch.from_numpy(make_photos().gather(np.arange(NUM_PHOTOS))))))
    return model.eval()


def take_steps(backend: Backend, scenario: Scenario) -> dict[str, Any]:
    """Two epochs from the same weights. BatchNorm is in evaluation mode: its batches differ with the ranks."""
    model = make_model()
    optimizer = build_optimizer(model, scenario.optimizer)
    options = ReductionOptions(scenario.accumulation_steps, deterministic=scenario.deterministic)
    module, optimizer = backend.wrap(model, optimizer, options)
    steps = ShardedSteps(
        NUM_PHOTOS,
        global_batch=scenario.global_batch,
        world_size=backend.world_size,
        rank=backend.rank,
        seed=9,
    )
    sums = torch.zeros(3, dtype=torch.float64)

    def after_step(step: int, step_sums: torch.Tensor) -> bool:
        sums.add_(step_sums)
        return False

    for epoch in range(EPOCHS):
        train_epoch(
            TrainState(model, module, optimizer),
            backend,
            make_photos(),
            steps.epoch(epoch),
            StepOptions(
                augment=scenario.augment,
                num_classes=CLASSES,
                global_batch=scenario.global_batch,
                seed=9,
                accumulation_steps=scenario.accumulation_steps,
                clip_norm=scenario.clip_norm,
            ),
            first_step=epoch * steps.steps_per_epoch,
            learning_rate_at=lambda step: 0.02 / (1 + step),
            after_step=after_step,
        )
    scores = evaluate(model, backend, make_photos(), PassOptions(batch_size=5), num_classes=CLASSES)
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "sums": backend.sum(sums),
        "confusion": torch.from_numpy(scores.confusion),
        "nll": scores.nll,
        "ece": scores.ece,
    }


def use_the_verbs(backend: Backend) -> dict[str, Any]:
    """What each collective gives on this rank, with inputs that differ by rank in value, size and type."""
    rank = backend.rank
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean += rank  # type: ignore[operator]
    sync_buffers(backend, norm)
    mine: Any = {"rank": rank} if rank else ["zero", torch.arange(3)]
    return {
        "sum_float": backend.sum(torch.tensor([1.0, rank], dtype=torch.float64)),
        "sum_int": backend.sum(torch.tensor([2**40 + rank])),
        "broadcast": backend.broadcast(mine),
        "gather": backend.gather("x" * rank),
        "running_mean": norm.running_mean,
    }


def main() -> None:
    backend = create("auto", device="cpu")
    torch.set_num_threads(1)
    result = {name: take_steps(backend, scenario) for name, scenario in SCENARIOS.items()}
    facts = {"backend": backend.name, "world_size": backend.world_size, **backend.describe()}
    out = Path(sys.argv[1])
    torch.save(
        {"steps": result, "verbs": use_the_verbs(backend), "facts": facts}, out / f"rank-{backend.rank}.pt"
    )
    backend.barrier()
    backend.close()


if __name__ == "__main__":
    main()
