"""launch/slurm.sbatch on a real SLURM cluster of two nodes: preempted, it comes back by itself and ends the same."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launch.slurm_cluster import Cluster, Job, environment, marked
from tests.launching import ROOT, clean_environment

pytestmark = [pytest.mark.launch, pytest.mark.timeout(600)]

SCRIPT = "launch/slurm.sbatch"
# 116 photos in batches of 2 × 6: 10 steps an epoch.
TRAIN = ["--epochs", "12", "--batch-size-per-replica", "6", "--save-every-steps", "6", "--ema-decay", "0.9"]
TRAIN += ["--threads-per-rank", "1"]  # the two nodes are one machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    running = Cluster.start()
    yield running
    running.close()
    assert not running.folder.exists()
    assert marked(running.folder) == []


def new_checkout(folder: Path) -> Path:
    """This checkout under another name: a job's log and run folder land in `folder`, as a user's in theirs."""
    folder.mkdir()
    for name in ("launch", "train.py", "horovod_asl", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return new_checkout(tmp_path / "checkout")


def log(checkout: Path, job: str) -> str:
    file = checkout / f"slurm-{job}.out"
    return file.read_text() if file.exists() else ""


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


def steps_saved(run: Path) -> int:
    return max((int(path.name[-9:]) for path in run.glob("checkpoints/step-?????????")), default=0)


def ranks(cluster: Cluster) -> list[psutil.Process]:
    """The Python processes of running ranks."""
    found = []
    for process in marked(cluster.folder):
        words = process.cmdline()
        if len(words) > 1 and Path(words[0]).name.startswith("python") and Path(words[1]).name == "train.py":
            found.append(process)
    return found


def until(condition: Callable[[], bool], timeout: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what()}"
        time.sleep(0.1)


def in_mid_training(cluster: Cluster, checkout: Path, job: str) -> Path:
    """Wait for the first checkpoint; the run folder."""
    run = checkout / "runs" / f"slurm-{job}"

    def begun() -> bool:
        assert cluster.job(job).state in ("PENDING", "RUNNING"), log(checkout, job)[-4000:]
        return steps_saved(run) > 0

    until(begun, 150, lambda: cluster.job(job).text + log(checkout, job)[-3000:])
    return run


def completed(cluster: Cluster, checkout: Path, job: str, timeout: float = 300) -> Job:
    found = cluster.wait(job, timeout=timeout)
    assert found.state == "COMPLETED", found.text + log(checkout, job)[-4000:]
    return found


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a job that nobody disturbed, which had one rank on each node."""
    checkout = new_checkout(tmp_path_factory.mktemp("whole") / "checkout")
    job = cluster.submit("--gres=gpu:1", SCRIPT, "--store", small_store, *TRAIN, cwd=checkout)
    run = in_mid_training(cluster, checkout, job)
    places = {(p.environ()["SLURMD_NODENAME"], p.environ()["OMPI_COMM_WORLD_RANK"]) for p in ranks(cluster)}
    assert places == {("n1", "0"), ("n2", "1")}
    assert completed(cluster, checkout, job).restarts == 0
    assert (run / "report.html").exists()
    assert f"start 1 on n[1-2], 2 ranks: train --run-folder runs/slurm-{job}" in log(checkout, job)
    assert json.loads((run / "run.json").read_text())["settings"]["controller"] == "mpi"
    return digest(run)


def test_a_job_trains_on_both_nodes(uninterrupted: str) -> None:
    assert len(uninterrupted) == 64


def test_warned_it_saves_returns_to_the_queue_and_ends_with_the_same_weights(
    cluster: Cluster, uninterrupted: str, small_store: Path, checkout: Path
) -> None:
    job = cluster.submit(SCRIPT, "--store", small_store, *TRAIN, cwd=checkout)
    run = in_mid_training(cluster, checkout, job)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: "back to the queue" in log(checkout, job), 60, lambda: log(checkout, job)[-4000:])
    stopped_at = steps_saved(run)
    assert completed(cluster, checkout, job).restarts == 1
    text = log(checkout, job)
    assert "stopped with code 85; back to the queue" in text
    assert f"start 2 on n[1-2], 2 ranks: train --resume runs/slurm-{job}" in text
    assert f"from step {stopped_at} of 120" in text  # nothing was done twice
    assert digest(run) == uninterrupted


def test_requeued_by_others_it_goes_on_from_its_last_checkpoint(
    cluster: Cluster, uninterrupted: str, small_store: Path, checkout: Path
) -> None:
    job = cluster.submit(SCRIPT, "--store", small_store, *TRAIN, cwd=checkout)
    run = in_mid_training(cluster, checkout, job)
    cluster.run("scontrol", "requeue", job)
    assert completed(cluster, checkout, job).restarts == 1
    assert "start 2" in log(checkout, job)
    assert "back to the queue" not in log(checkout, job)
    assert digest(run) == uninterrupted


@pytest.mark.long
def test_warned_of_its_time_limit_by_slurm(
    cluster: Cluster, uninterrupted: str, small_store: Path, checkout: Path
) -> None:
    """SLURM looks at limits every 30 s: the warning comes 30 to 60 s after the start. Slow steps outlast it."""
    job = cluster.submit(
        *("--time=2", "--signal=B:USR1@60", SCRIPT, "--store", small_store, *TRAIN),
        cwd=checkout,
        HOROVOD_CYCLE_TIME="400",
    )
    until(lambda: "back to the queue" in log(checkout, job), 120, lambda: log(checkout, job)[-4000:])
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # once is enough
    assert completed(cluster, checkout, job).restarts == 1
    assert "stopped with code 85; back to the queue" in log(checkout, job)
    assert digest(checkout / "runs" / f"slurm-{job}") == uninterrupted


@pytest.mark.long
def test_ranks_that_do_not_stop_in_time_do_not_end_the_job(cluster: Cluster, checkout: Path) -> None:
    """A stand-in that does not heed the warning, and ends at once when it is started again."""
    (checkout / "launch").unlink()
    (checkout / "launch").mkdir()
    (checkout / SCRIPT).symlink_to(ROOT / SCRIPT)
    stand_in = checkout / "launch" / "mpirun.sh"
    stand_in.write_text('#!/bin/bash\ntrap "" USR1\n[ -n "${SLURM_RESTART_COUNT:-}" ] || exec sleep 300\n')
    stand_in.chmod(0o755)
    job = cluster.submit("--time=1", "--signal=B:USR1@30", SCRIPT, cwd=checkout)
    assert completed(cluster, checkout, job).restarts == 1
    assert "did not stop in time" in log(checkout, job)


@pytest.mark.long
def test_under_srun_too(cluster: Cluster, uninterrupted: str, small_store: Path, checkout: Path) -> None:
    job = cluster.submit(SCRIPT, "--store", small_store, *TRAIN, cwd=checkout, LAUNCHER="srun")
    run = in_mid_training(cluster, checkout, job)
    environments = [process.environ() for process in ranks(cluster)]
    assert {(e["SLURMD_NODENAME"], e["PMIX_RANK"]) for e in environments} == {("n1", "0"), ("n2", "1")}
    assert json.loads((run / "run.json").read_text())["settings"]["controller"] == "mpi"
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    assert completed(cluster, checkout, job).restarts == 1
    assert "stopped with code 85; back to the queue" in log(checkout, job)
    assert digest(run) == uninterrupted


@pytest.mark.long
def test_an_array_is_a_sweep_and_only_the_warned_task_returns(
    cluster: Cluster, uninterrupted: str, small_store: Path, checkout: Path
) -> None:
    """Two seeds side by side, each on two ranks of one node; seed 0 is the run of the other tests."""
    shape = ("--array=0-1", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1")
    array = cluster.submit(*shape, SCRIPT, "--store", small_store, *TRAIN, cwd=checkout)
    run = in_mid_training(cluster, checkout, f"{array}_1")
    cluster.run("scancel", "--signal=USR1", "--batch", f"{array}_1")
    assert completed(cluster, checkout, f"{array}_0").restarts == 0
    assert completed(cluster, checkout, f"{array}_1").restarts == 1
    assert cluster.job(f"{array}_0").state == "COMPLETED"
    digests = [digest(checkout / "runs" / f"slurm-{array}_{task}") for task in (0, 1)]
    assert digests[0] == uninterrupted
    assert digests[1] != uninterrupted
    assert "seed: 1" in (run / "config.yaml").read_text()


# As most sites teach DistributedDataParallel, but for the name of the first node, which is no host here.
SITE = """#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
export MASTER_PORT=$(expr 10000 + $(echo -n $SLURM_JOBID | tail -c 4) + {port})
export WORLD_SIZE={world_size}
export MASTER_ADDR=localhost
srun {python}train.py --store {store} --run-folder run --epochs 1 --batch-size-per-replica 8 --device cpu{end}
"""
WHOLE_WORLD = "$(($SLURM_NNODES * $SLURM_NTASKS_PER_NODE))"


@pytest.mark.parametrize(
    ("python", "end"),
    [
        (".venv/bin/python ", ""),
        pytest.param(
            "bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID .venv/bin/python ", "'", marks=pytest.mark.long
        ),
    ],
)
def test_torch_s_variables_exported_for_srun(
    python: str, end: str, cluster: Cluster, small_store: Path, checkout: Path
) -> None:
    text = SITE.format(port=os.getpid() % 10000, world_size=WHOLE_WORLD, python=python, store=small_store, end=end)
    (checkout / "site.sbatch").write_text(text)
    job = cluster.submit("site.sbatch", cwd=checkout)
    completed(cluster, checkout, job)
    settings = json.loads((checkout / "run" / "run.json").read_text())["settings"]
    assert (settings["backend"], settings["world_size"]) == ("ddp", 2)


def test_a_world_size_that_is_not_the_step_s_fails_the_job(
    cluster: Cluster, small_store: Path, checkout: Path
) -> None:
    text = SITE.format(port=1, world_size=4, python=".venv/bin/python ", store=small_store, end="")
    (checkout / "site.sbatch").write_text(text)
    job = cluster.submit("site.sbatch", cwd=checkout)
    assert cluster.wait(job, timeout=60).state == "FAILED"
    for rank in (0, 1):
        assert f"error: rank {rank}: WORLD_SIZE=4, but srun started 2 processes" in log(checkout, job)


def test_the_shell_of_an_interactive_step_says_for_whom_it_waits(
    cluster: Cluster, small_store: Path, checkout: Path
) -> None:
    """`srun --pty -n2 bash` starts two shells, and only the first has the terminal in which python is started."""
    words = ["srun", "--pty", "--nodes=1", "--ntasks=2", "bash", "--norc"]
    began = time.monotonic()
    shell = subprocess.Popen(
        ["script", "--quiet", "--return", "--command", shlex.join(words), "/dev/null"],
        cwd=checkout,
        env=clean_environment(**environment(cluster.folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    command = [".venv/bin/python", "train.py", "--store", small_store, "--run-folder", "run"]
    shell.stdin.write(shlex.join(map(str, command)) + "\n")
    shell.stdin.flush()
    try:
        line = next(line for line in shell.stdout if "waiting for" in line)
    finally:
        cluster.run("scancel", "--user", getpass.getuser())
        shell.kill()
        shell.wait()
    assert re.search(r"waiting for rank 1 of 2 of SLURM step \d+\.0\. In a shell of `srun --pty -n2`", line), line
    assert "leave the shell and start with `srun -n2 python" in line
    assert time.monotonic() - began < 40  # 30 and the start of the step


def test_a_mistake_fails_the_job_and_does_not_return(cluster: Cluster, checkout: Path) -> None:
    job = cluster.submit(SCRIPT, "--store", "nowhere", cwd=checkout)
    found = cluster.wait(job, timeout=100)
    assert (found.state, found.restarts) == ("FAILED", 0)
    assert "no store at nowhere" in log(checkout, job)


def test_a_killed_test_leaves_no_cluster_behind() -> None:
    """SIGKILL, which runs no finalizer, while a job is running on both nodes."""
    program = """
from pathlib import Path
from tests.launch.slurm_cluster import Cluster
cluster = Cluster.start()
job = cluster.submit("--nodes=2", "--output=/dev/null", "--wrap=srun sleep 600", cwd=cluster.folder)
while "sleep" not in [p.name() for p in __import__("tests").launch.slurm_cluster.marked(cluster.folder)]: pass
print(cluster.folder, flush=True)
cluster.supervisor.wait()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    assert {"slurmctld", "slurmd", "munged", "slurmstepd", "sleep"} <= {
        process.name() for process in marked(folder)
    }
    child.kill()
    child.wait()
    until(
        lambda: not marked(folder) and not folder.exists(), 10, lambda: f"{marked(folder)} {folder.exists()}"
    )
