"""Train on a store, on any number of ranks.

    horovodrun -np 4 python train.py                        # the built-in sample, on four ranks
    horovodrun -np 4 horovod-asl train --store STORE        # a store made by `horovod-asl prepare`
    torchrun --nproc-per-node 2 train.py --store STORE      # the same under DistributedDataParallel
    horovod-asl train --store STORE --config my.yaml --epochs 30
    horovod-asl train --resume runs/RUN                     # go on, to the same weights to the bit

The learning rate is that of one replica: it grows with their number (--learning-rate-scaling says
how). The run folder holds config, metrics, checkpoints, plots and report.html.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horovod_asl.cli import parse
from horovod_asl.config import TrainConfig
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.backends import Launcher

# Of a resumed run: where it runs and how long, not what it learns. The store may have moved; its digest is compared.
_MAY_CHANGE = {"resume", "run_folder", "store", "stop_after_steps", "backend", "device", "threads_per_rank"}


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when trained to the end, 3 when stopped before (`--stop-after-steps`)."""
    config = _config(argv)

    from horovod_asl.backends import create, detect  # torch is imported from here on, not for --help
    from horovod_asl.session import run_training

    store = _store(config, detect())
    backend = create(config.execution.backend, device=config.execution.device)
    finished = run_training(config, store, backend)
    if backend.rank == 0 and finished:
        print(_next_step(config, store), flush=True)
    backend.close()
    return 0 if finished else 3


def _config(argv: Sequence[str]) -> TrainConfig:
    config = parse(TrainConfig, argv, prog="horovod-asl train", description=__doc__)
    if config.resume is None:
        return config
    from horovod_asl.runfolder import RunFolder

    saved = RunFolder(config.resume).config()
    _refuse_changes(config, saved)
    asked = config.execution
    execution = dataclasses.replace(
        saved.execution,
        backend=asked.backend,
        device=asked.device,
        threads_per_rank=asked.threads_per_rank,
    )
    data = dataclasses.replace(saved.data, store=config.data.store or saved.data.store)
    return dataclasses.replace(
        saved,
        resume=config.resume,
        stop_after_steps=config.stop_after_steps,
        execution=execution,
        data=data,
    )


def _refuse_changes(config: TrainConfig, saved: TrainConfig) -> None:
    """Every flag beside --resume is left out, or is what the run began with, or is in `_MAY_CHANGE`."""
    if config.run_folder is not None and config.run_folder.resolve() != config.resume.resolve():  # type: ignore[union-attr]
        raise UserError(f"--resume {config.resume} goes on in that folder, not in {config.run_folder}")
    asked, began, default = (_flags(which) for which in (config, saved, TrainConfig()))
    changed = [
        f"--{name.replace('_', '-')} {value} (it began with {began[name]})"
        for name, value in asked.items()
        if name not in _MAY_CHANGE and value not in (default[name], began[name])
    ]
    if changed:
        raise UserError(
            f"--resume goes on as the run began, and would not with {', '.join(changed)}; "
            "leave that out, or start a new run"
        )


def _flags(config: TrainConfig) -> dict[str, Any]:
    """All options by the names of their flags."""
    flags: dict[str, Any] = {}
    for name, value in vars(config).items():
        flags |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    return flags


def _store(config: TrainConfig, launcher: Launcher) -> Path:
    if config.data.store is None:
        from horovod_asl.sample import ensure_sample

        return ensure_sample(launcher)
    if not config.data.store.exists():
        raise UserError(
            f"no store at {config.data.store}; make one with: horovod-asl prepare PHOTOS {config.data.store}"
        )
    return config.data.store


def _next_step(config: TrainConfig, store: Path) -> str:
    if config.data.store is None:
        return (
            "this was the synthetic sample. With real photos:\n"
            "  horovod-asl prepare path/to/asl_alphabet_train stores/asl   (or the downloaded zip, or `kaggle`)\n"
            "  make train ARGS='--store stores/asl'"
        )
    return "next: horovod-asl evaluate RUN FOLDER_OF_PHOTOS --json scores.json"
