"""Run the same job under serial, dp, ddp and horovod, and print one table.

    horovod-asl compare --ranks 2 --store stores/asl --samples 1000 --epochs 2
    horovod-asl compare --ranks 2 --out compare -- --model resnet18 --epochs 1

All runs see the same global batches in the same order with the same augmentation; only BatchNorm's statistics
are per rank. `weight difference` is the L2 distance of the final weights from serial's ÷ serial's norm. What
stands after `--` goes to `train`. The table is printed, and written as compare.json and compare.png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from horovod_asl.cli import parse
from horovod_asl.errors import UserError

Kind = Literal["serial", "dp", "ddp", "horovod"]


@dataclass(frozen=True)
class CompareConfig:
    """Flags of `compare`."""

    out: Path = Path("runs/compare")
    """The folder for the runs, the table and the plot; must be new."""
    ranks: int = 2
    """Ranks of ddp and horovod."""
    backends: tuple[Kind, ...] = ("serial", "dp", "ddp", "horovod")
    """What to compare; serial, where named, is the reference."""
    global_batch: int = 64
    """Photos per step over all ranks, the same for all."""
    store: Path | None = None
    """A store; none: the built-in sample."""
    samples: int | None = None
    """Train on a class-balanced subset of this many photos."""
    epochs: int = 2
    """Passes over the training photos."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every run ended well."""
    own, extra = _split_at_dashes(argv)
    config = parse(CompareConfig, own, prog="horovod-asl compare", description=__doc__)
    _check(config)
    config.out.mkdir(parents=True)
    rows = [_run(kind, config, extra) for kind in config.backends]
    _compare_with_first(rows, config)
    (config.out / "compare.json").write_text(json.dumps(rows, indent=1))

    from horovod_asl.report import plot_comparison

    plot_comparison(rows, config.out / "compare.png")
    _show(rows)
    print(f"\n{config.out}/compare.json, {config.out}/compare.png")
    return 0


def _split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _check(config: CompareConfig) -> None:
    if config.out.exists():
        raise UserError(f"{config.out} is there already; name a new folder with --out")
    if config.ranks < 1 or config.global_batch % config.ranks:
        raise UserError(f"--global-batch {config.global_batch} must divide by --ranks {config.ranks}")
    if not config.backends:
        raise UserError("--backends: name at least one")


def _run(kind: Kind, config: CompareConfig, extra: Sequence[str]) -> dict[str, Any]:
    """Train once under `kind` in processes of its own, its output passed on; the row of the table."""
    folder = config.out / kind
    print(f"-- {kind} " + "-" * 60, flush=True)
    command = [*_launcher(kind, config.ranks), *_train_words(kind, config, folder), *extra]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(command, env=os.environ | {"PATH": path}, check=False)
    if finished.returncode != 0:
        raise UserError(
            f"the run under {kind} ended with exit code {finished.returncode}; its output is above"
        )
    return _read_row(kind, folder)


def _launcher(kind: Kind, ranks: int) -> list[str]:
    if kind == "ddp":
        return ["torchrun", "--standalone", "--nproc-per-node", str(ranks), "-m", "horovod_asl"]
    if kind == "horovod":
        return ["horovodrun", "-np", str(ranks), sys.executable, "-m", "horovod_asl"]
    return [sys.executable, "-m", "horovod_asl"]


def _train_words(kind: Kind, config: CompareConfig, folder: Path) -> list[str]:
    ranks = config.ranks if kind in ("ddp", "horovod") else 1
    replicas = ranks if ranks > 1 or kind != "dp" else _gpu_count()
    words = ["train", "--backend", kind, "--run-folder", str(folder), "--epochs", str(config.epochs)]
    words += [
        "--batch-size-per-replica",
        str(config.global_batch // replicas),
        "--learning-rate-scaling=none",
    ]
    if config.store is not None:
        words += ["--store", str(config.store)]
    if config.samples is not None:
        words += ["--samples", str(config.samples)]
    return words


def _gpu_count() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _read_row(kind: Kind, folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    facts = json.loads((folder / "run.json").read_text())
    split = next(name for name in ("test", "validation", "train") if name in result["scores"])
    photos = sum(row["photos"] for row in history)
    return {
        "backend": kind,
        "ranks": facts["settings"]["world_size"],
        "replicas": facts["settings"]["replicas"],
        "train_seconds": result["train_seconds"],
        "photos_per_second": photos / result["train_seconds"],
        "final_loss": history[-1]["train_loss"],
        "scored_split": split,
        "top1": result["scores"][split]["top1"],
    }


def _compare_with_first(rows: list[dict[str, Any]], config: CompareConfig) -> None:
    """Add speed-up and weight difference against the first run (serial, as it comes)."""
    from horovod_asl.runfolder import RunFolder

    def weights(kind: str) -> dict[str, Any]:
        return {
            name: tensor.double() for name, tensor in RunFolder(config.out / kind).best_weights()[1].items()
        }

    first = weights(rows[0]["backend"])
    names = [name for name in first if "running_" not in name and "num_batches" not in name]
    norm = sum(first[name].square().sum() for name in names) ** 0.5
    for row in rows:
        own = weights(row["backend"])
        distance = sum((own[name] - first[name]).square().sum() for name in names) ** 0.5
        row["speed_up"] = row["photos_per_second"] / rows[0]["photos_per_second"]
        row["weight_difference"] = float(distance / norm)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "backend",
        "replicas",
        "seconds",
        "photos/s",
        "speed-up",
        "loss",
        f"top-1 ({rows[0]['scored_split']})",
        "weight difference",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        figures = (
            f"{row['train_seconds']:.1f}",
            f"{row['photos_per_second']:,.0f}",
            f"{row['speed_up']:.2f}×",
        )
        scores = (f"{row['final_loss']:.4f}", f"{row['top1']:.2%}", f"{row['weight_difference']:.1e}")
        table.add_row(row["backend"], str(row["replicas"]), *figures, *scores)
    Console(width=max(110, Console().width)).print(table)  # a log is no narrower than its table
