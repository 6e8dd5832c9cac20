"""The trainings of one `train`, one after the other: one, or the two stages of a recipe (`recipe`).

    RUN/head/             the run of the first stage; its next.yaml is the config of the second
    RUN/                  the run of the second, which begins with the first one's weights
    RUN/features*         what the frozen trunk makes of the photos, for as long as they train

Each stage is a run like any other, and resumes to the bit. `--resume RUN` resumes the one that is not finished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from horovod_asl.command_line.cli import command, parse
from horovod_asl.command_line.config_file import flags_of_file, to_yaml
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend, from_rank_0
from horovod_asl.runs.opening import already_finished, require_store
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.runs.run_folder import FEATURES, HEAD, NEXT, RunFolder
from horovod_asl.system.files import write_atomically
from horovod_asl.training.session import RunOptions, run_training


def _begin(head: TrainConfig, tuned: TrainConfig, backend: Backend) -> list[TrainConfig]:
    """Both with their folders, that of the first begun. Every rank must come here.

    Raises:
        UserError: the run folder holds a run or other files.
    """

    def begin() -> list[TrainConfig]:
        folder = RunFolder(tuned.run_folder) if tuned.run_folder else RunFolder.new_default(tuned.model.name)
        folder.claim()
        both = _both_placed(head, tuned, folder.path)
        first = RunFolder(folder.path / HEAD)
        first.claim()
        write_atomically(first.path / NEXT, to_yaml(dataclasses.replace(both[1], stop_after_steps=None)))
        return both

    return from_rank_0(backend, begin)


def _both_placed(head: TrainConfig, tuned: TrainConfig, run: Path) -> list[TrainConfig]:
    first, features = run / HEAD, run / FEATURES
    return [_placed(head, first, features), _placed(tuned, run, features, pretrained=first)]


def _placed(config: TrainConfig, folder: Path, features: Path, pretrained: Path | None = None) -> TrainConfig:
    first = config.model.pretrained if pretrained is None else str(pretrained)
    model = dataclasses.replace(config.model, cache_features=str(features), pretrained=first)
    return dataclasses.replace(config, run_folder=folder, model=model)


def stages_of_resumed(config: TrainConfig) -> list[TrainConfig]:
    """`config`, whose `resume` is set, and where that is the first of two stages the second, on the same store."""
    head = Path(str(config.resume))
    if head.name != HEAD or not (head / NEXT).is_file():
        return [config]
    flags = flags_of_file(TrainConfig, head / NEXT)
    tuned = parse(TrainConfig, flags, prog="horovod-asl train", description=None)
    tuned = dataclasses.replace(tuned, data=dataclasses.replace(tuned.data, store=config.data.store))
    return _both_placed(config, tuned, head.parent)


def run_stages(
    stages: Sequence[TrainConfig],
    store: Path,
    backend: Backend,
    stop: StopSignal,
    committed: dict[str, Any] | None,
) -> Outcome:
    """Train each, on all ranks; a stage that is finished is passed over.

    Args:
        stages: the config of the one training, or those of both, resumed or to be begun.
        committed: as for `run_training`, whichever stage it is of.

    Raises:
        UserError: as `run_training`.
    """
    stages = _to_train(stages, backend, committed)
    for stage in stages:
        is_last = stage is stages[-1]
        if committed is None and _is_finished(stage, store, backend, shown=is_last):
            continue
        if len(stages) > 1 and backend.rank == 0:
            print(f"-- stage {1 + is_last} of 2: {_TITLES[is_last]}", flush=True)
        resume_command = None if is_last else command("train", "--resume", _folder(stage).parent)
        options = RunOptions(scores_training=is_last, resume_command=resume_command, shows_next=is_last)
        outcome = run_training(stage, store, backend, stop, committed, None, options)
        committed = None
        if outcome is not Outcome.FINISHED:
            return outcome
    _remove_features(stages[-1], backend)
    return Outcome.FINISHED


def _to_train(
    stages: Sequence[TrainConfig], backend: Backend, committed: dict[str, Any] | None
) -> Sequence[TrainConfig]:
    """The stages with their folders, begun; of a run that was committed, those that are left."""
    if len(stages) == 1:
        return stages
    if committed is not None:
        run = Path(committed["run_folder"])
        stages = _both_placed(stages[0], stages[1], run.parent if run.name == HEAD else run)
        return [stage for stage in stages if run.name == HEAD or stage.run_folder == run]
    return _begin(stages[0], stages[1], backend) if stages[0].resume is None else stages


def _is_finished(stage: TrainConfig, store: Path, backend: Backend, *, shown: bool) -> bool:
    """Whether a stage to resume is finished; UserError where it is not and its store is missing."""
    if stage.resume is None:
        return False
    finished = already_finished(stage, backend)
    if finished is None:
        require_store(store, stage.resume)
    elif shown and backend.rank == 0:
        print(finished, flush=True)
    return finished is not None


def _folder(stage: TrainConfig) -> Path:
    return stage.resume or stage.run_folder or Path()


_TITLES = ("a new head, on what the frozen trunk makes of the photos", "the head and the trunk's last blocks")


def _remove_features(stage: TrainConfig, backend: Backend) -> None:
    run = stage.resume or stage.run_folder
    if run is None or not (run / HEAD / NEXT).is_file() or backend.rank > 0:  # else they are not ours
        return
    for file in [*run.glob(f"{FEATURES}*"), *run.glob(f".{FEATURES}*")]:
        file.unlink(missing_ok=True)
