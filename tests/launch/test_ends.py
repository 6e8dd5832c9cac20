"""How a job ends that does not finish: its launcher is killed, a rank stops. Soon, with a reason, and whole."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launch.jobs import Job, running
from tests.launching import BIN, ROOT, launcher_words

pytestmark = [pytest.mark.launch, pytest.mark.timeout(300)]

FOR_EVER = ["--epochs", "100000", "--batch-size-per-replica", "8"]
STALL_S = 20  # less, and a busy machine is taken for a stalled one


@contextmanager
def training(launcher: str, store: Path, run: Path, stall_s: int = 180) -> Iterator[Job]:
    """Two ranks of this machine, in the middle of training."""
    words = [*launcher_words(launcher, 2), BIN / "python", ROOT / "train.py", *FOR_EVER, "--store", store]
    with running([*words, "--run-folder", run, "--stall-timeout-seconds", str(stall_s)], run) as job:
        job.wait_for("epoch   1/")
        yield job


@pytest.mark.parametrize("launcher", ["mpirun", "mpi", "gloo", "torchrun"])
def test_nothing_outlives_a_launcher_that_is_killed(launcher: str, small_store: Path, tmp_path: Path) -> None:
    with training(launcher, small_store, tmp_path / "run") as job:
        assert len(job.processes()) >= 3, job.describe()
        job.process.send_signal(signal.SIGKILL)
        job.process.wait()
        job.require_nothing_left(within=5)


@pytest.mark.parametrize(
    ("launcher", "stalled"),
    [
        ("mpirun", 0),
        ("gloo", 1),
        pytest.param("mpirun", 1, marks=pytest.mark.long),
        pytest.param("gloo", 0, marks=pytest.mark.long),
        pytest.param("torchrun", 0, marks=pytest.mark.long),
        pytest.param("torchrun", 1, marks=pytest.mark.long),
    ],
)
def test_a_stalled_rank_ends_the_job_and_is_named(
    launcher: str, stalled: int, small_store: Path, tmp_path: Path
) -> None:
    with training(launcher, small_store, tmp_path / "run", STALL_S) as job:
        job.rank(stalled).suspend()
        started = time.monotonic()
        finished = job.wait(80)  # torchrun gives the stopped one 30 s to go by itself
        assert finished.returncode != 0
        reasons = [line for line in finished.output.splitlines() if "error: rank" in line]
        assert any(
            f"rank {stalled} " in line.split("no progress")[-1] and "step" in line for line in reasons
        ), finished.output[-4000:]
        assert time.monotonic() - started >= STALL_S - 1
        job.require_nothing_left()
