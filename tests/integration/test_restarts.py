"""torchrun starts its ranks anew when one is killed: they resume their own run, and end with the same weights."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.launching import ROOT, clean_environment, launch, launcher_words, ok

# 116 photos in batches of 2 × 6: 10 steps an epoch.
TRAIN = ["--epochs", "2", "--save-every-steps", "3", "--ema-decay", "0.9", "--batch-size-per-replica", "6"]


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


def kill_rank(number: str, torchrun: subprocess.Popen[str]) -> None:
    for process in psutil.Process(torchrun.pid).children(recursive=True):
        if process.environ().get("RANK") == number:
            return process.kill()
    raise AssertionError(f"no rank {number}")


def until_saved(step: int, runs: Path, torchrun: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 100
    while not list(runs.glob(f"*/checkpoints/step-{step:09d}")):
        assert torchrun.poll() is None, torchrun.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.launch
@pytest.mark.timeout(300)
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(small_store: Path, tmp_path: Path) -> None:
    """Without --run-folder: the ranks that are started anew find the folder that the first ones chose."""
    words = [ROOT / "train.py", "--store", small_store, *TRAIN]
    ok(launch([*launcher_words("torchrun", 2), "python", *words, "--run-folder", tmp_path / "whole"]))
    torchrun = subprocess.Popen(
        ["torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2", *map(str, words)],
        env=clean_environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until_saved(random.choice([3, 6, 9]), tmp_path / "runs", torchrun)
        kill_rank(random.choice("01"), torchrun)
        output = torchrun.communicate(timeout=120)[0]
    finally:
        if torchrun.poll() is None:
            os.killpg(torchrun.pid, signal.SIGKILL)
    assert torchrun.returncode == 0, output[-4000:]
    [run] = (tmp_path / "runs").iterdir()
    assert f"torchrun restarted the ranks (restart 1): resuming runs/{run.name}" in output
    began = [int(step) for step in re.findall(r"run folder \S+, from step (\d+) of 20", output)]
    assert began[0] == 0
    assert began[1] >= 3
    assert digest(run) == digest(tmp_path / "whole")
