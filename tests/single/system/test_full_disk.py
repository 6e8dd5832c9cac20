"""A disk that fills up ends a command with one line, and what is saved goes on once there is room."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from horovod_asl.__main__ import _code, _command
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.engine.feature_cache import FeatureCache, record_rows
from horovod_asl.errors import UserError
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.store.store import Store
from horovod_asl.training.session import run_training
from tests.launching import BIN, ROOT, launch, launcher_words
from tests.single.prepare.test_prepare import prepare

CONFIG = TrainConfig(epochs=2, batch_size_per_replica=64)
STEPS_PER_EPOCH = 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("8m")` is a folder of its own file system with so much room; called again, it has more."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def of_size(size: str) -> Path:
        words = ["remount"] if os.path.ismount(folder) else []
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*words, f"size={size}"]), "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield of_size
    subprocess.run(["umount", str(folder)], capture_output=True, timeout=20, check=False)


def train(run: Path, store: Path, config: TrainConfig = CONFIG) -> None:
    where = {"resume": run} if (run / "config.yaml").exists() else {"run_folder": run}
    run_training(dataclasses.replace(config, **where), store, Serial(torch.device("cpu")))


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


@pytest.mark.parametrize("size", ["200k", "700k"])
def test_prepare_goes_on_when_there_is_room(
    size: str, frames: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    """Full while a worker writes its photos (32 of 3 kB each), or while the store is written."""
    disk = small_disk(size)
    with pytest.raises(UserError, match=r"the disk of .*store\.partial is full.*\d MB free.*same prepare again"):
        prepare(frames, disk / "store")
    assert [path.name for path in disk.iterdir()] == ["store.partial"]
    small_disk("20m")
    resumed, fresh = prepare(frames, disk / "store"), prepare(frames, tmp_path / "fresh")
    assert resumed.digest == fresh.digest
    assert resumed.decoded < fresh.decoded
    Store.open(disk / "store", verify=True)


def test_a_training_goes_on_when_there_is_room(
    small_store: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    """A step's checkpoint takes 14 MB and an epoch's best weights 5: the disk is full in the second epoch."""
    run = small_disk("24m") / "run"
    with pytest.raises(UserError) as error:
        train(run, small_store)
    assert f"the disk of {run} is full, or your quota is used up (" in str(error.value)
    assert "free): free some room, then resume with: " in str(error.value)
    assert f"horovod-asl train --resume {run}; everything up to step 2 is saved" in str(error.value)
    assert str(error.value).endswith(f"everything up to step {STEPS_PER_EPOCH} is saved")
    assert not list(run.rglob("*.partial"))
    with pytest.raises(UserError, match=r"full.*everything up to step 2 is saved"):
        train(run, small_store)
    small_disk("200m")
    train(run, small_store)
    train(tmp_path / "whole", small_store)
    assert digest(run) == digest(tmp_path / "whole")


def test_a_training_that_finds_no_room_at_all_may_be_started_again(
    small_store: Path, small_disk: Callable[[str], Path]
) -> None:
    run = small_disk("8k") / "run"
    with pytest.raises(UserError, match=r"the disk of .*run is full.*then start again"):
        train(run, small_store)
    small_disk("100m")
    RunFolder(run).claim()


def test_curves_that_find_no_room_are_one_line_too(
    small_store: Path, tmp_path: Path, small_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard writes in a thread of its own."""
    run = tmp_path / "run"
    train(run, small_store, dataclasses.replace(CONFIG, stop_after_steps=3))
    disk = small_disk("8k")
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").symlink_to(disk)
    (disk / "full").write_bytes(bytes(8192))
    with pytest.raises(UserError, match=r"is full.*everything up to step 4 is saved"):
        train(run, small_store)
    assert "Traceback" not in capfd.readouterr().err


def test_a_note_of_features_names_their_disk(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("8k")
    (disk / "full").write_bytes(bytes(8192))
    table = np.memmap(tmp_path / "table", np.float32, "w+", shape=(4,))
    with pytest.raises(UserError, match=rf"the disk of {disk} is full.*name another --cache-features"):
        record_rows(FeatureCache(disk / "features", {}), table, 4)


def test_a_full_disk_ends_every_rank(small_store: Path, small_disk: Callable[[str], Path]) -> None:
    run = small_disk("24m") / "run"
    words = [*launcher_words("mpirun", 2), BIN / "python", ROOT / "train.py", "--store", small_store]
    finished = launch([*words, "--run-folder", run, "--epochs", "2"], timeout=60)
    assert finished.returncode != 0
    assert f"error: rank 0: the disk of {run} is full" in finished.output
    assert "No space left" not in finished.output  # nor its traceback


def test_any_other_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(arguments: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "sheet.png")

    monkeypatch.setitem(sys.modules, "horovod_asl.commands.inspect", SimpleNamespace(main=write))
    assert _code(lambda: _command("inspect", [])) == 2
    assert capsys.readouterr().err == (
        "error: a disk is full, or your quota is used up ([Errno 28] No space left on device: 'sheet.png'): free "
        "some room and try again\n"
    )
