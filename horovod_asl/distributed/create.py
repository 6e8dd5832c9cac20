"""Choose a backend: what the user asked for, held against what the launcher's environment says."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

import torch

from horovod_asl.distributed.base import Backend, ReductionOptions, Serial, from_rank_0, sync_buffers
from horovod_asl.distributed.gpu import refuse_old_driver, refuse_unfit_gpu
from horovod_asl.distributed.launcher import Launcher, detect
from horovod_asl.distributed.roll_call import others_in_words, refuse_shared_gpus
from horovod_asl.distributed.watchdog import Watchdog
from horovod_asl.errors import UserError

__all__ = ["Backend", "ReductionOptions", "Serial", "choose", "create", "from_rank_0", "sync_buffers"]

NAMES = ("serial", "dp", "ddp", "horovod")


def choose(requested: str, launcher: Launcher, *, gpu_count: int) -> str:
    """The backend's name for a request (`auto` or one of `NAMES`) under a launcher. Starts nothing.

    Raises:
        UserError: the launcher and the request contradict each other.
    """
    if requested == "auto":
        return _automatic(launcher, gpu_count)
    if launcher.world_size > 1 and requested in ("serial", "dp"):
        raise UserError(
            f"--backend {requested} is one process, but {launcher.name} started {launcher.world_size}: "
            f"they would train {launcher.world_size} separate models; start it without {launcher.name}"
        )
    # Horovod finds its world by MPI or Gloo, torch by the address that torchrun gives; under srun both can.
    fits, remedy = (
        (launcher.name != "torchrun", "horovodrun")
        if requested == "horovod"
        else (launcher.name in ("torchrun", "srun"), "torchrun")
    )
    if launcher.world_size > 1 and not fits:
        raise UserError(
            f"--backend {requested} does not run under {launcher.name}; start it with {remedy}, "
            "or leave the choice to --backend auto"
        )
    return requested


def _automatic(launcher: Launcher, gpu_count: int) -> str:
    if launcher.name == "torchrun":
        return "ddp"
    if launcher.name == "srun" and launcher.world_size > 1:
        # With --mpi=pmix or pmi2, MPI finds its world; without either only torch can meet by address.
        return "horovod" if launcher.has_pmi else "ddp"
    # `mpirun -np 1`, or a notebook that a cluster's MPI has started, needs no Horovod to be one process.
    started_by_mpi = launcher.name not in ("none", "srun")
    if started_by_mpi and (launcher.world_size > 1 or _has_horovod()):
        return "horovod"
    return "dp" if gpu_count > 1 else "serial"


def _has_horovod() -> bool:
    return importlib.util.find_spec("horovod") is not None


def create(requested: str, *, device: str = "auto", stall_timeout_seconds: float | None = None) -> Backend:
    """Start the backend for this process.

    Args:
        requested: `auto`, `serial`, `dp`, `ddp` or `horovod`.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        stall_timeout_seconds: of several ranks, end this one when it has waited so long for the others.

    Raises:
        UserError: a half-set environment, a mismatch of launcher and backend, a device that is not there,
            or a library that sees another world than the launcher announced.
    """
    launcher = detect()
    name = choose(requested, launcher, gpu_count=torch.cuda.device_count() if device != "cpu" else 0)
    if name == "horovod" and not _has_horovod():
        raise UserError(
            "the horovod backend needs Horovod, which is not installed; run `make setup`, "
            "or use --backend serial, dp or (under torchrun) ddp"
        )
    backend = _construct(name, device, launcher, stall_timeout_seconds)
    if not backend.elastic:  # there the world may change at once, and collectives belong into `run`
        _check_world(backend, launcher)
        backend.watch()
    return backend


def _construct(
    name: str, requested_device: str, launcher: Launcher, stall_timeout_seconds: float | None
) -> Backend:
    device = _device(requested_device, launcher.local_rank if launcher.world_size > 1 else 0)
    if name == "serial":
        return Serial(device)
    if name == "dp":
        from horovod_asl.distributed.dp import DataParallel

        return DataParallel(device)
    watchdog = Watchdog(launcher.rank, launcher.world_size, timeout_s=stall_timeout_seconds)
    watchdog.start()
    if name == "ddp":
        from horovod_asl.distributed.ddp import DistributedDataParallel, meet

        meeting = meet(launcher, watchdog)
        local_rank, local_size = meeting.roll.local(launcher.rank)
        # More than a torchrun knows of where several of them share a machine, and its cores.
        launcher = replace(launcher, local_size=max(local_size, launcher.local_size))
        if not launcher.knows_local:
            launcher = replace(launcher, local_rank=local_rank)
            device = _device(requested_device, local_rank)
        if device.type == "cuda":
            refuse_shared_gpus(meeting.roll.places)
        return DistributedDataParallel(device, launcher, watchdog, meeting)
    from horovod_asl.distributed.hvd import Horovod

    watchdog.awaits = others_in_words(launcher, [])
    with watchdog.waiting():
        return Horovod(device, watchdog)


def _device(requested: str, local_rank: int) -> torch.device:
    if requested != "cpu":
        refuse_old_driver()
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU; see `horovod-asl doctor`, or use --device cpu")
    if torch.cuda.device_count() == 1 and {"SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK"} & os.environ.keys():
        local_rank = 0  # SLURM shows each task its own GPU alone
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; "
            "start at most one rank per GPU, or use --device cpu"
        )
    device = torch.device("cuda", local_rank)
    refuse_unfit_gpu(device)
    torch.cuda.set_device(device)
    return device


def _check_world(backend: Backend, launcher: Launcher) -> None:
    if backend.world_size != launcher.world_size:
        raise UserError(
            f"{launcher.name} started {launcher.world_size} processes but {backend.name} sees "
            f"{backend.world_size}: they would train separate models. Is this MPI the one that Horovod was "
            "built with? `horovod-asl doctor` shows both"
        )
