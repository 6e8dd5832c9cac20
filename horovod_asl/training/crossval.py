"""Train and score the folds of a cross-validation one after the other, on all ranks.

    OUT/plan.json           what the folds have in common: the store's digest, who is a signer, the flags of train
    OUT/FOLD/               the run folder of a fold, as `train` leaves it
    OUT/FOLD/fold.json      its row of the report; a fold that has one is finished
    OUT/crossval.json …     the report of all rows: see `crossval_report`

A fold that is finished is read back and not trained again; one that was interrupted resumes from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horovod_asl.command_line.config_upgrade import upgraded
from horovod_asl.command_line.progress import duration
from horovod_asl.config import NOT_LEARNED, RETIRED, TrainConfig
from horovod_asl.config_groups import TEMPORARY
from horovod_asl.distributed.base import Backend, from_rank_0
from horovod_asl.engine.features import StoreFeatures, features_of_store, frozen_digest
from horovod_asl.errors import UserError
from horovod_asl.runs.opening import held_on_rank_0, refuse_another_store_or_split
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.runs.run_folder import LOCK, RESULT, RunFolder
from horovod_asl.store.folds import (
    LEFT_OUT,
    Fold,
    Kind,
    held_out_rows,
    names_of,
    plan_folds,
    recordings_of,
    same_command,
    split_codes,
    with_fold,
)
from horovod_asl.store.store import Store
from horovod_asl.system.files import write_atomically
from horovod_asl.system.locks import Lock
from horovod_asl.training.crossval_report import ROW, refuse_seen, row_of_fold
from horovod_asl.training.parent_run import is_path
from horovod_asl.training.session import (
    RunOptions,
    display_of,
    open_equal_stores,
    run_training,
    settle_process,
)

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What is asked for: see `folds.plan_folds`."""

    by: Kind
    signers: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    validate_on: tuple[str, ...] = ()


def cross_validate(
    config: TrainConfig,
    plan: Plan,
    store_path: Path,
    out: Path,
    backend: Backend,
    stop: StopSignal | None = None,
    committed: dict[str, Any] | None = None,
) -> Outcome:
    """Walk the folds, every rank together; rank 0 writes the report when the last is done.

    Args:
        config: of each training; store, run folder and resume are set here.
        committed: as for `run_training`, whichever fold it is of.

    Raises:
        UserError: `out` holds another cross-validation or something else, or the plan or a training is refused.
    """
    settle_process(config, backend)
    store = open_equal_stores(store_path, backend)
    folds = plan_folds(recordings_of(store), **vars(plan))
    common = _common(config, plan, store, backend)
    from_rank_0(backend, lambda: _claim(out, common))
    log = display_of(config, backend).log
    # Beside the locks of the folds: a second cross-validation is refused at once, not where the two meet in a fold.
    with held_on_rank_0(Lock(out / LOCK, log), "--out", backend, log, force=committed is not None):
        return _walk(config, folds, store, out, backend, stop or StopSignal(), committed)


def _walk(
    config: TrainConfig,
    folds: Sequence[Fold],
    store: Store,
    out: Path,
    backend: Backend,
    stop: StopSignal,
    committed: dict[str, Any] | None,
) -> Outcome:
    features, made_by = None, None
    done = from_rank_0(backend, lambda: _finished(out, folds, store))
    todo = [(number, fold) for number, fold in enumerate(folds, start=1) if fold.held_out not in done]
    began = time.monotonic()
    for trained, (number, fold) in enumerate(todo):
        path = out / fold.folder
        if backend.rank == 0:
            left = time_left(trained, len(todo), time.monotonic() - began)
            print(
                f"-- fold {number} of {len(folds)}: {fold.held_out} is held out{left} " + "-" * 20, flush=True
            )
        own, title = _of_fold(config, fold, backend), f"fold {number}/{len(folds)} {fold.held_out}"
        frozen = frozen_digest(own)
        if frozen is not None and (features is None or made_by != frozen):
            with display_of(own, backend, title) as display, stop.catching_interrupts():
                features = features_of_store(own, store, backend, stop, on_progress=display.on_features)
            made_by = frozen
            if features is None:
                return stop.outcome
        outcome = _train_and_score(own, store, fold, path, backend, stop, committed, features, title)
        if outcome is not Outcome.FINISHED:
            return outcome
        gc.collect()  # the run's parts refer to each other, and its photos may fill a GPU
    return Outcome.FINISHED


def time_left(trained: int, todo: int, seconds: float) -> str:
    """The part of a fold's heading about the time, once `trained` of the folds `todo` took `seconds`."""
    return f", {trained} done, {duration(seconds / trained * (todo - trained))} left" if trained else ""


def _of_fold(config: TrainConfig, fold: Fold, backend: Backend) -> TrainConfig:
    """The config with the same fold's run of another cross-validation, where --pretrained names that."""
    begins_with = config.model.pretrained
    is_crossval = begins_with is not None and (Path(begins_with) / PLAN).is_file()
    folders = _folders_by_fold(_rows_by_folder(Path(str(begins_with)))) if is_crossval else {}
    is_crossval, first = backend.broadcast((is_crossval, folders.get(fold.held_out)))
    if not is_crossval:
        return config
    if first is None:
        raise UserError(
            f"--pretrained {begins_with}: that cross-validation has no finished fold {fold.held_out}; "
            "run it first, with the same --only"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=str(first)))


def _rows_by_folder(out: Path) -> dict[Path, dict[str, Any]]:
    """The row of each finished fold under `out`."""
    return {file.parent: json.loads(file.read_text()) for file in sorted(out.glob(f"*/{ROW}"))}


def _folders_by_fold(rows: Mapping[Path, dict[str, Any]]) -> dict[str, Path]:
    """The folder of each of these rows by who is held out: older versions named some otherwise."""
    return {row["held_out"]: folder for folder, row in rows.items()}


def _common(config: TrainConfig, plan: Plan, store: Store, backend: Backend) -> dict[str, Any]:
    """What all folds under one folder must share, as JSON."""
    # On other ranks a fold that was begun keeps its global batch; a new one would get another.
    replicas = "any" if backend.elastic else backend.num_replicas
    about = {"store_digest": store.digest, "replicas": replicas} | {
        name: value for name, value in vars(plan).items() if name != "only"
    }
    common: dict[str, Any] = json.loads(json.dumps(about | {"train": _flags(config)}, default=str))
    return common


def _flags(config: TrainConfig) -> dict[str, Any]:
    """The flags of train that decide what a fold learns, as JSON."""
    flags: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        flags |= value if isinstance(value, dict) else {name: value}
    kept = {name: value for name, value in flags.items() if name not in NOT_LEARNED}
    kept["cache_features"] = kept["cache_features"] and TEMPORARY  # in which file, decides nothing
    as_json: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return as_json


def _claim(out: Path, common: dict[str, Any]) -> None:
    """Make the folder, or find that it holds the same plan."""
    if (out / PLAN).is_file():
        found = json.loads((out / PLAN).read_text())
        changed = _differences(found, common)
        if changed:
            raise UserError(
                f"{out} holds a cross-validation with {'; '.join(changed)}: resume with the same flags, "
                "or use another --out"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and holds no cross-validation: name a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / PLAN, json.dumps(common, indent=1))


def _differences(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    defaults = RETIRED | _flags(TrainConfig())  # of a flag that is older or younger than the folder

    def flat(plan: dict[str, Any]) -> dict[str, Any]:
        train, gone = upgraded(plan.get("train", {}))
        flags: dict[str, Any] = defaults | train | gone
        for name in NOT_LEARNED:  # an older version wrote some of them down
            flags.pop(name, None)
        if is_path(flags["pretrained"]):  # the same one by whatever path
            flags["pretrained"] = str(Path(flags["pretrained"]).resolve())
        return {name: value for name, value in plan.items() if name != "train"} | flags

    before, now = flat(found), flat(asked)
    return [
        f"{name.replace('_', '-')} {_shown(name, before.get(name))} (now {_shown(name, now.get(name))})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _shown(name: str, value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return (text[:12] if name.endswith("digest") else text) or "none"


def _finished(out: Path, folds: Sequence[Fold], store: Store) -> set[str]:
    """Those of the folds that have their row. UserError for one that cannot be used."""
    done: set[str] = set()
    rows = _rows_by_folder(out)
    folders = _folders_by_fold(rows)
    for fold in folds:
        if fold.held_out in folders:
            folder = folders[fold.held_out]
            digests = store.digests[held_out_rows(store, fold)]
            refuse_seen(RunFolder(folder), rows[folder], names_of(fold.test), digests)
            done.add(fold.held_out)
        else:
            _refuse_taken(out / fold.folder, fold)
    return done


def _refuse_taken(path: Path, fold: Fold) -> None:
    if (path / ROW).is_file():  # by an older version, in which two folds had the same folder
        raise UserError(f"{path} is of another fold, and {fold.held_out} needs that name: use another --out")


def _train_and_score(
    config: TrainConfig,
    store: Store,
    fold: Fold,
    path: Path,
    backend: Backend,
    stop: StopSignal,
    committed: dict[str, Any] | None,
    features: StoreFeatures | None,
    title: str,
) -> Outcome:
    codes = backend.broadcast(split_codes(store, fold) if backend.rank == 0 else None)
    assert codes is not None
    split = with_fold(store, fold, codes)
    is_trained, began = backend.broadcast(((path / RESULT).is_file(), RunFolder(path).holds_run()))
    if not is_trained:
        own = dataclasses.replace(config, run_folder=None if began else path, resume=path if began else None)
        is_of_fold = committed is not None and committed["run_folder"] == str(path)
        began_with = committed if is_of_fold else None
        outcome = run_training(
            own,
            split,
            backend,
            stop,
            began_with,
            features,
            RunOptions(scores_training=False, resume_command=same_command(path.parent), title=title),
        )
        if outcome is not Outcome.FINISHED:
            return outcome

    def write_row() -> None:
        refuse_another_store_or_split(RunFolder(path), split)
        row = row_of_fold(fold, split, RunFolder(path))
        row |= {"copies_left_out": int((codes == LEFT_OUT).sum()), "folder": fold.folder}
        write_atomically(path / ROW, json.dumps(row, indent=1))

    from_rank_0(backend, write_row)
    return Outcome.FINISHED
