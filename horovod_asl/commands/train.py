"""Train on a store, on any number of ranks.

    horovodrun -np 4 python train.py                        # the built-in sample, on four ranks
    horovodrun -np 4 horovod-asl train --store STORE        # a store made by `horovod-asl prepare`
    torchrun --nproc-per-node 2 train.py --store STORE      # the same under DistributedDataParallel
    horovod-asl train --store STORE --config my.yaml --epochs 30
    horovod-asl train --resume runs/RUN                     # go on, to the same weights to the bit

The learning rate is that of one replica: it grows with their number (--no-scale-learning-rate keeps it). The run
folder holds config, metrics, checkpoints, plots and report.html.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from horovod_asl.cli import parse
from horovod_asl.config import TrainConfig
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.backends import Launcher


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
    # Where and how long may change; what is learned may not.
    return dataclasses.replace(
        saved, resume=config.resume, execution=config.execution, stop_after_steps=config.stop_after_steps
    )


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
