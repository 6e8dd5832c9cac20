"""A signal to one rank stops all ranks after the same step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from horovod_asl.distributed.base import Serial
from horovod_asl.runs.preemption import STOP_FILE, Outcome, StopSignal, StopVote


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Two(Serial):
    """Rank 0 of two, whose other rank says `other`."""

    world_size = 2

    def __init__(self, other: list[float]) -> None:
        super().__init__(torch.device("cpu"))
        self.world_size, self.other, self.asked = 2, other, 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return tensor + torch.tensor(self.other, dtype=tensor.dtype)


def test_usr1_is_remembered_and_term_only_where_alone() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stop = StopSignal().listen(alone=False)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not stop.received
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.received
    stop = StopSignal().listen(alone=True)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_asks_to_stop_and_the_second_ends(capfd: pytest.CaptureFixture[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = StopSignal().listen(alone=True)
    with pytest.raises(KeyboardInterrupt):  # before training there is nothing to save
        press_ctrl_c()
    with stop.catching_interrupts():
        assert not stop.is_asked
        press_ctrl_c()
        assert stop.is_asked
        assert stop.outcome is Outcome.INTERRUPTED
        assert "press it again to end at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert stop.exit_code(stop.outcome) == 130


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_ctrl_c_is_left_alone_in_the_background_and_under_launchers_that_kill(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    with StopSignal().listen(alone=handler is signal.SIG_IGN).catching_interrupts():
        assert signal.getsignal(signal.SIGINT) == handler
    with StopSignal().listen(alone=False, interrupts=True).catching_interrupts():  # torchrun's ranks
        assert (signal.getsignal(signal.SIGINT) == handler) is (handler is signal.SIG_IGN)


def test_a_file_asks_to_stop_too_and_its_maker_says_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    stop = StopSignal()
    vote = StopVote(Serial(torch.device("cpu")), stop)
    assert not vote(0)
    assert [stop.exit_code(outcome) for outcome in Outcome] == [0, 3, 85, 130]
    (tmp_path / "stop").touch()
    assert vote(1)
    assert stop.outcome is Outcome.INTERRUPTED
    assert stop.exit_code(stop.outcome) == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_one_process_stops_at_its_signal(number: signal.Signals) -> None:
    stop = StopSignal().listen(alone=True)
    vote = StopVote(Serial(torch.device("cpu")), stop)
    assert not vote(0)
    os.kill(os.getpid(), number)
    assert vote(1)


def test_the_other_rank_s_signal_counts() -> None:
    assert StopVote(Two([1.0, 0.5]), StopSignal())(3)
    assert not StopVote(Two([0.0, 0.5]), StopSignal())(3)


def test_votes_are_seconds_apart_and_at_steps_that_follow_from_the_vote_alone() -> None:
    """The other rank measured 4 s for 10 steps, this one next to nothing: 5 steps/s, so the next is 10 steps on."""
    backend = Two([0.0, 4.0])
    vote = StopVote(backend, StopSignal(), every_s=2.0)
    vote(4000)  # where a resumed run begins
    assert vote.is_due(4001)
    vote(4010)
    due = [step for step in range(4011, 4040) if vote.is_due(step)]
    assert due[0] in (4019, 4020)  # this rank's own microseconds may round a step away
    assert backend.asked == 2


def test_however_slow_the_steps_are_the_next_vote_is_a_step_away() -> None:
    vote = StopVote(Two([0.0, 600.0]), StopSignal())
    vote(10)
    assert vote.is_due(11)
