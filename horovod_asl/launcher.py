"""Who started this process: read from the environment alone, before any library is initialised.

| launcher     | sets                                                              |
|--------------|-------------------------------------------------------------------|
| torchrun     | RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, ...   |
| horovodrun   | HOROVOD_RANK, HOROVOD_SIZE, ... (Gloo); under MPI it runs mpirun   |
| mpirun       | OMPI_COMM_WORLD_RANK, ... (Open MPI) or PMI_RANK, PMI_SIZE (MPICH) |
| srun         | SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID                  |

What runs inside an srun step inherits its variables: torchrun's, horovodrun's and mpirun's own win over them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from horovod_asl.errors import UserError


@dataclass(frozen=True)
class Launcher:
    """What the environment says of this process: `name` is torchrun, horovodrun, mpirun, srun or none.

    `has_pmi`: an srun with --mpi=pmix or pmi2, under which MPI finds its world.
    """

    name: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    has_pmi: bool = False


@dataclass(frozen=True)
class _Names:
    """The variables of one launcher; the first two must stand together, the local ones are optional."""

    launcher: str
    rank: str
    world_size: str
    local_rank: str
    local_size: str


_KNOWN = (
    _Names("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Names("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    _Names(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
)

# MPICH's mpirun sets all four; srun --mpi=pmi2 sets the first two, beside its own.
_MPICH = _Names("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")

# A batch script also sees SLURM_PROCID; only a task of an srun step sees the step's task count.
_SRUN = _Names("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")


def detect(environment: Mapping[str, str] | None = None) -> Launcher:
    """The launcher of this process, from `environment` (default: `os.environ`).

    Raises:
        UserError: the environment is half set, not numeric, or two launchers disagree.
    """
    variables = os.environ if environment is None else environment
    in_step = _SRUN.world_size in variables
    known = _KNOWN if in_step and _MPICH.local_rank not in variables else (*_KNOWN, _MPICH)
    found = [launcher for names in known if (launcher := _read(names, variables)) is not None]
    if not found:
        return _step(variables) if in_step else Launcher("none", 0, 1, 0, 1)
    _refuse_disagreement(found)
    return found[0]


def announced_rank(environment: Mapping[str, str] | None = None) -> str | None:
    """The rank that a launcher gave this process, as it says it, also where `detect` refuses the rest; else None."""
    variables = os.environ if environment is None else environment
    names = [names.rank for names in (*_KNOWN, _MPICH)]
    if variables.get(_SRUN.world_size, "1") != "1":
        names.append(_SRUN.rank)
    return next((variables[name] for name in names if name in variables), None)


def _step(variables: Mapping[str, str]) -> Launcher:
    """The task of an srun step; its number of tasks on this node stands in a list over nodes, as `2(x3),1`."""
    launcher = _read(_SRUN, variables)
    assert launcher is not None
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", variables.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _number(variables, "SLURM_NODEID", default=0)
    local_size = counts[node] if 0 <= node < len(counts) else launcher.local_size
    return replace(
        launcher, local_size=local_size, has_pmi=bool({"PMIX_RANK", "PMI_RANK"} & variables.keys())
    )


def _read(names: _Names, variables: Mapping[str, str]) -> Launcher | None:
    present = [name for name in (names.rank, names.world_size) if name in variables]
    if not present:
        return None
    if len(present) == 1:
        missing = names.world_size if present[0] == names.rank else names.rank
        raise UserError(
            f"a half-set launcher environment: {present[0]} is set and {missing} is not; "
            f"start through {names.launcher}, or unset {present[0]}"
        )
    rank, world_size = _number(variables, names.rank), _number(variables, names.world_size)
    if not 0 <= rank < world_size:
        raise UserError(f"{names.rank}={rank} is outside a world of {names.world_size}={world_size}")
    local_rank = _number(variables, names.local_rank, default=rank)
    local_size = _number(variables, names.local_size, default=world_size)
    if not 0 <= local_rank < world_size:
        raise UserError(
            f"{names.local_rank}={local_rank} is outside a world of {names.world_size}={world_size}"
        )
    return Launcher(names.launcher, rank, world_size, local_rank, local_size)


def _number(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = variables.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"{name}={text!r} is not a number; start through a launcher, or unset it") from None


def _refuse_disagreement(found: list[Launcher]) -> None:
    first = found[0]
    for other in found[1:]:
        if (first.rank, first.world_size) != (other.rank, other.world_size):
            raise UserError(
                f"two launchers disagree: {first.name} says rank {first.rank} of {first.world_size}, "
                f"{other.name} says rank {other.rank} of {other.world_size}; start through one of them"
            )
