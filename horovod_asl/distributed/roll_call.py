"""Who is here, before torch's process group begins: each rank says where it runs, and rank 0 names who is missing.

torch's own rendezvous waits ten minutes without a word, and its store keeps what ranks of an earlier attempt
wrote (torchrun restarts them, the store stays). So a rank asks under a number that it has just drawn, and only a
rank 0 that is alive answers; what comes after lies under the number that rank 0 has drawn.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from horovod_asl.distributed.launcher import Launcher
from horovod_asl.errors import UserError
from horovod_asl.system.process_identity import boot_id

Place = dict[str, Any]
_POLL_S = 0.05


class Store(Protocol):
    """What of torch's stores is used; `check` does not wait."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Roll:
    """All ranks are here. `token` is of this attempt alone; `places[rank]` is what that rank said of itself."""

    token: str
    places: list[Place]

    def local(self, rank: int) -> tuple[int, int]:
        """The number of `rank` among those of its machine, and how many they are."""
        here = [other for other, place in enumerate(self.places) if _machine(place) == _machine(self.places[rank])]
        return here.index(rank), len(here)


def own_place(launcher: Launcher) -> Place:
    """This machine by name and boot (containers of one host have a name each, and may see a GPU each)."""
    try:
        boot = boot_id()
    except OSError:  # not Linux
        boot = ""
    local_rank = launcher.local_rank if launcher.knows_local else None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"host": platform.node(), "boot": boot, "local_rank": local_rank, "visible_gpus": visible}


def call_roll(
    store: Store,
    rank: int,
    world_size: int,
    place: Place,
    *,
    timeout_s: float,
    answer_s: float = math.inf,
    missing: Callable[[list[int]], None] = lambda ranks: None,
) -> Roll:
    """Wait until all ranks are here.

    Args:
        place: what all ranks are to know of this one; JSON.
        answer_s: how long rank 0 may take to answer, where it is known to be at the other end of `store`.
        missing: gets, again and again, the ranks that have not come; on rank 0 all of them, elsewhere rank 0 alone.

    Raises:
        UserError: they did not come within `timeout_s`, or rank 0 did not answer.
    """
    if rank == 0:
        return _answer(store, world_size, place, time.monotonic() + timeout_s, missing)
    asked = secrets.token_hex(8)
    store.set(f"roll/ask/{rank}", asked)
    missing([0])
    token = _wait_for(store, f"roll/answer/{asked}", min(timeout_s, answer_s), "rank 0")
    missing([])
    store.set(f"roll/{token}/{rank}", json.dumps(place))
    return Roll(token, json.loads(_wait_for(store, f"roll/{token}/all", timeout_s, "the other ranks")))


def _answer(
    store: Store, world_size: int, place: Place, deadline_s: float, missing: Callable[[list[int]], None]
) -> Roll:
    token = secrets.token_hex(8)
    places = {0: place}
    answered: dict[int, str] = {}
    while True:
        for rank in range(1, world_size):
            if rank in places or not store.check([f"roll/ask/{rank}"]):
                continue
            asked = store.get(f"roll/ask/{rank}").decode()
            if answered.get(rank) != asked:
                store.set(f"roll/answer/{asked}", token)
                answered[rank] = asked
            if store.check([f"roll/{token}/{rank}"]):
                places[rank] = json.loads(store.get(f"roll/{token}/{rank}"))
        absent = [rank for rank in range(world_size) if rank not in places]
        missing(absent)
        if not absent:
            roll = Roll(token, [places[rank] for rank in range(world_size)])
            store.set(f"roll/{token}/all", json.dumps(roll.places))
            return roll
        if time.monotonic() > deadline_s:
            raise UserError(f"rank {numbers(absent)} of {world_size} did not come; start all ranks, or fewer")
        time.sleep(_POLL_S)


def _wait_for(store: Store, key: str, timeout_s: float, whom: str) -> str:
    """The value of `key`, asked for again and again: a store's own `wait` prints C++ frames when time is up."""
    deadline_s = time.monotonic() + timeout_s
    while not store.check([key]):
        if time.monotonic() > deadline_s:
            raise UserError(
                f"waited {timeout_s:.0f} s for {whom}: start all ranks, with a MASTER_PORT that no other job uses"
            )
        time.sleep(_POLL_S)
    return store.get(key).decode()


def refuse_shared_gpus(places: list[Place]) -> None:
    """UserError if two ranks of one machine were given the same GPU by LOCAL_RANK."""
    seen: dict[Any, int] = {}
    for rank, place in enumerate(places):
        if place["local_rank"] is None:
            continue
        gpu = (*_machine(place), place["local_rank"], place["visible_gpus"])
        if gpu in seen:
            raise UserError(
                f"ranks {seen[gpu]} and {rank} on {place['host']} both have LOCAL_RANK={place['local_rank']} and "
                "would share a GPU: leave LOCAL_RANK out, or count it per machine; or use --device cpu"
            )
        seen[gpu] = rank


def others_in_words(launcher: Launcher, absent: list[int], environment: Mapping[str, str] = os.environ) -> str:
    """`rank 1 of 2 of SLURM step 17.0`, and why they may not come; `absent` empty: it is not known which."""
    which = f"rank {numbers(absent)} of {launcher.world_size}" if absent else f"all {launcher.world_size} ranks"
    if launcher.name != "srun":
        return which if absent else f"{which} of {launcher.name}"
    step = f"{environment.get('SLURM_JOB_ID', '?')}.{environment.get('SLURM_STEP_ID', '?')}"
    if "SLURM_PTY_PORT" not in environment:
        return f"{which} of SLURM step {step}"
    return (
        f"{which} of SLURM step {step}. In a shell of `srun --pty -n{launcher.world_size}` a command is started "
        f"once, not {launcher.world_size} times: leave the shell and start with `srun -n{launcher.world_size} "
        "python …`; for a single process take `srun --pty -n1`"
    )


def numbers(ranks: list[int]) -> str:
    """The first few of `ranks`, in words."""
    return ", ".join(map(str, ranks[:8])) + (" …" if len(ranks) > 8 else "")


def _machine(place: Place) -> tuple[str, str]:
    return place["host"], place["boot"]
