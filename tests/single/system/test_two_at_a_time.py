"""Two trainings on one folder or file: one is refused or waits, and nothing is mixed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.engine import features
from horovod_asl.engine.feature_cache import FeatureCache, alone
from horovod_asl.errors import UserError
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models import registry
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.system import locks
from horovod_asl.system.locks import Lock
from horovod_asl.training.session import run_training
from tests.launching import BIN, ROOT, clean_environment, launch
from tests.single.engine.test_features import PHOTOS, config_for, photos
from tests.single.system.test_files import held_elsewhere, leave, rewrite

SERIAL = Serial(torch.device("cpu"))
CONFIG = TrainConfig(epochs=1, batch_size_per_replica=64)


def train(store: Path, **changes: Any) -> Outcome:
    return run_training(dataclasses.replace(CONFIG, **changes), store, SERIAL)


@contextmanager
def started(folder: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """`horovod-asl train` with these words, its output in `folder`/log; killed at the end."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(word) for word in (BIN / "horovod-asl", "train", *words)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=clean_environment(),
            cwd=folder,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


# -- a run folder -------------------------------------------------------------------------------------------------


def test_default_names_of_the_same_second_are_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "default_path", lambda model: Path("runs") / f"now-{model}")
    folders = [RunFolder.new_default("small_cnn") for _ in range(3)]
    assert [folder.path.name for folder in folders] == ["now-small_cnn", "now-small_cnn-2", "now-small_cnn-3"]
    for folder in folders:
        folder.claim()


def test_a_place_where_no_default_folder_can_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"cannot be made a run folder .*name another with --run-folder"):
        RunFolder.new_default("small_cnn").claim()


def test_a_folder_in_training_is_refused_by_name_and_what_is_killed_is_resumed_at_once(
    small_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with started(tmp_path, "--store", small_store, "--run-folder", run, "--epochs", "100000") as first:
        wait_for((run / "config.yaml").exists, first, tmp_path / "log")
        config = (run / "config.yaml").read_bytes()
        with pytest.raises(UserError, match=rf"{run} is in training by another process .pid {first.pid} on "):
            train(small_store, run_folder=run)
        second = launch([BIN / "horovod-asl", "train", "--resume", run], timeout=60)
        assert second.returncode == 2
        (line,) = second.output.splitlines()
        assert line.startswith(f"error: {run} is in training by another process (pid {first.pid} on ")
        assert ", since 2" in line
        wait_for(lambda: any((run / "checkpoints").glob("step-*")), first, tmp_path / "log")
        first.kill()
        first.wait()
    assert (run / "config.yaml").read_bytes() == config
    began = time.monotonic()
    assert train(small_store, resume=run, epochs=100000, stop_after_steps=1) is Outcome.STOPPED
    assert time.monotonic() - began < 30
    assert not list(run.glob(".lock*"))


def test_a_fresh_start_leaves_no_trace_in_a_folder_that_another_is_beginning_in(
    small_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    with held_elsewhere(tmp_path / "run" / ".lock") as holder:
        with pytest.raises(UserError, match=f"is in training by another process .pid {holder.pid} on "):
            train(small_store, run_folder=tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
        holder.kill()
        holder.wait()
        assert train(small_store, run_folder=tmp_path / "run") is Outcome.FINISHED


def test_a_lock_of_another_host_is_looked_at_until_it_is_renewed_or_stale(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(small_store, run_folder=run, stop_after_steps=1)
    leave(run / ".lock", host="another", pid=17)
    sleep = time.sleep

    def renew(seconds: float) -> None:
        sleep(0.02)
        os.utime(run / ".lock")

    monkeypatch.setattr(time, "sleep", renew)
    with pytest.raises(UserError, match=r"is in training by another process \(pid 17 on another, since "):
        train(small_store, resume=run)
    said = f"{run} was in training by pid 17 on another"
    assert capsys.readouterr().out.count(said) == 1
    monkeypatch.setattr(time, "sleep", lambda seconds: rewrite(run / ".lock", age_s=locks.STALE_AFTER_S + 1))
    rewrite(run / ".lock")
    assert train(small_store, resume=run) is Outcome.FINISHED
    assert capsys.readouterr().out.count(said) == 1


def test_what_was_committed_goes_on_in_its_folder_whoever_held_it(small_store: Path, tmp_path: Path) -> None:
    """Horovod's ranks came or went, rank 0 and its host among them."""
    committed: list[dict[str, Any]] = []

    class Elastic(Serial):
        elastic = True

        def commit(self, state: Any) -> None:
            committed.append(state)

    run = tmp_path / "run"
    run_training(dataclasses.replace(CONFIG, run_folder=run, stop_after_steps=1), small_store, Elastic(SERIAL.device))
    leave(run / ".lock", host="another")
    outcome = run_training(
        dataclasses.replace(CONFIG, run_folder=run), small_store, Elastic(SERIAL.device), committed=committed[-1]
    )
    assert outcome is Outcome.FINISHED
    assert not (run / ".lock").exists()


# -- a file of features -------------------------------------------------------------------------------------------


def made(folder: Path, kept: FeatureCache | None, stop: StopSignal | None = None) -> Any:
    """The features of some photos, as an array; None where it was asked to stop."""
    config = config_for("small_cnn", folder)
    model = registry.build_model("small_cnn", num_classes=NUM_CLASSES, pretrained=config.model.pretrained)
    registry.freeze_backbone(model)
    stop = stop or StopSignal()
    found = features.extracted(model.eval(), photos(PHOTOS, 0), SERIAL, stop, cache=kept)
    return None if found is None else found.gather(np.arange(PHOTOS))


FILL = """
import sys, time
from pathlib import Path
from horovod_asl.engine import features
from horovod_asl.engine.feature_cache import FeatureCache
from tests.single.system.test_two_at_a_time import made

def slowly(self, rows):
    time.sleep(0.3)
    return features_of(self, rows)

features_of, features._Reader.__call__ = features._Reader.__call__, slowly
features._PHOTOS_PER_PASS = 2
folder = Path(sys.argv[1])
made(folder, FeatureCache(folder / "kept", {"of": "these"}))
"""


def test_a_second_training_waits_for_features_and_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first").mkdir()
    folder = tmp_path / "first"
    reference = made(tmp_path, None)
    computed: list[int] = []
    features_of = features._Reader.__call__

    def counted(self: Any, rows: Any) -> Any:
        computed.extend(rows)
        return features_of(self, rows)

    monkeypatch.setattr(features._Reader, "__call__", counted)
    first = subprocess.Popen(
        [BIN / "python", "-c", FILL, str(folder)], env=clean_environment(), cwd=ROOT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "kept.json").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        second = made(folder, FeatureCache(folder / "kept", {"of": "these"}))
        assert first.wait(60) == 0
    finally:
        first.kill()
    np.testing.assert_array_equal(second, reference)
    assert computed == []
    whole = np.fromfile(folder / "kept", np.float32)
    np.testing.assert_array_equal(whole.reshape(reference.shape), reference)
    assert f"{folder / 'kept'} is being filled by pid {first.pid} on " in capsys.readouterr().out
    assert not list(folder.glob(".*"))


def test_whoever_waits_for_features_may_be_asked_to_stop(tmp_path: Path) -> None:
    stop = StopSignal()
    stop.received = True
    with held_elsewhere(tmp_path / ".kept.lock"):
        assert made(tmp_path, FeatureCache(tmp_path / "kept", {}), stop) is None
    assert not (tmp_path / "kept").exists()


def test_features_that_are_complete_need_no_lock(tmp_path: Path) -> None:
    kept = FeatureCache(tmp_path / "kept", {})
    first = made(tmp_path, kept)
    note = (tmp_path / "kept.json").stat().st_mtime_ns
    with held_elsewhere(tmp_path / ".kept.lock"):
        np.testing.assert_array_equal(made(tmp_path, kept), first)
    assert (tmp_path / "kept.json").stat().st_mtime_ns == note


def test_machines_that_share_a_disk_fill_one_file_and_one_of_them_makes_it(tmp_path: Path) -> None:
    """The lock of another rank of the same training is ours too; that of another training is waited for."""
    kept, ours = FeatureCache(tmp_path / "kept", {}), Lock(tmp_path / ".kept.lock")
    assert ours.take() is None

    class OneOfTwoHosts(Serial):
        def gather(self, value: Any) -> list[Any]:
            return [(ours.token, None, False), value]

    with alone(kept, 9, np.dtype("f4"), OneOfTwoHosts(SERIAL.device), StopSignal()) as makes_file:
        assert makes_file is False
    ours.release()
    with alone(kept, 9, np.dtype("f4"), SERIAL, StopSignal()) as makes_file:
        assert makes_file is True


def test_features_are_on_the_disk_before_a_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each note comes after a flush of the map, and nothing is written between the two."""
    events: list[tuple[str, int]] = []
    flush, note = np.memmap.flush, FeatureCache.write_fingerprint

    def rows_written() -> int:
        size = (tmp_path / "kept").stat().st_size // PHOTOS
        return sum(map(any, np.fromfile(tmp_path / "kept", np.uint8).reshape(-1, size)))

    def flushed(self: Any) -> None:
        flush(self)
        events.append(("flush", rows_written()))

    def noted(self: FeatureCache, rows: int) -> None:
        note(self, rows)
        if rows:
            events.append(("note", rows))

    monkeypatch.setattr(np.memmap, "flush", flushed)
    monkeypatch.setattr(FeatureCache, "write_fingerprint", noted)
    monkeypatch.setattr(features, "_PHOTOS_PER_PASS", 1)
    made(tmp_path, FeatureCache(tmp_path / "kept", {}))
    notes = [number for number, (kind, _) in enumerate(events) if kind == "note"]
    assert [events[number][1] for number in notes] == [8, 16, PHOTOS]
    for number in notes:
        assert events[number - 1] == ("flush", events[number][1])
    assert json.loads((tmp_path / "kept.json").read_text())["rows"] == PHOTOS


def test_a_second_cross_validation_in_one_folder_is_refused(small_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [BIN / "horovod-asl", "crossval", small_store, "--by", "signer", "--signers", "synthetic", "--out", out]
    first = launch([*words, "--epochs", "1", "--stop-after-steps", "1"], timeout=120)
    assert first.returncode == 3, first.output
    with held_elsewhere(out / ".lock") as holder:
        second = launch([*words, "--epochs", "1"], timeout=60)
    assert second.returncode == 2
    (line,) = second.output.splitlines()
    assert line.startswith(f"error: {out} is in training by another process (pid {holder.pid} on ")
    assert line.endswith("train in another folder (--out)")
