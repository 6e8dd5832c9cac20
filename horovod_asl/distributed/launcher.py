"""Who started this process: read from the environment alone, before any library is initialised.

| launcher       | sets                                                              |
|----------------|-------------------------------------------------------------------|
| torchrun       | RANK, WORLD_SIZE, LOCAL_RANK, ..., MASTER_ADDR, TORCHELASTIC_RUN_ID |
| Kubeflow, hand | RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, without local ranks    |
| horovodrun     | HOROVOD_RANK, HOROVOD_SIZE, ... (Gloo); under MPI it runs mpirun   |
| mpirun         | OMPI_COMM_WORLD_RANK, ... (Open MPI) or PMI_RANK, PMI_SIZE (MPICH) |
| other MPIs     | MV2_COMM_WORLD_*, JSM_NAMESPACE_*, PALS_RANKID, FLUX_TASK_RANK     |
| srun           | SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID                  |

What runs inside an srun step inherits its variables: torchrun's, horovodrun's and mpirun's own win over them.
torchrun also wins over an mpirun that started one torchrun per node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from horovod_asl.errors import UserError


@dataclass(frozen=True)
class Launcher:
    """What the environment says of this process: `name` is none, torchrun, srun, horovodrun, mpirun or another MPI's.

    `has_pmi`: an srun with --mpi=pmix or pmi2, under which MPI finds its world.
    `knows_local`: False where nothing says which ranks share a machine; then `local_rank` is 0 and `local_size` 1.
    """

    name: str
    rank: int
    world_size: int
    local_rank: int
    local_size: int
    has_pmi: bool = False
    knows_local: bool = True


@dataclass(frozen=True)
class _Names:
    """The variables of one launcher; the first two must stand together, the local ones are optional."""

    launcher: str
    rank: str
    world_size: str
    local_rank: str
    local_size: str


_TORCHRUN = _Names("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")

_MPI = (
    _Names("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    _Names(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Names(
        "mpirun_rsh",  # MVAPICH2
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    _Names(
        "jsrun",  # IBM's Job Step Manager
        "JSM_NAMESPACE_RANK",
        "JSM_NAMESPACE_SIZE",
        "JSM_NAMESPACE_LOCAL_RANK",
        "JSM_NAMESPACE_LOCAL_SIZE",
    ),
    _Names("flux run", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", ""),
)

# HPE's mpiexec gives the size as MPICH's does, and only to programs of MPICH's kind.
_PALS = _Names("mpiexec (PALS)", "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE")

# MPICH's mpirun sets all four; srun --mpi=pmi2 sets the first two, beside its own.
_MPICH = _Names("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")

# A batch script also sees SLURM_PROCID; only a task of an srun step sees the step's task count.
_SRUN = _Names("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")

# Launchers that give a rank and no size: Cray's aprun (ALPS); prun of PRRTE, and others that speak PMIx alone.
_RANKS_WITHOUT_SIZE = {"PALS_RANKID": "mpiexec (PALS)", "ALPS_APP_PE": "aprun", "PMIX_RANK": "a PMIx launcher"}

_ALONE = Launcher("none", 0, 1, 0, 1)


def detect(environment: Mapping[str, str] | None = None) -> Launcher:
    """The launcher of this process, from `environment` (default: `os.environ`).

    Raises:
        UserError: the environment is half set, not numeric, two launchers disagree, or a launcher is not known.
    """
    variables = os.environ if environment is None else environment
    outer = _outer(variables)
    if _TORCHRUN.rank in variables and _TORCHRUN.world_size in variables:
        return _with_rank_and_size(variables, outer)
    if outer is not None and (_TORCHRUN.rank in variables or _TORCHRUN.world_size in variables):
        return _with_one_of_them(variables, outer)
    if outer is not None:
        return outer
    _refuse_unknown(variables)
    if variables.get(_TORCHRUN.world_size) == "1" and _TORCHRUN.rank not in variables:
        return _ALONE
    return _read(_TORCHRUN, variables) or _ALONE  # refuses one without the other


def announced_rank(environment: Mapping[str, str] | None = None) -> str | None:
    """The rank that a launcher gave this process, as it says it, also where `detect` refuses the rest; else None."""
    variables = os.environ if environment is None else environment
    names = [names.rank for names in (_TORCHRUN, *_MPI, _PALS, _MPICH)]
    if variables.get(_SRUN.world_size, "1") != "1":
        names.append(_SRUN.rank)
    elif not _in_step(variables):
        names += _RANKS_WITHOUT_SIZE
    return next((variables[name] for name in names if name in variables), None)


def is_torchruns_worker(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun itself started this process, rather than somebody who set the same variables."""
    return "TORCHELASTIC_RUN_ID" in (os.environ if environment is None else environment)


def _in_step(variables: Mapping[str, str]) -> bool:
    return _SRUN.world_size in variables


def _outer(variables: Mapping[str, str]) -> Launcher | None:
    """The launcher apart from RANK and WORLD_SIZE, inside which torchrun may have been started."""
    known = [*_MPI]
    if {_PALS.rank, _PALS.world_size} <= variables.keys():
        known.append(_PALS)
    if not _in_step(variables) or _MPICH.local_rank in variables:
        known.append(_MPICH)
    found = [launcher for names in known if (launcher := _read(names, variables)) is not None]
    if not found:
        return _step(variables) if _in_step(variables) else None
    _refuse_disagreement(found)
    return found[0]


def _with_rank_and_size(variables: Mapping[str, str], outer: Launcher | None) -> Launcher:
    own = _read(_TORCHRUN, variables)
    assert own is not None
    if is_torchruns_worker(variables):
        _refuse_separate_torchruns(variables, outer)
        return own
    if outer is None:
        return _ALONE if own.world_size == 1 and "MASTER_ADDR" not in variables else own
    if outer.name == "srun":
        return _set_by_hand_in_a_step(variables, own, outer)
    _refuse_disagreement([own, outer])
    if own.knows_local:
        return own
    return replace(own, local_rank=outer.local_rank, local_size=outer.local_size, knows_local=True)


def _refuse_separate_torchruns(variables: Mapping[str, str], outer: Launcher | None) -> None:
    """`mpirun -np NODES torchrun …` is right where the torchruns know of each other."""
    if outer is None or outer.world_size == 1 or "SLURM_PTY_PORT" in variables:  # of a shell, in one task of the step
        return
    if _number(variables, "GROUP_WORLD_SIZE", default=1) == 1:
        raise UserError(
            f"{outer.name} started {outer.world_size} processes, and the torchrun in this one knows of one node: "
            f"they would train separate models; give torchrun --nnodes {outer.world_size} and --rdzv-endpoint, or "
            f"start one torchrun without {outer.name}"
        )


def _set_by_hand_in_a_step(variables: Mapping[str, str], own: Launcher, step: Launcher) -> Launcher:
    """RANK and WORLD_SIZE in a task of srun: that task's own, or those of a launcher that the task has started."""
    if own.world_size != step.world_size:
        # Started inside the task: by a launcher, which tells local ranks; or by hand, in the one task of a shell.
        if own.knows_local or step.world_size == 1:
            return own
        raise _another_size(variables, step)
    if own.rank != step.rank:
        raise UserError(
            f"RANK={own.rank}, but this is task {step.rank} of srun's {step.world_size}: RANK was set outside of "
            "srun, the same for all tasks; leave it out"
        )
    local_rank = own.local_rank if own.knows_local else step.local_rank
    return replace(step, local_rank=local_rank, has_pmi=False)


def _with_one_of_them(variables: Mapping[str, str], outer: Launcher) -> Launcher:
    """WORLD_SIZE alone, as most sites' batch scripts export it for `srun python`; or RANK alone, in a step."""
    if _TORCHRUN.rank in variables:
        if outer.name == "srun" and _number(variables, _TORCHRUN.rank) == outer.rank:
            return replace(outer, has_pmi=False)
        raise _half_set(_TORCHRUN.rank, _TORCHRUN.world_size, "torchrun")
    if _number(variables, _TORCHRUN.world_size) != outer.world_size:
        raise _another_size(variables, outer)
    return replace(outer, has_pmi=False)  # who sets this means torch to meet, not MPI


def _another_size(variables: Mapping[str, str], outer: Launcher) -> UserError:
    hint = "export WORLD_SIZE=$SLURM_NTASKS, or " if outer.name == "srun" else ""
    return UserError(
        f"WORLD_SIZE={variables[_TORCHRUN.world_size]}, but {outer.name} started {outer.world_size} "
        f"process{'' if outer.world_size == 1 else 'es'}; {hint}leave WORLD_SIZE out (unset WORLD_SIZE)"
    )


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    """A launcher whose world cannot be read: N of its processes would train N models."""
    for name, launcher in _RANKS_WITHOUT_SIZE.items():
        if name in variables and _TORCHRUN.rank not in variables:
            raise UserError(
                f"{launcher} started this process ({name}={variables[name]}) and does not say of how many; start "
                f"with mpirun, srun or torchrun, or unset {name} for a single process"
            )


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
        raise _half_set(present[0], missing, "srun" if "SLURM_JOB_ID" in variables else names.launcher)
    rank, world_size = _number(variables, names.rank), _number(variables, names.world_size)
    if not 0 <= rank < world_size:
        raise UserError(f"{names.rank}={rank} is outside a world of {names.world_size}={world_size}")
    # RANK and WORLD_SIZE alone come from one pod per rank (Kubeflow, Vertex AI); MPI's, from one machine.
    knows_local = names is not _TORCHRUN or names.local_rank in variables
    local_rank = _number(variables, names.local_rank, default=rank if knows_local else 0)
    local_size = _number(variables, names.local_size, default=world_size if knows_local else 1)
    if not 0 <= local_rank < world_size:
        raise UserError(
            f"{names.local_rank}={local_rank} is outside a world of {names.world_size}={world_size}"
        )
    return Launcher(names.launcher, rank, world_size, local_rank, local_size, knows_local=knows_local)


def _half_set(present: str, missing: str, launcher: str) -> UserError:
    return UserError(
        f"a half-set launcher environment: {present} is set and {missing} is not; "
        f"start through {launcher}, or unset {present}"
    )


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
