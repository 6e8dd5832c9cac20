"""Training over two hosts, through the launch scripts and ssh; what differs between them; a link that is cut."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.launch.hosts import Hosts
from tests.launch.jobs import running
from tests.launching import BIN, ROOT, launch

pytestmark = [pytest.mark.launch, pytest.mark.timeout(150)]

JOB = ["--epochs", "2", "--batch-size-per-replica", "8", "--threads-per-rank", "1"]
FOR_EVER = ["--epochs", "100000", "--batch-size-per-replica", "8", "--threads-per-rank", "1"]
BOTH = {"HOSTS": "alpha:1,beta:1", "INTERFACE": "eth0"}


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


@pytest.fixture(scope="module")
def on_one_host(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that two ranks of this machine train to."""
    run = tmp_path_factory.mktemp("one-host") / "run"
    finished = launch([ROOT / "launch/mpirun.sh", *JOB, "--store", small_store, "--run-folder", run], NP="2")
    assert finished.returncode == 0, finished.output
    return digest(run)


def network(pid: int) -> Path:
    """What a process on a host has in common with its process 1, and with nothing else."""
    return Path(f"/proc/{pid}/ns/net").readlink()


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        pytest.param("horovodrun.sh", BOTH | {"HOROVODRUN": "--mpi"}, id="horovodrun-mpi"),
        pytest.param("horovodrun.sh", BOTH | {"HOROVODRUN": "--gloo"}, id="horovodrun-gloo"),
        pytest.param("mpirun.sh", BOTH, id="mpirun"),
    ],
)
def test_two_hosts_train_to_the_weights_of_one(
    script: str,
    environment: dict[str, str],
    hosts: Hosts,
    small_store: Path,
    on_one_host: str,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    command = [*hosts.alpha.words(**environment), ROOT / "launch" / script, *JOB, "--store", small_store]
    with running([*command, "--run-folder", run], run) as job:
        job.wait_for("run folder")
        placed = {network(job.rank(number).pid) for number in range(2)}
        assert placed == {network(host.pid) for host in (hosts.alpha, hosts.beta)}
        finished = job.wait(60)
    assert finished.returncode == 0, finished.output
    assert digest(run) == on_one_host
    assert "world_size 2" in finished.output
    assert "cycle_ms 25  yield_when_idle True" in finished.output
    job.require_nothing_left()


@pytest.mark.parametrize("script", ["mpirun.sh", "horovodrun.sh"])
def test_a_hostfile_names_the_hosts_and_their_slots(
    script: str, hosts: Hosts, small_store: Path, on_one_host: str, tmp_path: Path
) -> None:
    hostfile, run = tmp_path / "hostfile", tmp_path / "run"
    hostfile.write_text("alpha slots=1\nbeta slots=1\n")
    words = hosts.alpha.words(HOSTFILE=str(hostfile), INTERFACE="eth0")
    finished = launch([*words, ROOT / "launch" / script, *JOB, "--store", small_store, "--run-folder", run])
    assert finished.returncode == 0, finished.output
    assert digest(run) == on_one_host


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_settings_arrive_at_every_host(launcher: str, hosts: Hosts) -> None:
    """The threads, the yielding and the cycle are chosen inside each rank, so no launcher needs to carry them."""
    words = {
        "mpirun": ["mpirun", "-H", "alpha:1,beta:1", "--bind-to", "none", "-x", "PYTHONPATH", "-x", "PATH"],
        "horovodrun": ["horovodrun", "--mpi", "-np", "2", "-H", "alpha:1,beta:1"],
    }[launcher]
    worker = Path(__file__).with_name("settings_worker.py")
    finished = launch([*hosts.alpha.words(PYTHONPATH=str(ROOT)), *words, BIN / "python", worker], timeout=60)
    threads = len(os.sched_getaffinity(0))
    for rank, host in enumerate(["alpha", "beta"]):
        line = f"rank {rank} on {host}: threads {threads} yields True cycle 25"
        assert line in finished.output, finished.output


@pytest.mark.parametrize("script", ["mpirun.sh", "horovodrun.sh"])
def test_a_store_that_differs_on_one_host_is_refused(
    script: str, hosts: Hosts, small_store: Path, tmp_path: Path
) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    sizes = ["--image-size", "32", "--synthetic-photos", "2", "--synthetic-recordings", "4"]
    prepared = launch([BIN / "horovod-asl", "prepare", "synthetic", other, *sizes, "--seed", "1"])
    assert prepared.returncode == 0, prepared.output
    hosts.beta.mount(other, small_store)
    words = hosts.alpha.words(**BOTH, HOROVODRUN="--gloo")
    command = [*words, ROOT / "launch" / script, *JOB, "--store", small_store, "--run-folder", run]
    finished = launch(command, timeout=60)
    assert finished.returncode != 0
    assert f"the store {small_store} on beta differs from alpha's" in finished.output, finished.output
    assert not (run / "config.yaml").exists()
