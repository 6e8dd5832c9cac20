"""Leave one source or one person out at a time: train without them, score on them, and report each.

    horovod-asl crossval stores/all --by source --out runs/crossval --model landmark_mlp --epochs 25
    horovod-asl crossval stores/all --by signer --signers massey --out runs/signers
    horovod-asl crossval stores/all --by source --only phone asl/3 --out runs/two
    horovodrun -np 2 horovod-asl crossval stores/all --by source --out runs/crossval

A source is a name that `prepare NAME=FOLDER` gave. --signers names the sources whose recordings are different people.
Every other source counts as one signer. --only may also name single recordings, as SOURCE/RECORDING. Other recordings
of the same signer are then in training, and the table says so.

Each fold is a `train` of its own, with its flags, under any backend. Without a flag that names the network, a store
with hands gets the first stage of train's recipe: a new head on MediaPipe's frozen hand network. The photos that stay
give the validation recording of a fold: the last person of a source of people, who is then not in training; else the
last recording of the source with the most; else the last of three sources; else none. --validate-on names others.
Validation chooses the epoch (not with --last-epoch) and the temperature. Without it, the last epoch's weights are
scored as they are.

The same command resumes an interrupted cross-validation, and does not train a finished fold again. `train --resume
OUT/FOLD` is refused: it would train on the store's own split. So is a fold whose run was trained on people that the
fold holds out.

For each fold the report has accuracy, also without J and Z, which are movements; macro F1; the calibration error
before and after temperature scaling; and how many photos get an answer where 95 % of the answers are correct.
crossval.json has all of this and each class, crossval.md the table, coverage.png coverage against accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from horovod_asl.command_line.cli import command, parse
from horovod_asl.config import TrainConfig, refuse_without_effect
from horovod_asl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CrossvalConfig(TrainConfig):
    """Flags of `crossval`: those of `train`, and these."""

    COMMON: ClassVar[frozenset[str]] = (TrainConfig.COMMON - {"store", "run_folder", "resume"}) | {
        *("signers", "only", "validate_on")
    }

    folds_of: Positional[Annotated[Path, arg(metavar="STORE")]]
    """Made by `horovod-asl prepare` of all sources together."""
    by: Literal["source", "signer"]
    """What is left out at a time."""
    out: Path
    """The folder for the runs and the report: new, or of the same cross-validation, to resume."""
    signers: tuple[str, ...] = ()
    """The sources whose recordings are people; every other source is one signer."""
    only: tuple[str, ...] = ()
    """Hold out these alone: sources, or SOURCE/RECORDING."""
    validate_on: tuple[str, ...] = ()
    """Sources or SOURCE/RECORDING to validate on, the first that is not held out; `none`: on none."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return `preemption.Outcome`: 0 when every fold is done."""
    config = _config(argv)
    train = _train_config(config)

    from horovod_asl.distributed.create import create
    from horovod_asl.distributed.launcher import detect
    from horovod_asl.runs.preemption import Outcome, StopSignal
    from horovod_asl.training.crossval import Plan, cross_validate

    launcher = detect()
    stop = StopSignal().listen(alone=launcher.world_size == 1, interrupts=launcher.name == "torchrun")
    execution, plan = config.execution, Plan(config.by, config.signers, config.only, config.validate_on)
    backend = create(
        execution.backend, device=execution.device, stall_timeout_seconds=execution.stall_timeout_seconds
    )
    outcome = backend.run(
        lambda committed: cross_validate(train, plan, config.folds_of, config.out, backend, stop, committed)
    )
    if backend.rank == 0:
        _report(config.out) if outcome is Outcome.FINISHED else _say_how_to_go_on(config.out)
    backend.close()
    return stop.exit_code(outcome)


def _config(argv: Sequence[str]) -> CrossvalConfig:
    """As the flags say; where they leave it open, a store with hands is read by the first stage of train's recipe."""
    config = parse(CrossvalConfig, argv, prog="horovod-asl crossval", description=__doc__)
    refuse_without_effect(config)
    if not config.folds_of.exists() or config.model.pretrained not in (None, "hands"):
        return config
    from horovod_asl.distributed.launcher import detect
    from horovod_asl.recipes.recipe import flags_of, recipe_of
    from horovod_asl.store.store import Store

    store = Store.open(config.folds_of)
    if not recipe_of(argv, store, CrossvalConfig):
        return config
    words = flags_of("head", argv, store, detect().world_size, CrossvalConfig)
    return parse(CrossvalConfig, words, prog="horovod-asl crossval", description=__doc__)


def _train_config(config: CrossvalConfig) -> TrainConfig:
    """The flags of `train` among them; UserError for those that crossval sets itself."""
    for name, value in (
        ("store", config.data.store),
        ("run-folder", config.run_folder),
        ("resume", config.resume),
    ):
        if value is not None:
            raise UserError(
                f"crossval sets --{name} of each training itself: leave it out (the store is the first word, "
                "--out the folder; the same command again goes on)"
            )
    if config.data.all_splits:
        raise UserError("--all-splits would train on those who are held out: leave it out of crossval")
    if not config.folds_of.exists():
        raise UserError(
            f"no store at {config.folds_of}; make one with: {command('prepare', 'NAME=PHOTOS', config.folds_of)}"
        )
    refuse_without_effect(config)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    data = dataclasses.replace(config.data, store=config.folds_of)
    return TrainConfig(**values | {"data": data, "optimizer": config.optimizer.resolved()})


def _say_how_to_go_on(out: Path) -> None:
    print(f"stopped; the same command goes on in {out}", flush=True)


def _report(out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from horovod_asl.training.crossval_report import HEAD, rows_of, write_report

    cells = write_report(out, rows_of(out))
    table = Table(*HEAD)
    for column in table.columns[2:8]:
        column.justify = "right"
    for row in cells:
        table.add_row(*row)
    Console(width=max(150, Console().width)).print(table)  # a log is no narrower than its table
    print()
    print(f"{out}/crossval.json, {out}/crossval.md, {out}/coverage.png", flush=True)
