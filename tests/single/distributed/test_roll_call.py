"""Ranks find each other before torch's group begins: threads around one of torch's own stores."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch.distributed import HashStore

from horovod_asl.distributed.launcher import Launcher
from horovod_asl.distributed.roll_call import (
    Roll,
    call_roll,
    others_in_words,
    own_place,
    refuse_shared_gpus,
)
from horovod_asl.errors import UserError


def place(host: str, **facts: Any) -> dict[str, Any]:
    return {"host": host, "boot": f"boot of {host}", "local_rank": None, "visible_gpus": None} | facts


def roll_of(store: HashStore, places: list[dict[str, Any]]) -> list[Roll]:
    with ThreadPoolExecutor(len(places)) as pool:
        calls = [
            pool.submit(call_roll, store, rank, len(places), where, timeout_s=20.0)
            for rank, where in enumerate(places)
        ]
        return [call.result(30) for call in calls]


def test_every_rank_knows_where_all_are() -> None:
    places = [place("a"), place("b"), place("a"), place("a")]
    rolls = roll_of(HashStore(), places)
    assert [roll.places for roll in rolls] == [places] * 4
    assert len({roll.token for roll in rolls}) == 1
    assert [rolls[0].local(rank) for rank in range(4)] == [(0, 3), (0, 1), (1, 3), (2, 3)]


def test_what_an_earlier_attempt_left_in_the_store_is_nobody() -> None:
    """torchrun starts ranks anew around the same store: a rank 1 that is dead does not count as here."""
    store = HashStore()
    first = roll_of(store, [place("a"), place("old")])[0]
    second = roll_of(store, [place("a"), place("new")])[0]
    assert second.places[1]["host"] == "new"
    assert second.token != first.token
    with pytest.raises(UserError, match="rank 1 of 2 did not come"):
        call_roll(store, 0, 2, place("a"), timeout_s=0.3)


def test_rank_0_is_told_who_is_missing_until_they_come() -> None:
    store, told = HashStore(), []
    late = threading.Event()

    def missing(ranks: list[int]) -> None:
        told.append(ranks)
        if ranks == [2]:
            late.set()

    def come(rank: int) -> None:
        if rank == 2:
            late.wait(20)
        call_roll(store, rank, 3, place("a"), timeout_s=20.0)

    with ThreadPoolExecutor(2) as pool:
        for rank in (1, 2):
            pool.submit(come, rank)
        call_roll(store, 0, 3, place("a"), timeout_s=20.0, missing=missing)
    assert [2] in told
    assert told[-1] == []


def test_a_rank_whose_rank_0_is_missing_says_so() -> None:
    told: list[list[int]] = []
    with pytest.raises(UserError, match="waited 0 s for rank 0"):
        call_roll(HashStore(), 1, 2, place("a"), timeout_s=0.2, missing=told.append)
    assert told == [[0]]


def test_two_ranks_with_the_same_gpu_are_refused() -> None:
    refuse_shared_gpus([place("a", local_rank=0), place("b", local_rank=0), place("a", local_rank=1)])
    refuse_shared_gpus([place("a", local_rank=0, visible_gpus=gpu) for gpu in "01"])  # each sees its own
    refuse_shared_gpus([place("a"), place("a")])  # numbered by us
    with pytest.raises(UserError, match="ranks 0 and 2 on a both have LOCAL_RANK=0"):
        refuse_shared_gpus([place("a", local_rank=0), place("b", local_rank=0), place("a", local_rank=0)])


def test_a_place_tells_a_local_rank_only_where_it_is_known() -> None:
    assert own_place(Launcher("torchrun", 5, 8, 1, 4))["local_rank"] == 1
    assert own_place(Launcher("torchrun", 5, 8, 0, 1, knows_local=False))["local_rank"] is None


STEP = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}


def test_who_is_missing_in_words() -> None:
    srun, mpirun = Launcher("srun", 0, 2, 0, 2), Launcher("mpirun", 0, 4, 0, 4)
    assert others_in_words(srun, [1], STEP) == "rank 1 of 2 of SLURM step 17.0"
    assert others_in_words(mpirun, [], {}) == "all 4 ranks of mpirun"
    shell = others_in_words(srun, [1], STEP | {"SLURM_PTY_PORT": "44152"})
    assert "In a shell of `srun --pty -n2`" in shell
    assert "leave the shell and start with `srun -n2 python" in shell
