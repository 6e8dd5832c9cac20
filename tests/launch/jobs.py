"""A job under a real launcher in the background: read its output, kill or stop parts of it, see what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.launching import ROOT, Finished, clean_environment


@dataclass(frozen=True)
class Job:
    """A launcher that runs. `run_folder` stands in the command line of all that belongs to the job."""

    process: subprocess.Popen[bytes]
    log: Path
    run_folder: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, *, timeout: float = 150) -> None:
        """Wait until the job has printed `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.output():
            assert self.process.poll() is None, f"ended before it printed {text!r}:\n{self.output()[-4000:]}"
            assert time.monotonic() < deadline, f"no {text!r} in {timeout} s:\n{self.output()[-4000:]}"
            time.sleep(0.1)

    def wait(self, timeout: float) -> Finished:
        """Wait until the launcher has ended."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {timeout} s:\n{self.describe()}\n{self.output()[-4000:]}"
            ) from None
        return Finished(code, self.output())

    def processes(self) -> list[psutil.Process]:
        """All that runs and names the run folder: launchers, shells and ranks, on every host."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if str(self.run_folder) in words and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank, on whichever host."""
        names = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "RANK")
        for process in self.processes():
            with suppress(psutil.Error):
                environment = process.environ()
                rank = next((environment[name] for name in names if name in environment), None)
                if rank == str(number) and process.name().startswith("python"):
                    return process
        raise AssertionError(f"no rank {number} in:\n{self.describe()}")

    def require_nothing_left(self, *, within: float = 5) -> None:
        """Fail if a process of the job is alive after `within` seconds."""
        deadline = time.monotonic() + within
        while self.processes():
            assert time.monotonic() < deadline, f"left behind:\n{self.describe()}\n{self.output()[-2000:]}"
            time.sleep(0.1)

    def describe(self) -> str:
        lines = []
        for process in self.processes():
            with suppress(psutil.Error):
                lines.append(
                    f"{process.pid} {process.status()} of {process.ppid()}: {' '.join(process.cmdline())[:150]}"
                )
        return "\n".join(lines)


@contextmanager
def running(command: list[str | Path], run_folder: Path, **extra: str) -> Iterator[Job]:
    """Start `command`, which is to name `run_folder`; at the end all that is left of it is killed."""
    words = [str(word) for word in command]
    descriptor, log = tempfile.mkstemp(prefix="job-", suffix=".log", dir=run_folder.parent)
    with os.fdopen(descriptor, "wb") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=clean_environment(**extra),
            cwd=ROOT,
            start_new_session=True,
        )
    job = Job(process, Path(log), run_folder)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for left in job.processes():
            with suppress(psutil.Error):
                left.kill()
