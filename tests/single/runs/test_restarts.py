"""Which run the ranks of a torchrun that restarted them resume; tests/integration has a real torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from horovod_asl.commands.train import _after_a_restart, _config
from horovod_asl.distributed.base import Serial
from horovod_asl.runs import restarts
from horovod_asl.runs.run_folder import RunFolder
from tests.launching import ROOT, clean_environment

SERIAL = Serial(torch.device("cpu"))
MINE = {"host": "alpha", "pid": 17, "started": 1000.0, "job": "none"}


@pytest.fixture(autouse=True)
def under_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(restarts, "_own_agent", lambda: MINE)
    monkeypatch.chdir(tmp_path)


def begun(name: str, trained_by: Any, *flags: str) -> Path:
    """A run folder as it is after the start of `train FLAGS`."""
    folder = RunFolder(Path("runs") / name)
    folder.claim()
    folder.write_facts({"torchrun": trained_by})
    folder.create(replace(_config(flags), run_folder=folder.path))
    return folder.path


def test_a_job_knows_its_own_run() -> None:
    begun("1", None)
    begun("2", [MINE | {"host": "beta"}, MINE])
    begun("3", [MINE | {"started": 5000.0}])  # a later process with the same number
    begun("4", [MINE | {"host": "beta"}])
    assert restarts.run_of_this_job(None, SERIAL) == Path("runs/2")
    assert restarts.run_of_this_job(Path("runs/2"), SERIAL) == Path("runs/2")


def test_the_run_of_an_earlier_job_in_the_same_folder_is_left_alone() -> None:
    """torchrun restarts ranks that were refused as well: their second try must not take the old run over."""
    old = begun("old", [MINE | {"pid": 16}])
    assert restarts.run_of_this_job(old, SERIAL) is None
    config = _config(["--run-folder", str(old)])
    assert _after_a_restart(config, ["--run-folder", str(old)], SERIAL) == config


def test_without_torchrun_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun("1", [MINE])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert restarts.run_of_this_job(run, SERIAL) is None
    assert restarts.agents_of(SERIAL) is None


def test_a_run_goes_on_as_if_resume_were_said() -> None:
    flags = ["--epochs", "7"]
    run = begun("1", [MINE], *flags)
    for words in (flags, [*flags, "--run-folder", str(run)]):
        resumed = _after_a_restart(_config(words), words, SERIAL)
        assert resumed == _config([*words, "--resume", str(run)])
        assert resumed.resume == run


def test_a_start_that_failed_is_tried_again_under_its_name() -> None:
    run = begun("1", [MINE])
    (run / "config.yaml").unlink()
    again = _after_a_restart(_config([]), [], SERIAL)
    assert (again.run_folder, again.resume) == (run, None)


def test_a_script_s_second_training_is_another_run() -> None:
    begun("1", [MINE], "--epochs", "7")
    config = _config(["--seed", "5"])
    assert _after_a_restart(config, ["--seed", "5"], SERIAL) == config


def test_the_agent_is_found_above_a_shell(tmp_path: Path) -> None:
    """torchrun --no-python bash -c …: the agent is the first process above without its job's variables."""
    program = "from horovod_asl.runs.restarts import _own_agent; print(_own_agent()['pid'])"
    shell = ["bash", "-c", f'"{sys.executable}" -c "{program}"; true']
    done = subprocess.run(
        shell,
        env=clean_environment(TORCHELASTIC_RUN_ID="job"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout) == os.getpid()
