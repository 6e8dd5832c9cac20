"""The trainings of one `train`, one after the other: one, or the two stages of a recipe (`recipe`).

    RUN/head/             the run of the first stage; its next.yaml is the config of the second
    RUN/                  the run of the second, which begins with the first one's weights
    RUN/features*         what the frozen trunk makes of the photos, for as long as they train

Each stage is a run like any other, and resumes to the bit. `--resume RUN` goes on with the one that is not finished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from horovod_asl.backends import Backend, from_rank_0
from horovod_asl.cli import command, parse
from horovod_asl.config import TrainConfig
from horovod_asl.config_file import flags_of_file, to_yaml
from horovod_asl.files import write_atomically
from horovod_asl.run_opening import already_finished, require_store
from horovod_asl.runfolder import FEATURES, HEAD, NEXT, RunFolder
from horovod_asl.session import run_training
from horovod_asl.stopping import Outcome, StopSignal


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
    maps = features.with_name(f"{FEATURES}.maps")
    return [_placed(head, first, features), _placed(tuned, run, maps, pretrained=first)]


def _placed(
    config: TrainConfig, folder: Path, features: Path, pretrained: Path | None = None
) -> TrainConfig:
    first = config.model.pretrained if pretrained is None else str(pretrained)
    model = dataclasses.replace(config.model, features_file=features, pretrained=first)
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
    last = len(stages) - 1
    if committed is not None and last:
        run = Path(committed["run_folder"])
        stages = _both_placed(stages[0], stages[1], run.parent if run.name == HEAD else run)
        stages = [stage for stage in stages if run.name == HEAD or stage.run_folder == run]
    elif last and stages[0].resume is None:
        stages = _begin(stages[0], stages[1], backend)
    for stage in stages:
        is_last, resume_command = stage is stages[-1], None
        if stage.resume is not None and committed is None:
            finished = already_finished(stage, backend)
            if finished is not None:
                if is_last and backend.rank == 0:
                    print(finished, flush=True)
                continue
            require_store(store, stage.resume)
        if last and backend.rank == 0:
            print(f"-- stage {1 + is_last} of 2: {_TITLES[is_last]}", flush=True)
        if not is_last:
            run = (stage.resume or stage.run_folder or Path()).parent
            resume_command = command("train", "--resume", run)
        outcome = run_training(
            stage,
            store,
            backend,
            stop,
            committed,
            scores_training=is_last,
            resume_command=resume_command,
            shows_next=is_last,
        )
        committed = None
        if outcome is not Outcome.FINISHED:
            return outcome
    _remove_features(stages[-1], backend)
    return Outcome.FINISHED


_TITLES = ("a new head, on what the frozen trunk makes of the photos", "the head and the trunk's last blocks")


def _remove_features(stage: TrainConfig, backend: Backend) -> None:
    run = stage.resume or stage.run_folder
    if run is None or not (run / HEAD / NEXT).is_file() or backend.rank > 0:  # else they are not ours
        return
    for file in [*run.glob(f"{FEATURES}*"), *run.glob(f".{FEATURES}*")]:
        file.unlink(missing_ok=True)
