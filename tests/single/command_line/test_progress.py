"""What shows that long work goes on: lines in a log, a bar on a terminal, and how often each comes."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from horovod_asl.command_line import progress
from horovod_asl.command_line.progress import Display, Progress, duration
from horovod_asl.commands import evaluate
from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import ExecutionConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.training.announce import settings_line
from horovod_asl.training.crossval import time_left
from horovod_asl.training.session import run_training
from tests.launching import ROOT, clean_environment


class Clock:
    """Stands in for `time` in command_line/progress.py."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_log_gets_a_line_every_15_seconds(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("photos read", stream=log) as shown:
        for done in range(0, 1000, 10):  # one second for 10 photos
            shown.update(done, 1000)
            clock.now += 1
    lines = log.getvalue().splitlines()
    assert len(lines) == 99 // 15
    assert lines[0] == "photos read 150/1,000  10/s  85 s left"
    assert lines[-1] == "photos read 900/1,000  10/s  10 s left"


def test_slow_work_and_long_waits_are_in_fitting_units() -> None:
    assert [duration(seconds) for seconds in (0.4, 99, 100, 5940, 9000)] == [
        "0 s",
        "99 s",
        "2 min",
        "99 min",
        "2.5 h",
    ]
    assert progress.pace(9, 91, 2) == "4.5/s  20 s left"
    assert progress.pace(0, 91, 2) == ""


def test_a_stage_counts_from_where_it_begins(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("photos", stream=log) as shown:
        shown.update(5000, 9000)
        clock.now += 20
        shown.begin("photos looked at for a hand")
        for done in (600, 700, 800):  # 600 were known from before
            shown.update(done, 1000)
            clock.now += 10
    assert log.getvalue().splitlines() == [
        "photos looked at for a hand 600/1,000",
        "photos looked at for a hand 800/1,000  10/s  20 s left",
    ]


def test_other_ranks_show_nothing(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("photos", rank=1, stream=log) as shown:
        for _ in range(3):
            shown.update(1, 2)
            clock.now += 20
        shown.log("not this")
    assert log.getvalue() == ""


def test_steps_show_the_loss_and_speed_since_the_last_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten steps an epoch, 4 s each, of 32 photos at a loss of 3, then of 1; 60 s of validation between."""
    read: list[int] = []
    display = Display(rank=0, epochs=2, world_size=2, title="fold 1/3 phone")

    def sums() -> list[float]:
        read.append(step)
        return [loss * 16 * seen, 0.0, 16.0 * seen]  # of this rank, which has half of the photos

    step = 0
    with display.bar():
        for loss in (3.0, 1.0):
            for seen in range(1, 11):
                step += 1
                clock.now += 4
                display.on_step(step, 20, 32 * seen, sums)
            display.on_scored(1, 100)
            clock.now += 60
            row = {"epoch": 1, "train_loss": loss, "train_top1": 0.5, "learning_rate": 0.1, "photos": 320}
            display.on_epoch(row)
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if "step" in line]
    assert steps[0] == "fold 1/3 phone  step 4/20  loss 3.0000 (rank 0)  8 photos/s  64 s left"
    assert steps[2] == "fold 1/3 phone  step 11/20  loss 1.0000 (rank 0)  8 photos/s  90 s left"
    assert max(map(len, steps)) <= 80
    assert sum(line.startswith("epoch   1/2  loss") for line in lines) == 2
    assert len(read) == 1 + len(steps)  # once as it begins; else only for a line


def test_a_launcher_gets_lines_although_it_gives_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Progress("photos", stream=Terminal()).is_live
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert not Progress("photos", stream=Terminal()).is_live


BAR = """
import sys, time
from horovod_asl.command_line.progress import Display
display = Display(rank=0, epochs=1)
display.log("before")
with display.bar():
    for step in range(1, 16):
        display.on_step(step, 15, 8 * step, lambda: [2.0 * step, 0.0, 1.0 * step])
        time.sleep(0.1)
    display.log("between " + "x" * 90)
display.log("after")
"""


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    ours, theirs = pty.openpty()
    environment = clean_environment(COLUMNS="80", TERM="xterm")
    with subprocess.Popen([sys.executable, "-c", BAR], stdout=theirs, env=environment, cwd=ROOT) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # nobody writes to it any more
                break
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    found = re.findall(r"step +\S* *(\d+)/15  loss 2\.0000  (\d+) photos/s  \d s left", text)
    assert found
    assert 5 < int(found[-1][1]) < 90  # 80, less what a busy machine takes besides
    assert "between " + "x" * 90 + "\r\n" in text  # as one line, which the terminal breaks
    assert text.endswith("after\r\n")


def test_evaluate_shows_what_is_read_and_what_is_scored(
    small_store: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    execution = ExecutionConfig(device="cpu", threads_per_rank=1)
    config = TrainConfig(run_folder=tmp_path / "run", stop_after_steps=1, execution=execution)
    run_training(config, small_store, Serial(torch.device("cpu")))
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1)  # a line for each piece of news
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run"), str(frames), "--backend", "serial"]) == 0
    said, lines = capsys.readouterr()
    assert "of 232 photos classified correctly" in said
    counts = [int(count) for count in re.findall(r"^photos read (\d+)/232", lines, re.MULTILINE)]
    assert counts == list(range(232))
    assert "photos scored 0/232\n" in lines


def test_a_fold_says_how_long_the_others_take() -> None:
    assert time_left(0, 5, 0.0) == ""
    assert time_left(2, 5, 240) == ", 2 done, 6 min left"


SETTINGS = {
    "backend": "horovod",
    "world_size": 2,
    "replicas": 2,
    "device": "cpu",
    "photos_in": "mapped files",
    "precision": "fp32",
    "global_batch": 64,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "peak_learning_rate": 0.00141421,
    "controller": "mpi",
}


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({}, "horovod/mpi, 2 ranks, cpu fp32, batch 64, adamw lr 0.00141"),
        ({"backend": "serial", "world_size": 1, "replicas": 1, "controller": None}, "serial, 1 rank, cpu "),
        (
            {"backend": "dp", "world_size": 1, "replicas": 4, "device": "cuda:0", "controller": None},
            "dp, 4 replicas, cuda ",
        ),
        ({"backend": "ddp", "controller": None, "collective": "gloo"}, "ddp, 2 ranks"),
        (
            {"world_size": 128, "replicas": 128, "device": "cuda:0", "precision": "bf16", "global_batch": 32768}
            | {"controller": "gloo"},
            "horovod/gloo, 128 ranks, cuda bf16, batch 32768, adamw lr 0.00141",
        ),
    ],
)
def test_the_settings_are_one_short_line(other: dict[str, Any], line: str) -> None:
    shown = settings_line(SETTINGS | other)
    assert shown.startswith(line)
    assert len(f"[1,0]<stdout>:{shown}") <= 80
