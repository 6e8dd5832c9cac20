"""launch/slurm.sbatch without SLURM: what it runs, when it returns to the queue. tests/launch has a real cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Stand-ins for mpirun.sh, srun and scontrol that note how they were called."""
    root = tmp_path / "checkout"
    (root / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "slurm.sbatch", root / "launch")
    stand_in(root / "launch" / "mpirun.sh", 'echo "mpirun $NP: $*" >>calls; exit ${CODE:-0}')
    stand_in(root / "bin" / "srun", 'echo "srun: $*" >>calls; exit ${CODE:-0}')
    stand_in(root / "bin" / "scontrol", 'echo "scontrol $*" >>calls')
    stand_in(root / "bin" / "squeue", "date -d '1 hour' +%FT%T")  # when its time is up
    return root


def stand_in(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def start(checkout: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RUN"))}
    kept |= {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    return subprocess.Popen(
        ["bash", "launch/slurm.sbatch", *arguments],
        cwd=checkout,
        env=kept | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"} | variables,
        stdout=subprocess.PIPE,
        text=True,
    )


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


def run(checkout: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    process = start(checkout, *arguments, **variables)
    process.communicate(timeout=30)
    return process.returncode, calls(checkout)


ARRAY = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}


def test_a_job_s_run_folder_bears_its_number(checkout: Path) -> None:
    assert run(checkout, "--epochs", "3") == (0, ["mpirun 2: --run-folder runs/slurm-17 --epochs 3"])


def test_a_folder_that_holds_a_run_is_resumed(checkout: Path) -> None:
    (checkout / "runs" / "slurm-17").mkdir(parents=True)
    assert run(checkout)[1] == ["mpirun 2: --run-folder runs/slurm-17"]  # made, but no run yet
    (checkout / "runs" / "slurm-17" / "config.yaml").touch()
    assert run(checkout, "--epochs", "3")[1][1:] == ["mpirun 2: --resume runs/slurm-17 --epochs 3"]


def test_a_folder_whose_first_stage_has_begun_is_resumed(checkout: Path) -> None:
    (checkout / "runs" / "slurm-17" / "head").mkdir(parents=True)
    (checkout / "runs" / "slurm-17" / "head" / "config.yaml").touch()
    assert run(checkout)[1] == ["mpirun 2: --resume runs/slurm-17"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "--run-folder runs/slurm-17_3 --seed 3"),
        ({"SWEEP": "--learning-rate"}, "--run-folder runs/slurm-17_3 --learning-rate 3"),
        ({"RUN": "runs/mine"}, "--run-folder runs/mine_3 --seed 3"),
    ],
)
def test_each_task_of_an_array_has_its_option_and_its_folder(
    checkout: Path, variables: dict[str, str], words: str
) -> None:
    assert run(checkout, **ARRAY, **variables)[1] == [f"mpirun 2: {words}"]


def test_srun_takes_the_cores_of_a_task_along(checkout: Path) -> None:
    answer = run(checkout, "--epochs", "3", LAUNCHER="srun", SLURM_CPUS_PER_TASK="8")[1]
    words = "--mpi=pmix --cpus-per-task=8 .venv/bin/python train.py --run-folder runs/slurm-17 --epochs 3"
    assert answer == [f"srun: {words}"]


@pytest.mark.parametrize(("variables", "job"), [({}, "17"), (ARRAY, "17_3")])
def test_85_returns_to_the_queue_the_one_task_and_not_its_array(
    checkout: Path, variables: dict[str, str], job: str
) -> None:
    code, called = run(checkout, CODE="85", **variables)
    assert (code, called[1:]) == (0, [f"scontrol requeue {job}"])


def requeues(checkout: Path, script: str, *arguments: str, most: int = 4) -> int:
    """How often a job of this training is put back before it stays out of the queue."""
    stand_in(checkout / "launch" / "mpirun.sh", f"{script}; exit 85")
    stand_in(checkout / "bin" / "scontrol", "exit 0")
    for count in range(most):
        process = start(checkout, *arguments, SLURM_RESTART_COUNT=str(count))
        output = process.communicate(timeout=30)[0]
        if process.returncode != 0:
            assert "came no further: not back to the queue" in output
            return count
    return most


def step(number: str) -> str:
    return f"mkdir -p runs/slurm-17/checkpoints/step-{number}"


def test_a_job_whose_starts_come_to_nothing_is_put_back_once(checkout: Path) -> None:
    assert requeues(checkout, "true") == 1
    assert requeues(checkout, "true") == 1  # submitted again, it has as many tries


def test_a_job_that_comes_further_is_put_back_for_as_long_as_it_does(checkout: Path) -> None:
    assert requeues(checkout, step("00000000$SLURM_RESTART_COUNT")) == 4
    for nothing_if, expected in (("-gt 0", 2), ("= 1", 4)):
        shutil.rmtree(checkout / "runs")
        script = f"[ $SLURM_RESTART_COUNT {nothing_if} ] || {step('00000000$SLURM_RESTART_COUNT')}"
        assert requeues(checkout, script) == expected


@pytest.mark.parametrize(
    ("words", "file"),
    [(["--cache-features", "trunk"], "trunk.last-10.json"), (["--cache-features=trunk"], "trunk.json")],
)
def test_rows_of_cached_features_are_a_step_further(checkout: Path, words: list[str], file: str) -> None:
    assert requeues(checkout, f"echo $SLURM_RESTART_COUNT >{file}", *words) == 4
    shutil.rmtree(checkout / "runs")
    assert requeues(checkout, f"echo 3 >{file}", *words) == 1


def test_where_the_queue_refuses_the_job_fails(checkout: Path) -> None:
    stand_in(checkout / "bin" / "scontrol", "exit 1")
    assert run(checkout, CODE="85")[0] == 1


def test_an_error_is_the_job_s(checkout: Path) -> None:
    code, called = run(checkout, CODE="2")
    assert (code, len(called)) == (2, 1)


@pytest.mark.parametrize(
    ("training", "code", "requeued"),
    [
        ("trap 'sleep 0.3; exit 85' USR1", 0, True),
        ("true", 0, True),  # killed by the signal, before its first step
        ("trap : USR1", 0, True),  # another code than 85, but it was warned
        ("trap 'exit 0' USR1", 0, False),  # its last step was done
    ],
    ids=["saves", "dies", "fails", "ends"],
)
@pytest.mark.parametrize("warnings", [1, 2])
def test_warned_it_waits_for_the_training_to_end(
    checkout: Path, training: str, code: int, requeued: bool, warnings: int
) -> None:
    script = f"{training}; echo started >>calls; for i in $(seq 20); do sleep 0.1; done; exit 7"
    stand_in(checkout / "launch" / "mpirun.sh", script)
    process = start(checkout)
    while not (checkout / "calls").exists():
        time.sleep(0.02)
    for _ in range(warnings):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert (calls(checkout)[1:] == ["scontrol requeue 17"]) == requeued


def test_ranks_that_do_not_stop_before_the_time_is_up_do_not_end_the_job(checkout: Path) -> None:
    stand_in(checkout / "bin" / "squeue", "date -d '17 sec' +%FT%T")
    stand_in(checkout / "launch" / "mpirun.sh", "trap '' USR1; echo started >>calls; exec sleep 4")
    process = start(checkout)
    while not (checkout / "calls").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=30)[0]
    assert "did not stop in time" in output
    assert calls(checkout)[1:] == ["scontrol requeue 17"]  # it trained on, to its end here: SLURM kills it


@pytest.mark.parametrize("answer", ["echo N/A", "exit 1", "true"])
def test_a_job_without_a_limit_has_all_the_time(checkout: Path, answer: str) -> None:
    stand_in(checkout / "bin" / "squeue", answer)
    stand_in(checkout / "launch" / "mpirun.sh", "trap '' USR1; echo started >>calls; exec sleep 1")
    process = start(checkout)
    while not (checkout / "calls").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (process.returncode, calls(checkout)) == (0, ["started"])
