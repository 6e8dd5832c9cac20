"""Open a run folder: who may train there, and what may be resumed.

One process at a time trains in a run folder: it holds the folder's lock. A run is resumed on the store and the split
with which it began, and a finished one only where more epochs are asked for. Rank 0 decides, and every rank raises
what it found.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from horovod_asl.command_line.cli import command
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend, from_rank_0
from horovod_asl.errors import UserError
from horovod_asl.runs.preemption import epochs_without_gain
from horovod_asl.runs.run_folder import RESULT, RunFolder
from horovod_asl.store.folds import CROSSVAL, same_command
from horovod_asl.store.store import Store
from horovod_asl.system.files import full_disk, is_full
from horovod_asl.system.locks import Holder, Lock


def open_run_folder(
    config: TrainConfig,
    store: Store,
    backend: Backend,
    committed: dict[str, Any] | None,
    held: contextlib.ExitStack,
    log: Callable[[str], None],
) -> RunFolder:
    """Rank 0 makes the run folder, or holds the store against the run's to resume; all ranks see its refusal.

    It locks the folder until `held` is closed. A lock from another host may be that of a process that is gone: all
    ranks come here again each second until that shows.
    """
    if committed is not None:
        folder = RunFolder(Path(committed["run_folder"]))
        lock = folder.lock(log)
        if backend.rank == 0:  # the rank 0 that held the lock may be gone, with its host
            lock.take(force=True)
            held.callback(lock.release)
        return folder
    given = config.resume or config.run_folder
    if given is None and backend.rank == 0:
        given = RunFolder.new_default(config.model.name).path
        held.callback(
            _remove_if_empty, given
        )  # of a run that does not begin; the next one takes another name
    folder = RunFolder(backend.broadcast(given))  # type: ignore[arg-type]
    lock = folder.lock(log)
    held.callback(lock.release)
    _retry(lambda: _enter(folder, lock, None if config.resume is None else store), folder.path, backend, log)
    return folder


def _retry(
    enter: Callable[[], Holder | None], folder: Path, backend: Backend, log: Callable[[str], None]
) -> None:
    """Have rank 0 `enter` a folder, once a second until no holder of its lock is left. Every rank must come here."""
    said = False
    while (holder := from_rank_0(backend, enter)) is not None:
        if not said:
            log(f"{folder} was in training by {holder}: looking for a minute whether it still is")
        said = True
        backend.heartbeat()
        time.sleep(1)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _enter(folder: RunFolder, lock: Lock, resumed: Store | None) -> Holder | None:
    """Lock the folder of a run to begin, or to resume on a store; else the holder, if it is not known to be alive."""
    try:
        if resumed is None and not lock.path.exists():
            folder.claim()  # first: nothing is written into a folder that is refused
        holder = take_or_refuse(lock, "--run-folder")
    except OSError as error:
        raise (
            full_disk(folder.path, "free some room and start again")
            if is_full(error)
            else UserError(f"{folder.path} cannot be written ({error.strerror or error})")
        ) from error
    if holder is None:
        folder.claim() if resumed is None else refuse_another_store_or_split(folder, resumed)
    return holder


def take_or_refuse(lock: Lock, flag: str) -> Holder | None:
    """Take the lock of a folder, or return its holder if that is not known to be alive.

    Raises:
        UserError: another process trains there; `flag` names another folder.
        OSError: the folder cannot be written.
    """
    holder = lock.take()
    if holder is not None and holder.is_alive:
        raise UserError(
            f"{lock.path.parent} is in training by another process ({holder}): wait for its end, or stop it, or "
            f"train in another folder ({flag})"
        )
    return holder


@contextlib.contextmanager
def held_on_rank_0(
    lock: Lock, flag: str, backend: Backend, log: Callable[[str], None], *, force: bool
) -> Iterator[None]:
    """Have rank 0 hold the lock of a folder that `flag` names. Every rank must come here; see `take_or_refuse`.

    Args:
        force: take it from whoever holds it, where this job is known to be the holder.
    """
    if not force:
        _retry(lambda: take_or_refuse(lock, flag), lock.path.parent, backend, log)
    elif backend.rank == 0:
        lock.take(force=True)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def full_disk_in_one_line(folder: RunFolder, go_on: str) -> Iterator[None]:
    """Have a disk that is full end the run with what is saved and how to go on."""
    before = (
        threading.excepthook
    )  # TensorBoard's thread hands its error on to ours, and would print it as well
    threading.excepthook = lambda said: (
        None if said.exc_value is not None and is_full(said.exc_value) else before(said)
    )
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_full(error):
            raise
        steps = sorted(path.name for path in folder.checkpoints.glob("step-*"))
        newest = int(steps[-1].removeprefix("step-")) if steps else None
        saved = "no step is saved yet" if newest is None else f"everything up to step {newest} is saved"
        remedy = f"then {go_on}; {saved}" if folder.holds_run() else "then start again"
        raise full_disk(folder.path, f"free some room, {remedy}") from error
    finally:
        threading.excepthook = before


def require_store(store: Path, resumed: Path | None) -> None:
    """UserError where nothing is at `store`, on which a run is to be trained, or `resumed` was."""
    if store.exists():
        return
    if resumed is not None:
        raise UserError(
            f"no store at {store}, on which {resumed} was trained; name it with: "
            f"{command('train', '--resume', resumed, '--store', 'STORE')}"
        )
    raise UserError(f"no store at {store}; make one with: {command('prepare', 'PHOTOS', store)}")


def refuse_another_store_or_split(folder: RunFolder, store: Store) -> None:
    """UserError where the run was trained on photos of another store, or with another split of it."""
    facts = folder.facts()
    trained = facts["store_digest"]
    if trained != store.digest:
        raise UserError(
            f"{folder.path} was trained on a store with digest {trained[:12]}, and {store.path} has "
            f"{store.digest[:12]}; name the first with --store, or start a new run"
        )
    if not _has_split(store, facts):
        raise UserError(
            f"{folder.path} was trained with another split than the one to resume: "
            + _remedy_for_another_split(folder, store, facts)
        )


def _has_split(store: Store, facts: dict[str, Any]) -> bool:
    """Whether each photo is on the side on which it was for the run with these facts."""
    if "split_digest" in facts:
        return bool(facts["split_digest"] == store.split_digest)
    # A run of an older version. The stores have the same digest, so the rule tells the splits apart.
    return bool(facts.get("split_rule") == store.manifest["split_rule"])


def _remedy_for_another_split(folder: RunFolder, store: Store, facts: dict[str, Any]) -> str:
    if store.manifest["split_rule"]["kind"] == CROSSVAL:
        return "remove that folder, and the fold is trained anew"
    if facts.get("split_rule", {}).get("kind") == CROSSVAL:
        return (
            "it is a fold of a cross-validation, and the store's own split would train it on those whom it holds "
            f"out; {same_command(folder.path.parent)} resumes it"
        )
    return "start a new run"


def already_finished(config: TrainConfig, backend: Backend) -> str | None:
    """Of a run to resume: what to say where it is finished and `config` does not ask for more. Every rank comes here.

    Raises:
        UserError: `config` asks for fewer epochs than it has, or for more where it would stop at once.
    """
    return from_rank_0(backend, lambda: _finished(config, RunFolder(config.resume or Path())))


def _finished(config: TrainConfig, run: RunFolder) -> str | None:
    said = _said_of_finished(config, run)
    if said is None and run.metrics() and not any(run.checkpoints.glob("step-*")):
        raise UserError(
            f"{run.path} has no checkpoint any more, so it cannot go on from its last epoch; start a new run, "
            f"perhaps with its best weights: {command('train', '--pretrained', run.path)}"
        )
    return said


def _said_of_finished(config: TrainConfig, run: RunFolder) -> str | None:
    if not (run.path / RESULT).is_file():
        return None
    saved, history, result = run.config(), run.metrics(), run.result()
    done = history[-1]["epoch"] if history else saved.epoch_count
    early, patience, stale = result.get("stopped_early", False), config.patience, epochs_without_gain(history)
    stops_at_once = patience is not None and stale >= patience
    more = f"--patience N, N more than {stale} (or None)" if early or stops_at_once else "--epochs N"
    if config.epoch_count < done:
        raise UserError(f"--epochs {config.epochs}: {run.path} has done {done} already: name more")
    if config.epoch_count > done and not stops_at_once:
        return None
    if config.epoch_count > done and (config.epochs, patience) != (saved.epochs, saved.patience):
        raise UserError(
            f"--epochs {config.epochs} with --patience {patience}: validation of {run.path} has not improved for "
            f"{stale} epochs already, so it would end at once; add {more}"
        )
    split, score = list(result["scores"].items())[-1]
    return (
        f"{run.path} is finished ({done} epochs{', ended by --patience' if early else ''}, {split} "
        f"{score['top1']:.2%}): nothing to do; to extend it: {command('train', '--resume', run.path)} {more}"
    )
