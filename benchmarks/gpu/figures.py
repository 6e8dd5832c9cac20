"""The figures that need a GPU, from our own engine, with torch, torchvision, NumPy and Pillow alone.

`benchmarks/gpu/figures.sh` starts it. Three questions:

1. ResNet-50 at 64 px in bf16: our photos per second ÷ those of the same loop on a tensor that is there.
2. The reference job (P6): seconds of training until 98.5 % of the held-out fifth are correctly classified. Its split
   is random, as the reference's was: neighbours of held-out frames are in training, so that figure is of speed alone.
3. The same steps under Serial, DataParallel and, where it is installed, Horovod, each with one GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from horovod_asl.config_groups import AugmentConfig, OptimizerConfig
from horovod_asl.distributed.base import Backend, ReductionOptions, Serial
from horovod_asl.distributed.create import create
from horovod_asl.distributed.dp import DataParallel
from horovod_asl.engine.dataset import Dataset, on_device
from horovod_asl.engine.evaluate import PassOptions, evaluate
from horovod_asl.engine.loader import Shard, ShardedSteps
from horovod_asl.engine.step import StepOptions, train_step
from horovod_asl.engine.train_state import TrainState, build_optimizer
from horovod_asl.errors import UserError
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models.registry import build_model

GOAL_TOP1 = 0.985
FULL: dict[str, Any] = {
    **{"model": "resnet50", "precision": "bf16", "batch": 256, "steps": 50, "rounds": 5},
    **{"epochs": 15, "job_batch": 512, "rate": 5e-3},
}
SMALL: dict[str, Any] = {
    **{"model": "small_cnn", "precision": "fp32", "batch": 32, "steps": 2, "rounds": 2},
    **{"epochs": 2, "job_batch": 32, "rate": 5e-3},
}


def photos_from(store: str | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 64, 64, 3) and labels int64 (n,): a store's, or drawn ones."""
    if store is not None:
        from horovod_asl.store.store import Store

        opened = Store.open(store)
        rows = np.random.default_rng(0).permutation(len(opened))[:count]
        return opened.gather(rows), opened.labels[rows]
    from horovod_asl.labels import CLASS_INDEX
    from horovod_asl.photos.workers import process_pool
    from horovod_asl.synthetic.render import render_spec, sample_specs
    from horovod_asl.system.cores import usable_cores

    specs = sample_specs(0, 4, -(-count // (4 * NUM_CLASSES)))
    specs = [specs[index] for index in np.random.default_rng(0).permutation(len(specs))[:count]]
    with process_pool(usable_cores()) as pool:
        images = np.stack(list(pool.map(render_spec, specs, [64] * len(specs), chunksize=64)))
    return images, np.array([CLASS_INDEX[spec.label] for spec in specs])


def learner_on(backend: Backend, model: str, rate: float) -> TrainState:
    """A fresh network in NHWC with AdamW, as `--channels-last` has it."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=NUM_CLASSES).to(backend.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(network, OptimizerConfig(learning_rate=rate))
    module, optimizer = backend.wrap(network, optimizer, ReductionOptions())
    return TrainState(network, module, optimizer)


def options(batch: int, precision: str, *, augment: bool) -> StepOptions:
    """What our steps here have in common."""
    settings = AugmentConfig(augment=augment, label_smoothing=0.0)
    return StepOptions(
        settings, NUM_CLASSES, batch, seed=0, precision=precision, clip_norm=5.0, channels_last=True
    )


def seconds_per_step(
    step: Callable[[int], object], device: torch.device, *, steps: int, rounds: int
) -> list[float]:
    """Of each round, the mean seconds of a step, the device waited for at both ends."""
    for number in range(3):
        step(number)
    taken = []
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        for number in range(steps):
            step(number)
        _wait(device)
        taken.append((time.perf_counter() - started) / steps)
    return taken


def our_step(
    backend: Backend, photos: Dataset, arguments: argparse.Namespace, *, augment: bool
) -> Callable[[int], object]:
    """A step of our engine on shuffled photos."""
    train_state = learner_on(backend, arguments.model, 1e-3)
    plan = ShardedSteps(len(photos), global_batch=arguments.batch, world_size=1, rank=0, seed=0)
    shards: list[Shard] = [shard for shard in plan.epoch(0) if shard.global_count == arguments.batch]
    settings = options(arguments.batch, arguments.precision, augment=augment)

    def step(number: int) -> object:
        shard = shards[number % len(shards)]
        return train_step(train_state, backend, photos, shard, settings, step=number, learning_rate=1e-3)

    return step


def bare_step(device: torch.device, arguments: argparse.Namespace) -> Callable[[int], object]:
    """The same network on one tensor that is there already: forward, loss, backward, clip, fused AdamW."""
    train_state = learner_on(Serial(device), arguments.model, 1e-3)
    images = torch.randn(arguments.batch, 3, 64, 64, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(0, NUM_CLASSES, (arguments.batch,), device=device)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision]

    def step(number: int) -> None:
        train_state.optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = train_state.model(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(train_state.model.parameters(), 5.0)
        train_state.optimizer.step()

    return step


def data_path(photos: Dataset, device: torch.device, arguments: argparse.Namespace) -> dict[str, float]:
    """Question 1: rounds of the three loops in turns."""
    backend = Serial(device)
    loops = {
        "ours": our_step(backend, photos, arguments, augment=False),
        "ours_augmented": our_step(backend, photos, arguments, augment=True),
        "synthetic_tensor": bare_step(device, arguments),
    }
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.rounds):
        for name, step in loops.items():
            taken[name] += seconds_per_step(step, device, steps=arguments.steps, rounds=1)
    rates = {f"{name}_photos_per_second": arguments.batch / median(values) for name, values in taken.items()}
    bare = rates["synthetic_tensor_photos_per_second"]
    return rates | {
        "ours_over_synthetic": rates["ours_photos_per_second"] / bare,
        "ours_augmented_over_synthetic": rates["ours_augmented_photos_per_second"] / bare,
    }


def time_to_accuracy(
    train: Dataset, held_out: Dataset, device: torch.device, arguments: argparse.Namespace
) -> dict[str, float | None]:
    """Question 2: one run with a one-cycle rate; the seconds until an epoch's score reaches the goal."""
    backend, epochs = Serial(device), arguments.epochs
    train_state = learner_on(backend, arguments.model, 1e-3)
    plan = ShardedSteps(len(train), global_batch=arguments.job_batch, world_size=1, rank=0, seed=0)
    settings = options(arguments.job_batch, arguments.precision, augment=False)

    passes = PassOptions(batch_size=1024, precision=arguments.precision)

    def score(model: nn.Module) -> float:
        return evaluate(model, backend, held_out, passes, num_classes=NUM_CLASSES).top1

    # Start-up is not the job's: cuDNN tries its algorithms once for each shape, on a network that is thrown away.
    warm = learner_on(backend, arguments.model, 1e-3)
    for shard in {shard.global_count: shard for shard in plan.epoch(0)}.values():
        train_step(warm, backend, train, shard, settings, step=0, learning_rate=0.0)
    score(warm.model)
    _wait(device)
    total, step, best, reached = epochs * plan.steps_per_epoch, 0, 0.0, None
    started = time.perf_counter()
    for epoch in range(epochs):
        train_state.model.train()
        for shard in plan.epoch(epoch):
            rate = arguments.rate * min(1.0, step / (0.2 * total)) * (1.0 - step / total)
            train_step(train_state, backend, train, shard, settings, step=step, learning_rate=rate)
            step += 1
        top1 = score(train_state.model)
        best = max(best, top1)
        seconds = time.perf_counter() - started
        print(f"  epoch {epoch + 1}: {top1:.2%} of the held-out fifth after {seconds:.2f} s")
        if top1 >= GOAL_TOP1:
            reached = seconds
            break
    return {"seconds_to_98.5_percent": reached, "best_top1": best, "held_out": len(held_out)}


def backends(photos: Dataset, device: torch.device, arguments: argparse.Namespace) -> dict[str, object]:
    """Question 3: one GPU under each backend; why one is missing, where it is."""
    makers: dict[str, Callable[[], Backend]] = {
        "serial": lambda: Serial(device),
        "dp": lambda: DataParallel(device),
        "horovod": lambda: create("horovod", device=device.type),
    }
    found: dict[str, object] = {}
    for name, make in makers.items():
        try:
            backend = make()
        except UserError as error:
            found[name] = f"not here: {error}"
            continue
        taken = seconds_per_step(
            our_step(backend, photos, arguments, augment=True), device, steps=arguments.steps, rounds=3
        )
        found[f"{name}_photos_per_second"] = arguments.batch / median(taken)
        backend.close()
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def arguments_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The words of the command line, and the sizes that they ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that show that everything runs")
    arguments = parser.parse_args(argv)
    arguments.sizes = SMALL if arguments.small else FULL
    vars(arguments).update(arguments.sizes)
    return arguments


def about(device: torch.device, arguments: argparse.Namespace) -> dict[str, object]:
    """What the answers hold for: the machine, the photos and the sizes."""
    is_gpu = device.type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if is_gpu else platform.processor() or "cpu",
        "torch": torch.__version__,
        "photos": "drawn" if arguments.store is None else arguments.store,
        "sizes": arguments.sizes,
    }


def answers(device: torch.device, arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """The answer to each of the three questions, by its name."""
    images, labels = photos_from(arguments.store, 320 if arguments.small else 10_000)
    fifth = len(images) // 5
    held_out, train = (
        on_device(Dataset(images[part].__getitem__, labels[part]), device)
        for part in (slice(None, fifth), slice(fifth, None))
    )
    yield "data_path", data_path(train, device, arguments)
    yield "time_to_accuracy", time_to_accuracy(train, held_out, device, arguments)
    yield "backends", backends(train, device, arguments)


def main() -> int:
    """Answer the three questions, and write them to OUT/gpu.json as they come."""
    arguments = arguments_of()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: torch sees no GPU here; `--small --device cpu` shows that the script runs",
            file=sys.stderr,
        )
        return 2
    torch.backends.cudnn.benchmark = True
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    found = about(device, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, answer in answers(device, arguments):
        found[name] = answer
        print(f"{name}: {json.dumps(answer, indent=1)}")
        (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
