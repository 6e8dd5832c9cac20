"""Threads per rank: the cores that may be used, shared once among the ranks of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from horovod_asl.distributed import threads
from horovod_asl.distributed.threads import limit_threads, usable_threads
from horovod_asl.system import cores

BOUND = "OMPI_MCA_orte_bound_at_launch"


def set_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None) -> None:
    """A container's CPU quota, in place of this machine's."""
    for module in (cores, threads):
        monkeypatch.setattr(module, "cpu_quota", lambda: quota)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of eight cores of which this process may use six; torch's own setting is put back."""
    before = torch.get_num_threads()
    set_quota(monkeypatch, None)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(2, 8)))
    monkeypatch.delenv(BOUND, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("local_size", "expected"), [(1, 6), (2, 3), (4, 1), (6, 1), (7, 1), (100, 1)])
def test_ranks_share_the_cores_that_may_be_used_and_each_gets_at_least_one(
    local_size: int, expected: int
) -> None:
    assert usable_threads(local_size) == expected
    assert usable_threads(local_size) * local_size <= max(6, local_size)


def test_cores_that_mpirun_gave_to_one_rank_are_not_divided_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BOUND, "1")
    assert usable_threads(4) == 6
    monkeypatch.setenv(BOUND, "0")
    assert usable_threads(4) == 1


@pytest.mark.parametrize(("bound", "local_size", "expected"), [("0", 1, 4), ("0", 2, 2), ("1", 2, 2), ("1", 8, 1)])
def test_ranks_share_the_quota_of_their_container_even_where_mpirun_bound_them(
    bound: str, local_size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_quota(monkeypatch, 4.0)
    monkeypatch.setenv(BOUND, bound)
    assert usable_threads(local_size) == expected


@pytest.mark.parametrize(("requested", "expected"), [(None, 3), (5, 5), (1, 1)])
def test_torch_is_told_and_the_number_comes_back(requested: int | None, expected: int) -> None:
    assert limit_threads(requested, local_size=2) == expected
    assert torch.get_num_threads() == expected
