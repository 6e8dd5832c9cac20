"""`prepare` under a real mpirun: the same digest as one process, and no rank left waiting when one fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from horovod_asl.store.store import Store
from tests.conftest import write_frames
from tests.launching import BIN, clean_environment, launch, launcher_words

pytestmark = pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun: Open MPI is not installed")

PREPARE = [BIN / "horovod-asl", "prepare", "--no-hands"]


@pytest.fixture(scope="module")
def one_process(frames, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("one") / "store"
    finished = launch([*PREPARE, frames, path, "--workers", "1"], timeout=60)
    assert finished.returncode == 0, finished.output
    return Store.open(path).digest


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_make_the_same_store_as_one_process(frames, tmp_path, one_process, ranks):
    finished = launch([*launcher_words("mpirun", ranks), *PREPARE, frames, tmp_path / "store"], timeout=90)
    assert finished.returncode == 0, finished.output
    assert finished.output.count("232 decoded") == 1
    assert Store.open(tmp_path / "store", verify=True).digest == one_process


def test_ranks_that_cannot_find_hands_say_so_once(frames, tmp_path, one_process):
    command = [*launcher_words("mpirun", 2), BIN / "horovod-asl", "prepare", frames, tmp_path / "store"]
    finished = launch(command, timeout=90, HOROVOD_ASL_HAND_BUNDLE="/nowhere.task")
    assert finished.returncode == 0, finished.output
    assert finished.output.count("no hands are looked for") == 1
    assert Store.open(tmp_path / "store", verify=True).digest == one_process


def test_a_mistake_ends_all_ranks_soon(tmp_path):
    finished = launch([*launcher_words("mpirun", 3), *PREPARE, "/nowhere", tmp_path / "store"], timeout=60)
    assert finished.returncode == 2
    assert "/nowhere does not exist" in finished.output
    assert "Traceback" not in finished.output


def ranks_of(store: Path) -> list[int]:
    """Process ids of the ranks (not of mpirun) that prepare `store`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(store).encode() in words and not words[0].endswith(b"mpirun"):
            found.append(int(process.name))
    return sorted(found)


def test_a_killed_rank_ends_the_job(tmp_path):
    photos = write_frames(tmp_path / "many", per_recording=12)
    store = tmp_path / "store"
    command = [*launcher_words("mpirun", 3), *PREPARE, photos, store, "--image-size", "256"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [str(word) for word in command],
            env=clean_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("store.partial/chunks/*.npy")) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(ranks_of(store)[-1], signal.SIGKILL)
            assert job.wait(30) != 0, (tmp_path / "log").read_text()
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert not store.exists()
