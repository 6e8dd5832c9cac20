"""torchrun starts its ranks anew when one of them is lost (`--max-restarts`); which run they then resume.

The ranks of a job have torchrun's agents in common, one process per node, which outlive them. The facts of a run name
the agents whose ranks train it, so a job knows its own run again, and no other: not one of an earlier job in the same
folder, which is refused as ever. torchrun's own count of restarts would not do: it also restarts ranks that were
refused, and does not count when nodes come and go.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from horovod_asl.distributed.base import Backend
from horovod_asl.distributed.launcher import is_torchruns_worker
from horovod_asl.errors import UserError
from horovod_asl.runs.run_folder import RunFolder

Agent = dict[str, Any]
# A process's start is counted from the machine's boot, whose time moves when the clock is set.
_SAME_START_S = 10.0


def agents_of(backend: Backend) -> list[Agent] | None:
    """The torchrun agents of all ranks, for the facts of a run; None without torchrun. Every rank must come here."""
    if not is_torchruns_worker():
        return None
    agents: list[Agent] = []
    for agent in backend.gather(_own_agent()):
        if agent is not None and agent not in agents:
            agents.append(agent)
    return agents


def run_of_this_job(run_folder: Path | None, backend: Backend) -> Path | None:
    """The run that earlier ranks of this torchrun began, the newest, as rank 0 sees it. Every rank must come here.

    Args:
        run_folder: where to look; None: in all folders beside a run folder's default.
    """
    agents = agents_of(backend)
    if agents is None:
        return None
    beside = RunFolder.default_path("any").parent
    found: list[Path] = []
    if backend.rank == 0:
        folders = [run_folder] if run_folder is not None else sorted(beside.glob("*"), reverse=True)
        found = [folder for folder in folders if _is_trained_by(folder, agents)][:1]
    return backend.broadcast(found[0] if found else None)


def restart_in_words(run: Path) -> str:
    """What rank 0 says of it."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"torchrun restarted the ranks (restart {count}): resuming {run}"


def _own_agent() -> Agent | None:
    """The nearest process above that is not of this job's ranks: between them a shell may stand."""
    job = os.environ["TORCHELASTIC_RUN_ID"]
    for process in psutil.Process().parents():
        try:
            is_rank = process.environ().get("TORCHELASTIC_RUN_ID") == job
        except psutil.Error:  # another user's, so not ours
            return None
        if not is_rank:
            return {"host": platform.node(), "pid": process.pid, "started": process.create_time(), "job": job}
    return None


def _is_trained_by(folder: Path, agents: Iterable[Agent]) -> bool:
    try:
        trained_by = RunFolder(RunFolder(folder).begun_stage()).facts().get("torchrun") or []
    except UserError:  # no run, or none that can be read
        return False
    return any(_are_one(mine, other) for mine in agents for other in trained_by)


def _are_one(one: Agent, other: Agent) -> bool:
    names = ("host", "pid", "job")
    return (
        all(one[name] == other[name] for name in names)
        and abs(one["started"] - other["started"]) < _SAME_START_S
    )
