"""A real SLURM cluster of two nodes on this machine, in a folder of its own: munged, slurmctld and two slurmd.

A supervisor process starts it and ends it: when its standard input closes, however the test process went (its
end, Ctrl-C, SIGKILL), it kills what it started and every job's processes, and removes the folder. Processes are
found by the mark that they inherit in their environment, never by a name.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.launching import ROOT, clean_environment, launch

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
MARK = "HOROVOD_ASL_TEST_CLUSTER"

# cred_expire is also how long a requeued job waits before it may start again (120 s by default).
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
TmpFS={folder}/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 Gres=gpu:1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def environment(folder: Path) -> dict[str, str]:
    """What every process of the cluster inherits; nothing of it, nor of Open MPI, is written outside `folder`."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return {
        MARK: str(folder),
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{path}",
        "TMPDIR": str(folder / "tmp"),
        "OMPI_MCA_btl_vader_backing_directory": str(folder / "tmp"),
    }


# ---- the supervisor ------------------------------------------------------------------------------------------


def supervise(folder: Path) -> None:
    """Start the cluster in `folder`, say `ready` or what went wrong, wait for the end of the input, end it all."""
    try:
        _write_configuration(folder)
        variables = clean_environment(**environment(folder))
        _start(folder, variables)
        print("ready", flush=True)
        sys.stdin.read()
    except Exception as error:
        print(f"{error}\n{_logs(folder)}", flush=True)
    finally:
        for _ in range(20):
            if not _kill_marked(folder):
                break
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def _write_configuration(folder: Path) -> None:
    for name in ("state", "spool-n1", "spool-n2", "tmp", "tmp-n1", "tmp-n2"):
        (folder / name).mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    text = CONFIG.format(
        folder=folder, host=socket.gethostname().split(".")[0], user=getpass.getuser(), ports=_free_ports(3)
    )
    (folder / "slurm.conf").write_text(text)
    # Counted, not there: for the script's options.
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(folder: Path, variables: dict[str, str]) -> None:
    files = {"--key-file": "munge.key", "--socket": "munge.socket", "--pid-file": "munge.pid"}
    files |= {"--log-file": "munge.log", "--seed-file": "munge.seed"}
    munge = ["munged", "--foreground", *(f"{option}={folder / name}" for option, name in files.items())]
    _daemon(munge, folder, variables)
    _wait_until(lambda: (folder / "munge.socket").exists(), "munged made no socket")
    daemons = [_daemon(["slurmctld", "-D", "-c"], folder, variables)]
    daemons += [_daemon(["slurmd", "-D", "-N", node], folder, variables) for node in ("n1", "n2")]

    def idle() -> bool:
        for daemon in daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args} ended with {daemon.returncode}")
        command = ["sinfo", "--noheader", "--Node", "--format=%T"]
        answer = subprocess.run(command, env=variables, capture_output=True, text=True)
        return answer.stdout.split() == ["idle", "idle"]

    _wait_until(idle, "the nodes did not come up")


def _daemon(command: list[str], folder: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "daemons.log").open("ab") as log:
        return subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
        )


def _wait_until(condition, fault: str, timeout: float = 60) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(fault)
        time.sleep(0.2)


def marked(folder: Path) -> list[psutil.Process]:
    """The cluster's processes but this one: by its mark, or by their working folder (slurmstepd erases the mark)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get(MARK) == str(folder) or process.cwd().startswith(str(folder))
            if ours and process.pid != os.getpid():
                found.append(process)
    return found


def _kill_marked(folder: Path) -> bool:
    found = marked(folder)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=2)
    return bool(found)


def _logs(folder: Path) -> str:
    return "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in sorted(folder.glob("*.log")))


# ---- the tests' side -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What `scontrol show job` says of a job."""

    state: str
    restarts: int
    reason: str
    text: str


@dataclass
class Cluster:
    """A running cluster; `close` ends it, and so does the end of this process."""

    folder: Path
    supervisor: subprocess.Popen[str]

    @classmethod
    def start(cls) -> Cluster:
        search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
        assert not missing, f"{', '.join(missing)} not found: run `make setup-launch`"
        folder = Path(tempfile.mkdtemp(prefix="asl-slurm-", dir="/tmp"))  # a socket's path must be short
        folder.chmod(0o755)
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "tests.launch.slurm_cluster", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is the test's, and ends the supervisor by its closed input
        )
        assert supervisor.stdout is not None
        cluster = cls(folder, supervisor)
        answer = supervisor.stdout.readline().strip()
        if answer != "ready":
            answer += supervisor.stdout.read()
            cluster.close()
            raise AssertionError(f"no SLURM cluster: {answer}")
        return cluster

    def close(self) -> None:
        """End the cluster and every job's processes, and remove the folder."""
        assert self.supervisor.stdin is not None
        self.supervisor.stdin.close()
        self.supervisor.wait(60)

    def run(self, *command: str | Path) -> str:
        """The output of a SLURM command; it must succeed."""
        finished = launch(list(command), timeout=60, **environment(self.folder))
        assert finished.returncode == 0, f"{command}: {finished.output}\n{_logs(self.folder)}"
        return finished.output

    def submit(self, *words: str | Path, cwd: Path, **variables: str) -> str:
        """`sbatch --parsable WORDS…` in `cwd`, with more environment; the job's id."""
        command = ["sbatch", "--parsable", *words]
        finished = launch(command, timeout=60, cwd=cwd, **environment(self.folder) | variables)
        assert finished.returncode == 0, finished.output
        return finished.output.strip().splitlines()[-1]

    def job(self, job: str) -> Job:
        """The state of a job, or of an array's task (`12_3`)."""
        text = self.run("scontrol", "show", "job", "--oneliner", job)

        def field(name: str) -> str:
            found = re.search(rf"\b{name}=(\S+)", text)
            assert found, f"no {name} in {text}"
            return found[1]

        return Job(field("JobState"), int(field("Restarts")), field("Reason"), text)

    def wait(self, job: str, *, timeout: float) -> Job:
        """Wait until the job has ended for good."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.job(job)
            if found.state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"):
                return found
            assert time.monotonic() < deadline, f"still {found.state} after {timeout} s: {found.text}"
            time.sleep(0.5)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]))
