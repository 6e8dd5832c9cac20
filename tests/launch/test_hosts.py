"""Training over two hosts, through the launch scripts and ssh; what differs between them; a link that is cut."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from horovod_asl.runs.run_folder import RunFolder
from tests.launch.hosts import Hosts
from tests.launch.jobs import Job, running
from tests.launching import BIN, ROOT, Finished, launch

pytestmark = [pytest.mark.launch, pytest.mark.timeout(300)]

JOB = ["--epochs", "2", "--batch-size-per-replica", "8", "--threads-per-rank", "1"]
FOR_EVER = ["--epochs", "100000", *JOB[2:], "--stall-timeout-seconds"]
BOTH = {"HOSTS": "alpha:1,beta:1", "INTERFACE": "eth0"}


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


# mpirun's own patience, here 10 + 9 × 1 s in place of the scripts' two minutes.
IMPATIENT = {"OMPI_MCA_oob_tcp_keepalive_time": "10", "OMPI_MCA_oob_tcp_keepalive_intvl": "1"}


@pytest.fixture(scope="module")
def on_one_host(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that two ranks of this machine train to."""
    run = tmp_path_factory.mktemp("one-host") / "run"
    finished = launch([ROOT / "launch/mpirun.sh", *JOB, "--store", small_store, "--run-folder", run], NP="2")
    assert finished.returncode == 0, finished.output
    return digest(run)


@contextmanager
def training(
    script: str, hosts: Hosts, store: Path, run: Path, *, stall_s: int, **environment: str
) -> Iterator[Job]:
    """A rank on each host, in the middle of training; alpha's is rank 0."""
    words = [*hosts.alpha.words(**BOTH, **environment), ROOT / "launch" / script, *FOR_EVER, str(stall_s)]
    with running([*words, "--store", store, "--run-folder", run], run) as job:
        job.wait_for("epoch   1/")
        yield job


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
    settings = RunFolder(run).facts()["settings"]
    expected = {"world_size": 2, "cycle_ms": 25, "yield_when_idle": True}
    assert {name: settings[name] for name in expected} == expected
    job.require_nothing_left()


@pytest.mark.parametrize("script", ["mpirun.sh", pytest.param("horovodrun.sh", marks=pytest.mark.long)])
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


@pytest.mark.parametrize("script", ["mpirun.sh", pytest.param("horovodrun.sh", marks=pytest.mark.long)])
def test_a_store_that_differs_on_one_host_is_refused(
    script: str, hosts: Hosts, small_store: Path, tmp_path: Path
) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    sizes = ["--image-size", "32", "--synthetic-photos", "2", "--synthetic-recordings", "4", "--no-hands"]
    prepared = launch([BIN / "horovod-asl", "prepare", "synthetic", other, *sizes, "--seed", "1"])
    assert prepared.returncode == 0, prepared.output
    hosts.beta.mount(other, small_store)
    words = hosts.alpha.words(**BOTH, HOROVODRUN="--gloo")
    command = [*words, ROOT / "launch" / script, *JOB, "--store", small_store, "--run-folder", run]
    finished = launch(command, timeout=60)
    assert finished.returncode != 0
    assert f"the store {small_store} on beta differs from alpha's" in finished.output, finished.output
    assert not (run / "config.yaml").exists()


def require_named(finished: Finished, kind: str = "error") -> None:
    """Rank 0 has said who keeps it waiting, and in which step."""
    assert finished.returncode != 0
    line = rf"{kind}: rank 0: no progress for \d+ s in step \d+: rank 1 on beta is silent"
    assert re.search(line, finished.output), finished.output[-4000:]


@pytest.mark.parametrize("script", ["horovodrun.sh", "mpirun.sh"])
def test_a_rank_that_is_stopped_on_another_host_ends_the_job(
    script: str, hosts: Hosts, small_store: Path, tmp_path: Path
) -> None:
    with training(script, hosts, small_store, tmp_path / "run", stall_s=20, HOROVODRUN="--gloo") as job:
        job.rank(1).suspend()
        require_named(job.wait(60))
        job.require_nothing_left()


def test_a_cut_link_ends_a_job_under_gloo(hosts: Hosts, small_store: Path, tmp_path: Path) -> None:
    with training(
        "horovodrun.sh", hosts, small_store, tmp_path / "run", stall_s=20, HOROVODRUN="--gloo"
    ) as job:
        hosts.cut()
        require_named(job.wait(60))
        job.require_nothing_left()


@pytest.mark.long
def test_gloo_may_give_up_first_and_the_rank_is_named(
    hosts: Hosts, small_store: Path, tmp_path: Path
) -> None:
    """Gloo waits 30 s for a peer, whatever the program was told."""
    with training(
        "horovodrun.sh", hosts, small_store, tmp_path / "run", stall_s=90, HOROVODRUN="--gloo"
    ) as job:
        hosts.cut()
        require_named(job.wait(60), "warning")
        job.require_nothing_left()


@pytest.mark.parametrize("script", ["mpirun.sh", pytest.param("horovodrun.sh", marks=pytest.mark.long)])
def test_a_cut_link_ends_a_job_under_mpi(
    script: str, hosts: Hosts, small_store: Path, tmp_path: Path
) -> None:
    """A collective that blocks in MPI waits for ever, and so did mpirun for a host that it cannot tell to end."""
    environment = IMPATIENT | {"HOROVODRUN": "--mpi"}
    with training(script, hosts, small_store, tmp_path / "run", stall_s=36, **environment) as job:
        hosts.cut()
        finished = job.wait(60)
        assert "ORTE has lost communication with a remote daemon" in finished.output
        assert "on node beta" in finished.output
        job.require_nothing_left(within=15)  # beta's daemon waits as long, and not a second longer
        require_named(finished, "warning")


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        pytest.param("mpirun.sh", {}, id="mpirun"),
        pytest.param("horovodrun.sh", {"HOROVODRUN": "--gloo"}, id="horovodrun-gloo"),
        pytest.param("horovodrun.sh", {"HOROVODRUN": "--mpi"}, id="horovodrun-mpi"),
    ],
)
def test_nothing_outlives_the_launcher_on_either_host(
    script: str, environment: dict[str, str], hosts: Hosts, small_store: Path, tmp_path: Path
) -> None:
    with training(script, hosts, small_store, tmp_path / "run", stall_s=60, **environment) as job:
        assert {network(job.rank(0).pid), network(job.rank(1).pid)} == {
            network(host.pid) for host in (hosts.alpha, hosts.beta)
        }
        (launcher,) = psutil.Process(job.process.pid).children()  # of nsenter
        launcher.kill()
        job.process.wait()
        job.require_nothing_left(within=5)


def test_torchrun_trains_over_two_hosts(hosts: Hosts, small_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = {"NP": "1", "NNODES": "2", "MASTER": "alpha:29500", "INTERFACE": "eth0"}
    command = [ROOT / "launch/torchrun.sh", *JOB, "--store", small_store, "--run-folder", run]
    with (
        running([*hosts.alpha.words(**environment), *command], run) as first,
        running([*hosts.beta.words(**environment), *command], run) as second,
    ):
        finished = [first.wait(90), second.wait(30)]
    assert [one.returncode for one in finished] == [0, 0], [one.output for one in finished]
    assert (run / "result.json").exists()
    first.require_nothing_left()
