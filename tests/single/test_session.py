"""The ends of a run: its curves after a resume, and what it proposes to do next."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from horovod_asl.config import TrainConfig
from horovod_asl.console import next_step
from horovod_asl.session import _Board

ROWS = [{"epoch": k, "step": 10 * k, "train_loss": 1.0 / k} for k in (1, 2, 3)]


def board(path: Path, *, done: int, resumed: bool, rank: int = 0) -> _Board:
    """The board of a run that stands after `done` epochs."""
    trainer: Any = SimpleNamespace(
        backend=SimpleNamespace(rank=rank),
        folder=SimpleNamespace(path=path),
        config=replace(TrainConfig(), resume=path if resumed else None),
        position=SimpleNamespace(step=10 * done, history=ROWS[:done]),
    )
    return _Board(trainer)


def curve(path: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars("train_loss")]


@pytest.mark.parametrize("written", [1, 2, 3])
def test_epochs_done_again_after_a_kill_are_in_the_curves_once(written: int, tmp_path: Path) -> None:
    """Killed with two epochs saved, and the lines of one (died at the epoch's end), of two or of three."""
    first = board(tmp_path, done=0, resumed=False)
    for row in ROWS[:written]:
        first.add(row)
    again = board(tmp_path, done=2, resumed=True)
    again.add(ROWS[2])
    again.close()
    assert curve(tmp_path) == [(row["step"], row["train_loss"]) for row in ROWS]


def test_other_ranks_draw_nothing(tmp_path: Path) -> None:
    other = board(tmp_path, done=0, resumed=False, rank=1)
    other.add(ROWS[0])
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_the_next_commands_name_this_run_and_a_program_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert "horovod-asl evaluate 'runs/my run' FOLDER" in next_step(Path("runs/my run"), "s", is_sample=False)
    sample = next_step(Path("runs/r"), "/cache/sample", is_sample=True)
    assert "horovod-asl evaluate runs/r /cache/sample\n" in sample
    assert "prepare path/to/asl_alphabet_train" in sample
    monkeypatch.delenv("VIRTUAL_ENV")  # as after `make train`, whose scripts alone know of .venv
    monkeypatch.chdir(tmp_path)
    program = next_step(Path("runs/r"), "s", is_sample=False).split()[1]
    assert Path(program).is_file()
