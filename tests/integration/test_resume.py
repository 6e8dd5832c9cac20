"""Killed and resumed, a run ends with the weights of an uninterrupted one, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.launching import BIN, ROOT, Finished, clean_environment, launch, launcher_words

# 58 or so training photos in batches of 12 over all ranks: 10 steps an epoch, the last one short.
TRAIN = ["--epochs", "3", "--save-every-steps", "3", "--ema-decay", "0.9", "--learning-rate", "0.02"]


def train_command(store: Path, run: Path, ranks: int, *extra: str) -> list[str | Path]:
    words = ["--store", str(store), "--run-folder", str(run), "--batch-size-per-replica", str(12 // ranks)]
    return [BIN / "python", ROOT / "train.py", *words, *TRAIN, *extra]


def resume_command(run: Path, *extra: str) -> list[str | Path]:
    return [BIN / "python", ROOT / "train.py", "--resume", run, *extra]


def ended(finished: Finished) -> None:
    assert finished.returncode == 0, finished.output[-4000:]


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


def ranks_of(run: Path) -> list[psutil.Process]:
    """The processes whose command line names `run` and that are Python ranks, not their launchers."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if (
            str(run) in words
            and any("train.py" in word for word in words[:3])
            and "RANK" in " ".join(environment)
        ):
            found.append(process)
    return found


def kill_a_rank_when(path_exists: Path, command: list[str | Path], run: Path) -> int:
    """Start `command`, kill one rank with SIGKILL once `path_exists` is there, and return the job's exit code."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=clean_environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not path_exists.exists():
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, f"{path_exists} never came"
            time.sleep(0.02)
        victims = ranks_of(run)
        assert len(victims) == 2
        victims[-1].kill()
        return process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def uninterrupted(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("whole") / "run"
    ended(launch([*launcher_words("mpirun", 2), *train_command(small_store, run, 2)]))
    return digest(run)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "moment", ["config.yaml", "checkpoints/step-000000003", "checkpoints/step-000000020"]
)
def test_a_rank_killed_under_mpirun_then_resumed(
    moment: str, uninterrupted: str, small_store: Path, tmp_path: Path
) -> None:
    """Killed before the first checkpoint, within the first epoch, and within the last."""
    run = tmp_path / "run"
    command = [*launcher_words("mpirun", 2), *train_command(small_store, run, 2)]
    assert kill_a_rank_when(run / moment, command, run) != 0
    assert not (run / "result.json").exists()
    ended(launch([*launcher_words("mpirun", 2), *resume_command(run)]))
    assert digest(run) == uninterrupted
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert len({row["photos"] for row in rows}) == 1  # each epoch saw every photo once, the killed one too


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("launcher", "ranks", "extra"),
    [("gloo", 2, []), ("torchrun", 2, []), ("mpirun", 3, ["--deterministic"])],
)
def test_stopped_in_mid_epoch_and_resumed_under_other_launchers(
    launcher: str, ranks: int, extra: list[str], small_store: Path, tmp_path: Path
) -> None:
    """Two ranks' sums have one order; three ranks' have one where it is asked for."""
    words = launcher_words(launcher, ranks)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    ended(launch([*words, *train_command(small_store, whole, ranks, *extra)]))
    stopped = launch([*words, *train_command(small_store, parted, ranks, *extra, "--stop-after-steps", "14")])
    assert "stopped at step 14" in stopped.output, stopped.output[-3000:]
    ended(launch([*words, *resume_command(parted)]))
    assert digest(parted) == digest(whole)


@pytest.mark.timeout(400)
def test_resumed_on_another_number_of_ranks(small_store: Path, tmp_path: Path) -> None:
    """2 → 3 → 1 ranks: the same global batch, and each photo once per epoch."""
    run = tmp_path / "run"
    launch([*launcher_words("mpirun", 2), *train_command(small_store, run, 2, "--stop-after-steps", "7")])
    launch([*launcher_words("mpirun", 3), *resume_command(run, "--stop-after-steps", "17")])
    ended(launch(resume_command(run)))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [rows[0]["step"] * k for k in (1, 2, 3)]
    assert {row["photos"] for row in rows} == {116}
    assert json.loads((run / "run.json").read_text())["settings"]["global_batch"] == 12


def test_a_damaged_newest_checkpoint_falls_back_loudly(small_store: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    ended(launch(train_command(small_store, whole, 1)))
    launch(train_command(small_store, run, 1, "--stop-after-steps", "14"))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    with (newest / "state.pt").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    resumed = launch(resume_command(run))
    ended(resumed)
    assert "is damaged" in resumed.output
    assert "state.pt" in resumed.output
    assert digest(run) == digest(whole)
