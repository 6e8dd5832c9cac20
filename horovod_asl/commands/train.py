"""Train on a store, on any number of ranks.

    horovodrun -np 4 python train.py                        # the built-in sample, on four ranks
    horovodrun -np 4 horovod-asl train --store STORE        # a store made by `horovod-asl prepare`
    torchrun --nproc-per-node 2 train.py --store STORE      # the same under DistributedDataParallel
    horovod-asl train --store STORE --config my.yaml --epochs 30
    horovod-asl train --resume runs/RUN                     # resume; the same weights, bit by bit
    horovod-asl train --resume runs/RUN --epochs 20         # extend a run, finished or not

Ctrl-C and SIGTERM save a run of one process; SIGUSR1 saves a run of any number. The program prints the command that
resumes it. Under the scripts in launch/, Ctrl-C saves the run of all ranks. Exit codes: 0 trained to the end, 2 an
error, 3 after --stop-after-steps, 85 after a signal (start it again), 130 after Ctrl-C.

Without a flag that names the network, a store with hands is read by hand_net. On a small store (up to 10,000 photos
or below 20 recordings to train on), the head of the bundled model is trained further. On a larger one, or with
--pretrained hands, a new head is trained on MediaPipe's frozen hand network (the run RUN/head), then the head and
the network's last blocks (the run RUN). --input photos trains a network on whole photos. A given flag wins over the
recipe's.

The learning rate is that of one replica. It grows with their number (see --learning-rate-scaling). The run folder
holds config, metrics, checkpoints, plots and report.html.
"""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horovod_asl.command_line.cli import asks_for_help, expand_home, parse, value_of
from horovod_asl.config import HOW_LONG, NOT_LEARNED, TrainConfig, refuse_without_effect
from horovod_asl.config_groups import TEMPORARY
from horovod_asl.distributed.launcher import Launcher, detect
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.distributed.base import Backend

_MOST_SAMPLE_PHOTOS_PER_STEP = 128


def main(argv: Sequence[str]) -> int:
    """Run the command and return `preemption.Outcome`.

    0 when trained to the end, 3 after `--stop-after-steps`, 85 after a signal to stop, 130 after Ctrl-C.
    """
    config = _config(argv)

    from horovod_asl.distributed.create import (  # torch is imported from here on, not for --help
        choose,
        create,
    )
    from horovod_asl.recipes.stages import run_stages
    from horovod_asl.runs.preemption import Outcome, StopSignal

    launcher = detect()
    stop = StopSignal().listen(alone=launcher.world_size == 1, interrupts=launcher.name == "torchrun")
    choose(config.execution.backend, launcher, gpu_count=0)  # refuses before a sample is drawn
    store = _store(config, launcher)
    if config.data.store is None and config.resume is None:
        config = _for_the_sample(config, launcher.world_size)
    execution = config.execution
    backend = create(
        execution.backend,
        device=execution.device,
        stall_timeout_seconds=execution.stall_timeout_seconds,
    )
    config = _after_a_restart(config, argv, backend)
    stages = _stages(config, argv, store, backend)

    def train(committed: dict[str, Any] | None) -> Outcome:
        return run_stages(stages, store, backend, stop, committed)

    outcome = backend.run(train)
    backend.close()
    return stop.exit_code(outcome)


def _stages(config: TrainConfig, argv: Sequence[str], store: Path, backend: Backend) -> list[TrainConfig]:
    """What is trained, one after the other: as the flags say, or as a recipe does where they leave that open."""
    from horovod_asl.recipes.recipe import flags_of, in_words, recipe_of
    from horovod_asl.recipes.stages import stages_of_resumed
    from horovod_asl.store.store import Store

    if config.resume is not None:
        return stages_of_resumed(config)
    opened = Store.open(store)
    recipe = recipe_of(argv, opened)
    if not recipe:
        return [config]
    if backend.rank == 0:
        for line in in_words(recipe):  # each in a write of its own, or launchers tear it
            print(line, flush=True)
    return [_config(flags_of(stage, argv, opened, backend.world_size)) for stage in recipe]


def _config(argv: Sequence[str]) -> TrainConfig:
    resumed = value_of(TrainConfig, argv, "--resume")
    if resumed is None or asks_for_help(argv):
        config = parse(TrainConfig, argv, prog="horovod-asl train", description=__doc__)
        refuse_without_effect(config)
        return dataclasses.replace(config, optimizer=config.optimizer.resolved())
    from horovod_asl.runs.run_folder import RunFolder

    run = RunFolder(Path(expand_home(resumed))).begun_stage()
    saved = _saved_config(run)
    # Read over what the run began with: a flag that says a default is then told from one left out, and flags that go
    # together may be said one without the other.
    asked = parse(TrainConfig, argv, prog="horovod-asl train", description=None, default=_chosen_anew(saved))
    asked = dataclasses.replace(asked, optimizer=asked.optimizer.resolved())
    _refuse_changes(asked, saved)
    return dataclasses.replace(
        asked,
        resume=run,
        run_folder=saved.run_folder,
        data=dataclasses.replace(asked.data, store=asked.data.store or _store_of(saved, run)),
    )


def _store_of(saved: TrainConfig, run: Path) -> Path | None:
    """The store that the run was trained on.

    Older versions saved a relative path as it was given. It is then taken from the working folder of that time, which
    the run folder's own path shows where it was relative too, else from this one. Its digest is compared later.
    """
    store, given = saved.data.store, saved.run_folder
    if store is None or store.is_absolute():
        return store
    here = run.absolute()
    if given is not None and not given.is_absolute() and here.parts[-len(given.parts) :] == given.parts:
        there = Path(*here.parts[: -len(given.parts)]) / store
        if there.exists():
            return there
    return store


def _after_a_restart(config: TrainConfig, argv: Sequence[str], backend: Backend) -> TrainConfig:
    """`config`, or that of the run which earlier ranks of this torchrun began, to be resumed."""
    from horovod_asl.runs.restarts import restart_in_words, run_of_this_job
    from horovod_asl.runs.run_folder import RunFolder

    run = None if config.resume is not None else run_of_this_job(config.run_folder, backend)
    if run is None:
        return config
    resumes = backend.broadcast(backend.rank > 0 or _can_be_resumed(run, argv))  # rank 0's answer
    if not resumes:  # what failed as it began starts once more, under its name
        has_begun = backend.broadcast(RunFolder(run).holds_run())
        return config if has_begun else dataclasses.replace(config, run_folder=run)
    resumed = _config([*argv, "--resume", str(run)])
    if backend.rank == 0:
        print(restart_in_words(run), flush=True)
    return resumed


def _can_be_resumed(run: Path, argv: Sequence[str]) -> bool:
    """Whether `run` has begun, with these options: a script may train twice, one after the other."""
    try:
        _config([*argv, "--resume", str(run)])
    except UserError:
        return False
    return True


def _saved_config(run: Path) -> TrainConfig:
    """The config of the run to resume; every rank reads it, before ranks can talk."""
    from horovod_asl.runs.run_folder import RunFolder

    folder = RunFolder(run)
    if detect().rank > 0 and not folder.holds_run():
        raise UserError(
            f"there is no run in {run} on {platform.node()}: --resume needs the run folder on every host, "
            "on a disk that they share or as a copy at the same path"
        )
    saved = folder.config(to_train=True)
    return dataclasses.replace(saved, optimizer=saved.optimizer.resolved())


def _chosen_anew(saved: TrainConfig) -> TrainConfig:
    """`saved` with the defaults in place of what a resume does not take over."""
    default = TrainConfig()
    execution = {name: value for name, value in vars(default.execution).items() if name in NOT_LEARNED}
    return dataclasses.replace(
        saved,
        resume=None,
        run_folder=None,
        stop_after_steps=None,
        data=dataclasses.replace(saved.data, store=None),
        model=dataclasses.replace(saved.model, cache_features=saved.model.cache_features and TEMPORARY),
        execution=dataclasses.replace(saved.execution, **execution),
    )


def _refuse_changes(asked: TrainConfig, saved: TrainConfig) -> None:
    """Every flag beside --resume is left out, or as the run began, or changes nothing that is learned."""
    if asked.run_folder is not None and asked.run_folder.resolve() != asked.resume.resolve():  # type: ignore[union-attr]
        raise UserError(f"--resume {asked.resume} goes on in that folder, not in {asked.run_folder}")
    wanted, began = _flags(asked), _flags(saved)
    changed = [
        f"--{name.replace('_', '-')} {value} (it began with {began[name]})"
        for name, value in wanted.items()
        if name not in NOT_LEARNED | HOW_LONG and value != began[name]
    ]
    if changed:
        raise UserError(
            f"--resume goes on as the run began, and would not with {', '.join(changed)}; "
            "leave that out, or start a new run"
        )
    if asked.epochs != saved.epochs and {asked.epochs % 1, saved.epochs % 1} != {0}:
        raise UserError(
            f"--epochs {asked.epochs}: the run began with {saved.epochs}, and a part of an epoch shows other photos "
            "than the whole: only whole numbers can take each other's place; start a new run"
        )


def _flags(config: TrainConfig) -> dict[str, Any]:
    """All options by the names of their flags."""
    from horovod_asl.runs.run_folder import HEAD

    flags: dict[str, Any] = {}
    for name, value in vars(config).items():
        flags |= vars(value) if dataclasses.is_dataclass(value) else {name: value}
    flags["cache_features"] = flags["cache_features"] and TEMPORARY  # in which file, decides nothing
    first = flags["pretrained"]
    if first is not None and config.model.tuned_blocks and Path(first).name == HEAD:
        flags["pretrained"] = "hands"  # as the user of two stages asked
    elif first is not None and Path(first).exists():  # the same one by whatever path
        flags["pretrained"] = str(Path(first).absolute())
    return flags


def _for_the_sample(config: TrainConfig, world_size: int) -> TrainConfig:
    """Photos per rank such that a step takes at most 128: with more, the small sample gives too few steps.

    The learning rate of a rank follows its batch by the square root, so that the step's rate stays. A batch that was
    asked for stays as it is.
    """
    batch = max(2, _MOST_SAMPLE_PHOTOS_PER_STEP // world_size)
    if (
        batch >= config.batch_size_per_replica
        or config.batch_size_per_replica != TrainConfig.batch_size_per_replica
    ):
        return config
    rate = config.optimizer.learning_rate_in_force * math.sqrt(batch / config.batch_size_per_replica)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    return dataclasses.replace(config, batch_size_per_replica=batch, optimizer=optimizer)


def _store(config: TrainConfig, launcher: Launcher) -> Path:
    """The store to train on, the sample drawn if need be; that of a run to resume may be missing yet."""
    if config.data.store is None:
        from horovod_asl.prepare.sample import ensure_sample

        return ensure_sample(launcher.local_rank)
    if config.resume is None:
        from horovod_asl.runs.opening import require_store

        require_store(config.data.store, None)
    return config.data.store
