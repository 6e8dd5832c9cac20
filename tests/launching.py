"""Start real launchers from tests: bounded in time, whole process group ended, output kept for the failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# What a launcher sets for its ranks must not leak from the shell that runs the tests.
_LEAKS = (
    "OMPI_",
    "PMIX_",
    "PMI_",
    "HOROVOD_RANK",
    "HOROVOD_SIZE",
    "SLURM_",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_",
)


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and its whole output."""

    returncode: int
    output: str


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without a launcher's variables, this environment's programs first on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEAKS)}
    path = f"{BIN}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} | extra


def launch(
    command: list[str | Path], *, timeout: float = 150, cwd: Path | None = None, **extra: str
) -> Finished:
    """Run `command` to its end; after `timeout` seconds its process group is killed and the test fails."""
    # Ranks may cut each other's characters in two.
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=clean_environment(**extra),
            cwd=cwd or ROOT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.seek(0)
            raise AssertionError(
                f"still running after {timeout} s: {command}\n{log.read()[-4000:]}"
            ) from None
        log.seek(0)
        return Finished(process.returncode, log.read())


def ok(finished: Finished) -> str:
    """The output of a command that must have succeeded."""
    assert finished.returncode == 0, finished.output[-4000:]
    return finished.output


def launcher_words(name: str, ranks: int) -> list[str]:
    """The words before a program that start it on `ranks` ranks: `serial`, `mpi`, `gloo`, `mpirun` or `torchrun`."""
    if name == "serial":
        return []
    if name in ("mpi", "gloo"):
        return ["horovodrun", f"--{name}", "-np", str(ranks)]
    if name == "mpirun":
        return ["mpirun", "--bind-to", "none", "--oversubscribe", "-np", str(ranks)]
    return ["torchrun", "--standalone", "--nproc-per-node", str(ranks), "--no-python"]
