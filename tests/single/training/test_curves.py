"""The TensorBoard curves of a run, read by TensorBoard: each point once, whatever was interrupted."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import AugmentConfig, ExecutionConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.engine.resume import Position
from horovod_asl.runs.preemption import Outcome
from horovod_asl.training import curves
from horovod_asl.training.curves import Curves
from horovod_asl.training.session import run_training

ROWS = [{"epoch": k, "step": 10 * k, "train_loss": 1.0 / k} for k in (1, 2, 3)]


def board(path: Path, *, done: int, resumed: bool, rank: int = 0) -> Curves:
    """The curves of a run that stands after `done` epochs."""
    position, sums = Position(step=10 * done, history=ROWS[:done]), torch.zeros(3, dtype=torch.float64)
    return Curves(path, position, sums, shown=rank == 0, goes_on=resumed, steps_per_epoch=10)


def curve(path: Path, name: str = "train_loss") -> list[tuple[int, float]]:
    events = EventAccumulator(str(path))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.parametrize("written", [1, 2, 3])
def test_epochs_done_again_after_a_kill_are_in_the_curves_once(written: int, tmp_path: Path) -> None:
    """Killed with two epochs saved, and the lines of one (died at the epoch's end), of two or of three."""
    first = board(tmp_path, done=0, resumed=False)
    for row in ROWS[:written]:
        first.add(row)
    # TensorBoard reads its files by the second of their names, and a restart takes longer than one.
    time.sleep(1.1)
    again = board(tmp_path, done=2, resumed=True)
    again.add(ROWS[2])
    again.close()
    assert curve(tmp_path) == [(row["step"], pytest.approx(row["train_loss"])) for row in ROWS]


def test_other_ranks_draw_nothing(tmp_path: Path) -> None:
    other = board(tmp_path, done=0, resumed=False, rank=1)
    other.on_step(0.1)
    other.add(ROWS[0])
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_points_within_an_epoch_are_of_the_steps_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty steps an epoch of 8 photos at a loss of the step's number; a clock of a quarter of a second a step."""
    now = [0.0]
    monkeypatch.setattr(curves.time, "monotonic", lambda: now[0])
    position, sums = Position(), torch.zeros(3, dtype=torch.float64)
    written = Curves(tmp_path, position, sums, shown=True, goes_on=False, steps_per_epoch=60)
    for epoch in (1, 2):
        for _ in range(60):
            position.step += 1
            position.photos += 8
            sums += torch.tensor([8.0 * position.step, 4.0, 8.0])
            now[0] += 0.25
            written.on_step(1 / position.step)
        position.photos = 0
        sums.zero_()
        now[0] += 100  # validation
        written.add({"epoch": epoch, "step": position.step, "train_loss": 0.0})
    written.close()
    steps = range(3, 121, 3)
    losses = [(step, pytest.approx(step - 1)) for step in steps]  # the mean of step - 2, step - 1 and step
    assert curve(tmp_path / "steps") == losses
    assert curve(tmp_path / "steps", "photos_per_s") == [(step, pytest.approx(32)) for step in steps]
    assert curve(tmp_path / "steps", "learning_rate") == [(step, pytest.approx(1 / step)) for step in steps]
    assert curve(tmp_path) == [(60, 0), (120, 0)]


def test_points_of_a_run_that_stops_and_goes_on_are_those_of_one_that_does_not(
    small_store: Path, tmp_path: Path
) -> None:
    """Stopped within an epoch of eight steps, and in TensorBoard's eyes a second later."""
    config = TrainConfig(
        epochs=1,
        batch_size_per_replica=16,
        stop_after_steps=6,
        augment=AugmentConfig(augment=False),
        execution=ExecutionConfig(device="cpu", threads_per_rank=1),
    )
    backend = Serial(torch.device("cpu"))
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run_training(replace(config, run_folder=whole), small_store, backend) is Outcome.STOPPED
    run_training(replace(config, run_folder=parted, stop_after_steps=3), small_store, backend)
    time.sleep(1.1)
    run_training(replace(config, resume=parted), small_store, backend)
    expected = curve(whole / "tensorboard" / "steps")
    assert [step for step, _ in expected] == [1, 2, 3, 4, 5, 6]
    assert curve(parted / "tensorboard" / "steps") == expected
