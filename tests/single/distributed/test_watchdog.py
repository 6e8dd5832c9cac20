"""Who keeps the others waiting: the diagnosis, and the threads of three ranks that talk over real sockets."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from horovod_asl.distributed.diagnosis import Report, diagnose
from horovod_asl.distributed.watchdog import Watchdog
from tests.launching import ROOT, clean_environment


def report(rank: int, *, step: int = 7, collectives: int = 30, heard_s: float = 100.0) -> Report:
    return Report(rank, f"host{rank}", step, collectives, heard_s)


def words(reports: list[Report], world_size: int = 3) -> str:
    return diagnose({one.rank: one for one in reports}, world_size, now_s=101.0, silent_after_s=10.0)


def test_ranks_that_wait_alike_are_not_blamed() -> None:
    assert words([report(0), report(1), report(2)]) == ""


def test_a_silent_rank_is_named_with_its_host_and_step() -> None:
    said = words([report(0), report(1, heard_s=71.0, step=5), report(2)])
    assert said.startswith("rank 1 on host1 is silent since 30 s, last heard of in step 5")
    assert "rank 2" not in said


def test_a_rank_that_is_alive_and_behind_is_named() -> None:
    said = words([report(0), report(1), report(2, collectives=29)])
    assert said.startswith("rank 2 on host2 is alive in step 7")
    assert "rank 1" not in said


def test_a_rank_never_heard_of_is_named() -> None:
    assert words([report(0), report(2)]) == "nothing was heard of rank 1"


RANK = """
    import json, sys, time
    from horovod_asl.distributed.watchdog import Watchdog
    dog = Watchdog(int(sys.argv[1]), 3, timeout_s=float(sys.argv[2]))
    dog.start()
    dog.meet(json.loads(sys.argv[3]))
    dog.heartbeat(3)
    dog.heartbeat(4)
    dog.collectives = 9 - (dog.rank == 2)
    time.sleep(60)
"""


def start(rank: int, invitation: str, *, timeout_s: float = 5.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RANK), str(rank), str(timeout_s), invitation],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(PYTHONPATH=str(ROOT)),
    )


@pytest.mark.timeout(90)
def test_ranks_end_themselves_and_name_the_one_they_wait_for() -> None:
    """Rank 0 is this process, which only listens; rank 1 waits for rank 2, which is alive elsewhere."""
    import json

    first = Watchdog(0, 3)
    invitation: dict[str, Any] = first.invitation()
    first.meet(invitation)
    first.step, first.collectives = 4, 9
    first.start()
    others = [start(rank, json.dumps(invitation)) for rank in (1, 2)]
    for other in others:
        _, said = other.communicate(timeout=60)
        assert other.returncode == 1
        assert "no progress for" in said
        assert "in step 4: rank 2 on" in said
        assert "is alive in step 4" in said
    first.stop()


@pytest.mark.timeout(90)
def test_a_rank_whose_launcher_is_gone_leaves() -> None:
    """A shell starts a rank and dies; the rank is an orphan and has no timeout."""
    program = textwrap.dedent("""
        import time
        from horovod_asl.distributed.watchdog import Watchdog
        Watchdog(0, 1).start()
        print("ready", flush=True)
        time.sleep(60)
    """)
    shell = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} -c '{program}' & wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(PYTHONPATH=str(ROOT)),
    )
    assert shell.stdout is not None
    assert shell.stdout.readline() == "ready\n"
    shell.kill()
    killed = time.monotonic()
    assert "the launcher is gone" in shell.stdout.read()  # ends when the rank has closed its end
    assert time.monotonic() - killed < 5
    shell.wait()
