"""Sides of a comparison: processes that each do a piece of work and print what it took, run in turns.

A side prints, as its last line, a JSON object such as `{"seconds": 1.25, "photos": 10005}`; a `time_s`, the time
of day at which it came to some point, is turned into `reached_seconds`, since its start. Each round starts it
anew, so that nothing of one side (memory that is kept, threads, what is cached) is there for the other; the
machine's speed may drift in the course of a benchmark, and drifts for both. The figures are medians over rounds.

Where other processes use the cores too, nothing is reported: a median does not mend that.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from horovod_asl.errors import UserError
from horovod_asl.system.cores import allowed_cores

BUSY_SHARE = 0.12
"""The share of the cores that others may use: what a quiet machine's own services take, and timer noise."""

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37  # from <sys/prctl.h>

_CHECKOUT = Path(__file__).resolve().parents[1]

Answer = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One side: the commands that it consists of, started together; several are independent processes.

    `answers`: the commands print a JSON object; else their wall time is all that is known of them.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    answers: bool = True


@dataclass(frozen=True)
class Measured:
    """What a side printed in each round; its own wall time is there as `wall_seconds`."""

    name: str
    rounds: tuple[Answer, ...]

    def median(self, key: str) -> float:
        """The median over rounds of a number that the side prints."""
        return median(float(answer[key]) for answer in self.rounds)

    def values(self, key: str) -> list[float]:
        """The number in each round."""
        return [float(answer[key]) for answer in self.rounds]


def side(name: str, *command: object, answers: bool = True) -> Side:
    """A side of one command."""
    return Side(name, (tuple(str(word) for word in command),), answers)


def take_turns(
    sides: Sequence[Side],
    *,
    rounds: int,
    timeout_seconds: float = 1800,
    say: Callable[[str], None] = lambda line: None,
    quiet: Quiet | None = None,
) -> dict[str, Measured]:
    """Run every side once per round, in turns, the order reversed in every other round.

    Raises:
        UserError: a side failed, or the machine was busy.
    """
    answers: dict[str, list[Answer]] = {one.name: [] for one in sides}
    for number in range(rounds):
        for one in sides if number % 2 == 0 else list(reversed(sides)):
            say(f"round {number + 1} of {rounds}: {one.name}")
            answers[one.name].append(_undisturbed(one, timeout_seconds, quiet or Quiet()))
    return {name: Measured(name, tuple(rows)) for name, rows in answers.items()}


def run_side(one: Side, timeout_seconds: float) -> Answer:
    """Run a side to its end; what its last line says, the mean of each number where it is several processes."""
    started, started_at = time.perf_counter(), time.time()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(number) for number in range(len(one.commands))]
        running = [_start(command, log) for command, log in zip(one.commands, logs, strict=True)]
        try:
            for process in running:
                process.wait(max(0.1, started + timeout_seconds - time.perf_counter()))
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{one.name} was still running after {timeout_seconds:.0f} s") from error
        finally:
            for process in running:
                _end(process)
        answers = [_answer(one, process, log) for process, log in zip(running, logs, strict=True)]
    means = {key: sum(answer[key] for answer in answers) / len(answers) for key in _numbers(answers[0])}
    if "time_s" in means:
        means["reached_seconds"] = means["time_s"] - started_at
    return answers[0] | means | {"wall_seconds": time.perf_counter() - started}


class Quiet:
    """Watches what other processes take of the cores."""

    def __init__(self, busy_share: float = BUSY_SHARE) -> None:
        self.busy_share = busy_share

    def require(self, seconds: float = 2.0) -> None:
        """UserError where others are at work now, before anything is measured."""
        before = _busy_seconds()
        time.sleep(seconds)
        share = (_busy_seconds() - before) / (seconds * len(allowed_cores()))
        if share > self.busy_share:
            raise UserError(
                f"other processes use {share:.0%} of the cores: nothing can be measured so; end them, or wait"
            )

    def others(self, work: Callable[[], Answer]) -> tuple[Answer, float]:
        """`work`'s answer with its processes' `core_seconds`, and the share of the cores that others took."""
        with _adopted_orphans():
            before, own_before, started = _busy_seconds(), _own_seconds(), time.perf_counter()
            answer = work()
        seconds, own = time.perf_counter() - started, _own_seconds() - own_before
        foreign = _busy_seconds() - before - own
        return answer | {"core_seconds": own}, max(0.0, foreign) / (seconds * len(allowed_cores()))


def _undisturbed(one: Side, timeout_seconds: float, quiet: Quiet) -> Answer:
    """A side's answer from a round in which others left the cores alone; three tries."""
    for _ in range(3):
        answer, share = quiet.others(lambda: run_side(one, timeout_seconds))
        if share <= quiet.busy_share:
            return answer
    raise UserError(
        f"other processes used {share:.0%} of the cores while {one.name} ran, three times over: nothing is "
        "reported; end them, or wait"
    )


def _busy_seconds() -> float:
    """Processor time that the cores which this process may use have spent on anything."""
    every, usable = psutil.cpu_times(percpu=True), allowed_cores()
    cores = [times for number, times in enumerate(every) if number in usable]
    return float(sum(sum(times) - times.idle - times.iowait - times.guest for times in cores))


def _own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextlib.contextmanager
def _adopted_orphans() -> Iterator[None]:
    """Inside, processes whose parent ends become this one's children, so that their time is known.

    Linux calls it a subreaper. One that goes on for ever must wait for strangers' children, or they stay zombies.
    """
    prctl, known, before = ctypes.CDLL(None).prctl, _children(), ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        _wait_for_orphans(known)
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _wait_for_orphans(known: set[int], timeout_seconds: float = 10.0) -> None:
    """Servers of processes and launchers' daemons end a moment after those they serve; `known` were there before."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline and (orphans := _children() - known):
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _start(command: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    """Without GPUs, for the peers compute on the CPU; every side imports this checkout, from any working folder."""
    path = os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answer(one: Side, process: subprocess.Popen[bytes], log: Path) -> Answer:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if process.returncode == 0:
        if not one.answers:
            return {}
        for line in reversed(lines):  # a launcher puts the rank before it
            with contextlib.suppress(ValueError):
                answer: Answer = json.JSONDecoder().raw_decode(line[line.index("{") :])[0]
                return answer
    reason = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    raise UserError(f"{one.name} failed with exit code {process.returncode}: {reason}")


def _numbers(answer: Answer) -> list[str]:
    return [key for key, value in answer.items() if isinstance(value, (int, float))]
