"""Ranks that come and go under horovodrun: a ledger of the photos that each step saw is the judge.

The "hosts" are three names of this machine; Horovod starts ranks on them without ssh, and lists a host whose
rank failed as unusable, as it would a machine.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.launch.jobs import Job, running
from tests.launching import ROOT

pytestmark = [pytest.mark.launch, pytest.mark.timeout(280)]

EPOCHS, COMMIT_EVERY, BATCH, PHOTOS = 4, 3, 4, 116
Line = dict[str, Any]


def command(store: Path, run: Path) -> list[str | Path]:
    words: list[str | Path] = [
        ROOT / "launch" / "elastic.sh",
        "--store",
        store,
        "--run-folder",
        run,
        "--ledger",
    ]
    words += ["--epochs", str(EPOCHS), "--commit-every-steps", str(COMMIT_EVERY)]
    return [*words, "--batch-size-per-replica", str(BATCH), "--threads-per-rank", "1"]


def environment(hosts: Path) -> dict[str, str]:
    return {"NP": "2", "MAX_NP": "3", "HOSTFILE": str(hosts), "INTERFACE": "lo"}


def ledger(run: Path) -> list[Line]:
    """All lines of all processes, in the order of time; a line that is being written is left out."""
    lines: list[Line] = []
    for file in (run / "ledger").glob("*.jsonl"):
        lines += [
            json.loads(text) for text in file.read_text().splitlines(keepends=True) if text.endswith("\n")
        ]
    return sorted(lines, key=lambda line: float(line["time_s"]))


def kept(lines: list[Line]) -> tuple[list[Line], list[int]]:
    """What the weights at the end have seen, and how many steps each change of ranks cost."""
    attempt, standing, costs = None, list[Line](), list[int]()
    for line in lines:
        key = (line["world_size"], line["began_at_step"])
        if key != attempt:
            lost = {other["step"] for other in standing if other["step"] >= line["began_at_step"]}
            costs += [len(lost)] if attempt is not None else []
            standing = [other for other in standing if other["step"] < line["began_at_step"]]
            attempt = key
        standing.append(line)
    return standing, costs


def require_each_photo_once_per_epoch(run: Path) -> list[int]:
    standing, costs = kept(ledger(run))
    for epoch in range(EPOCHS):
        seen = Counter(photo for line in standing if line["epoch"] == epoch for photo in line["photos"])
        assert seen == Counter(range(PHOTOS)), f"epoch {epoch}"
    return costs


def require_whole_run(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert {row["photos"] for row in rows} == {PHOTOS}
    assert "scores" in json.loads((run / "result.json").read_text())
    assert (run / "report.html").stat().st_size > 0


def rank_of(job: Job, host: str) -> psutil.Process:
    """The rank on one of the three names."""
    for process in job.processes():
        if process.name().startswith("python") and process.environ().get("HOROVOD_HOSTNAME") == host:
            return process
    raise AssertionError(f"no rank on {host} in:\n{job.describe()}")


def wait_until(happened: Callable[[], bool], job: Job, *, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert job.process.poll() is None, job.output()[-4000:]
        assert time.monotonic() < deadline, job.output()[-4000:]
        time.sleep(0.02)


def at_step(run: Path, step: int) -> Callable[[], bool]:
    return lambda: (run / "ledger").is_dir() and any(line["step"] >= step for line in ledger(run))


def steps_of(run: Path, *, world_size: int) -> int:
    return len({line["step"] for line in ledger(run) if line["world_size"] == world_size})


def at_end_of_epoch(run: Path, epoch: int) -> Callable[[], bool]:
    """While it is scored and saved: all its photos were given out, and the line of its scores is not there."""
    return lambda: (
        (run / "ledger").is_dir()
        and sum(len(line["photos"]) for line in ledger(run) if line["epoch"] == epoch) >= PHOTOS
    )


STEPS_PER_EPOCH = -(-PHOTOS // (2 * BATCH))


@pytest.mark.parametrize(
    ("phase", "victim"),
    [
        ("in the first epoch", "127.0.0.1"),
        ("at the end of an epoch", "localhost"),
        pytest.param("in the last steps", "127.0.0.1", marks=pytest.mark.long),
    ],
)
def test_a_killed_rank_costs_the_steps_since_the_last_commit(
    phase: str, victim: str, small_store: Path, tmp_path: Path
) -> None:
    """Whichever rank it is, the first one too: the other goes on alone, with the batch of one rank."""
    run, hosts = tmp_path / "run", tmp_path / "hosts"
    hosts.write_text("localhost:1\n127.0.0.1:1\n")
    moments = {
        "in the first epoch": at_step(run, COMMIT_EVERY + 2),
        "at the end of an epoch": at_end_of_epoch(run, 1),
        "in the last steps": at_step(run, EPOCHS * STEPS_PER_EPOCH - 2),
    }
    with running(command(small_store, run), run, **environment(hosts)) as job:
        wait_until(moments[phase], job)
        rank_of(job, victim).kill()
        finished = job.wait(150)
        assert finished.returncode == 0, finished.output[-4000:]
        job.require_nothing_left()
    costs = require_each_photo_once_per_epoch(run)
    assert len(costs) == 1
    assert costs[0] <= COMMIT_EVERY + 1  # the last one was given out and not finished
    require_whole_run(run)
    assert "ranks came or went: resuming with 1" in finished.output
    assert json.loads((run / "run.json").read_text())["settings"]["global_batch"] == BATCH


def test_a_host_that_comes_is_taken_in_and_one_that_is_lost_given_up(
    small_store: Path, tmp_path: Path
) -> None:
    """2 → 3 → 2 ranks; the learning rate follows, and the schedule ends where it should."""
    run, hosts = tmp_path / "run", tmp_path / "hosts"
    hosts.write_text("localhost:1\n127.0.0.1:1\n")
    with running(command(small_store, run), run, **environment(hosts)) as job:
        wait_until(at_step(run, 2), job)
        hosts.write_text(f"localhost:1\n127.0.0.1:1\n{socket.gethostname()}:1\n")
        job.wait_for("resuming with 3")
        wait_until(lambda: steps_of(run, world_size=3) > COMMIT_EVERY + 1, job)
        rank_of(job, "127.0.0.1").kill()
        finished = job.wait(150)
        assert finished.returncode == 0, finished.output[-4000:]
        job.require_nothing_left()
    assert len(require_each_photo_once_per_epoch(run)) == 2
    require_whole_run(run)
    standing, _ = kept(ledger(run))
    assert {line["world_size"] for line in standing} == {2, 3}
    largest = Counter((line["world_size"], line["step"]) for line in standing)
    assert all(count == world_size for (world_size, _), count in largest.items())  # a line per rank and step
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["learning_rate"] < 0.01 * rows[0]["learning_rate"]  # the cosine came to its end
