"""Run the same job under serial, dp, ddp and horovod, and print one table.

    horovod-asl compare --ranks 2 --store stores/asl --samples 1000 --epochs 2
    horovod-asl compare --ranks 2 --out compare -- --model resnet18 --epochs 1

All runs see the same global batches in the same order with the same augmentation. What remains per rank are
BatchNorm's statistics, the draws of dropout (in networks that have it; the default one has none) and the pairs of
mixup and cutmix. `weight difference` is the L2 distance of the weights after the last step from the reference's ÷
their norm; the reference is serial, where it is among those compared, else the first. What stands after `--` goes
to `train`. The table is printed, and written as compare.json and compare.png.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from horovod_asl.command_line.cli import fail, named_flags, parse
from horovod_asl.config import TrainConfig
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
    """What to compare; serial is the reference, or where it is not named, the first."""
    global_batch: int = 64
    """Photos per step over all ranks, the same for all."""
    store: Path | None = None
    """A store; none: the built-in sample."""
    samples: int | None = None
    """Train on a class-balanced subset of this many photos."""
    epochs: int = 2
    """Passes over the training photos."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every run ended well, 1 when the table lacks some."""
    own, extra = _split_at_dashes(argv)
    config = parse(CompareConfig, own, prog="horovod-asl compare", description=__doc__)
    if not named_flags(TrainConfig, extra).keys() & {"model", "input", "pretrained"}:
        extra = ["--input", "photos", *extra]  # hand_net, for a store with hands, draws its dropout per rank
    gpus = _check(config, extra)
    config.out.mkdir(parents=True)
    ran = {kind: _run(kind, config, extra, gpus=gpus) for kind in config.backends}
    rows = [row for row in ran.values() if row is not None]
    if rows:
        _compare_with_reference(rows, config.out)
        _write(rows, config.out)
    failed = [kind for kind, row in ran.items() if row is None]
    if failed:
        fail(f"the runs under {', '.join(failed)} failed and have no row; their output is above")
    return 1 if failed else 0


def _split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _check(config: CompareConfig, extra: Sequence[str]) -> int:
    """Refuse at once what would fail when others have trained; the GPUs that the runs see."""
    if config.out.exists():
        raise UserError(f"{config.out} is there already; name a new folder with --out")
    for flag, value in (("ranks", config.ranks), ("global-batch", config.global_batch)):
        if value < 1:
            raise UserError(f"--{flag} must be at least 1, not {value}")
    if not config.backends or len(set(config.backends)) < len(config.backends):
        raise UserError("--backends: name at least one, and none twice")
    for kind in config.backends:
        program = _launcher(kind, config.ranks)[0]
        if shutil.which(program, path=_path()) is None:
            others = " ".join(other for other in config.backends if other != kind) or "serial"
            raise UserError(
                f"{kind} needs {program}, which is not here: run `make setup`, or choose --backends {others}"
            )
    gpus = _gpu_count() if _trained(config, extra).execution.device != "cpu" else 0
    _refuse_too_few_gpus(config, gpus)
    _refuse_uneven_batches(config, gpus)
    return gpus


def _trained(config: CompareConfig, extra: Sequence[str]) -> TrainConfig:
    """What `train` will be asked for; UserError where the words after `--` are wrong or would undo the comparison."""
    words = _train_words("serial", config, config.out, gpus=0)[1:]
    plain, asked = (
        parse(TrainConfig, [*words, *more], prog="horovod-asl train", description=None)
        for more in ((), extra)
    )
    for name, before, after in (
        ("run-folder", plain.run_folder, asked.run_folder),
        ("resume", plain.resume, asked.resume),
        ("backend", plain.execution.backend, asked.execution.backend),
        ("batch-size-per-replica", plain.batch_size_per_replica, asked.batch_size_per_replica),
        (
            "learning-rate-scaling",
            plain.optimizer.learning_rate_scaling,
            asked.optimizer.learning_rate_scaling,
        ),
    ):
        if before != after:
            raise UserError(f"compare sets --{name} itself, the same for all: leave it out after `--`")
    return asked


def _refuse_too_few_gpus(config: CompareConfig, gpus: int) -> None:
    launched = [kind for kind in config.backends if kind in ("ddp", "horovod")]
    if launched and 0 < gpus < config.ranks:
        raise UserError(
            f"{' and '.join(launched)} need a GPU for each of {config.ranks} ranks, and this machine has {gpus}: "
            f"use --ranks {gpus}, or add `-- --device cpu`"
        )


def _refuse_uneven_batches(config: CompareConfig, gpus: int) -> None:
    """Every backend must be able to cut the same global batch into equal parts."""
    counts = {kind: _replicas(kind, config.ranks, gpus) for kind in config.backends}
    unit, batch = math.lcm(*counts.values()), config.global_batch
    if batch % unit:
        fitting = [size for size in (batch // unit * unit, (batch // unit + 1) * unit) if size > 0]
        raise UserError(
            f"--global-batch {batch} can't be the same for all, over "
            f"{', '.join(f'{count} replicas of {kind}' for kind, count in counts.items() if count > 1)}: "
            f"use --global-batch {' or '.join(map(str, fitting))}"
        )


def _replicas(kind: Kind, ranks: int, gpus: int) -> int:
    return {"serial": 1, "dp": max(1, gpus), "ddp": ranks, "horovod": ranks}[kind]


def _run(kind: Kind, config: CompareConfig, extra: Sequence[str], *, gpus: int) -> dict[str, Any] | None:
    """Train once under `kind` in processes of its own, its output passed on; its row, or None if it failed."""
    folder = config.out / kind
    print(f"-- {kind} " + "-" * 60, flush=True)
    command = [*_launcher(kind, config.ranks), *_train_words(kind, config, folder, gpus=gpus), *extra]
    code = subprocess.run(command, env=os.environ | {"PATH": _path()}, check=False).returncode
    if code != 0:
        print(f"-- {kind} failed with exit code {code}", flush=True)
        return None
    return _read_row(kind, folder)


def _path() -> str:
    """Where launchers are looked for: first beside this Python."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _launcher(kind: Kind, ranks: int) -> list[str]:
    if kind == "ddp":
        return ["torchrun", "--standalone", "--nproc-per-node", str(ranks), "-m", "horovod_asl"]
    if kind == "horovod":
        return ["horovodrun", "-np", str(ranks), sys.executable, "-m", "horovod_asl"]
    return [sys.executable, "-m", "horovod_asl"]


def _train_words(kind: Kind, config: CompareConfig, folder: Path, *, gpus: int) -> list[str]:
    batch = config.global_batch // _replicas(kind, config.ranks, gpus)
    words = ["train", "--backend", kind, "--run-folder", str(folder), "--epochs", str(config.epochs)]
    words += ["--batch-size-per-replica", str(batch), "--learning-rate-scaling=none"]
    if config.store is not None:
        words += ["--store", str(config.store)]
    if config.samples is not None:
        words += ["--samples", str(config.samples)]
    return words


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _read_row(kind: Kind, folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
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


def _compare_with_reference(rows: list[dict[str, Any]], out: Path) -> None:
    """Add speed-up and weight difference against serial, or the first run where serial is not among `rows`."""
    from horovod_asl.runs.run_folder import RunFolder

    def weights(kind: str) -> dict[str, Any]:
        final = RunFolder(out / kind).final_weights()
        return {name: tensor.double() for name, tensor in final.items()}

    first = next((row for row in rows if row["backend"] == "serial"), rows[0])
    reference = weights(first["backend"])
    names = [name for name in reference if "running_" not in name and "num_batches" not in name]
    norm = sum(reference[name].square().sum() for name in names) ** 0.5
    for row in rows:
        own = weights(row["backend"])
        distance = sum((own[name] - reference[name]).square().sum() for name in names) ** 0.5
        row["reference"] = first["backend"]
        row["speed_up"] = row["photos_per_second"] / first["photos_per_second"]
        row["weight_difference"] = float(distance / norm)


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    from horovod_asl.reports.plots import plot_comparison

    (out / "compare.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    plot_comparison(rows, out / "compare.png")
    _show(rows)
    print(f"\n{out}/compare.json, {out}/compare.png", flush=True)


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
