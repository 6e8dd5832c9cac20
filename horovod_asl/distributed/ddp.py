"""DistributedDataParallel: the only file that imports torch.distributed."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.optim import Optimizer

from horovod_asl.distributed.base import ReductionOptions
from horovod_asl.distributed.launcher import Launcher, is_torchruns_worker
from horovod_asl.distributed.roll_call import Roll, call_roll, others_in_words, own_place
from horovod_asl.distributed.watchdog import Watchdog, Watched
from horovod_asl.errors import UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)
# What listens where rank 0 should, and is not torch's store, keeps a client of it waiting for ever.
_ANSWER_WITHIN_S = 15.0


@dataclass(frozen=True)
class Meeting:
    """The ranks have found each other; the process group has not begun."""

    store: Store
    roll: Roll


class DistributedDataParallel(Watched):
    """One process per rank, gradients averaged by torch's DDP over Gloo (CPU) or NCCL (CUDA)."""

    name = "ddp"

    def __init__(
        self, device: torch.device, launcher: Launcher, watchdog: Watchdog, meeting: Meeting
    ) -> None:
        super().__init__(device, watchdog)
        self.collective = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            self.collective,
            store=PrefixStore(meeting.roll.token, meeting.store),
            rank=launcher.rank,
            world_size=launcher.world_size,
            timeout=TIMEOUT,
        )
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = launcher.local_rank, launcher.local_size
        self.num_replicas = self.world_size

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, options: ReductionOptions
    ) -> tuple[nn.Module, Optimizer]:
        super().wrap(model, optimizer, options)
        # DDP's own start-up broadcast makes the weights equal. Buffers stay per rank, as under Horovod.
        with warnings.catch_warnings():
            # Newer torch has a second name for broadcast_buffers.
            warnings.simplefilter("ignore", FutureWarning)
            module = nn.parallel.DistributedDataParallel(
                model,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                # Without, DDP lays out its buckets anew after the first step, and with it the order of its sums:
                # over three ranks and more a resumed run would differ in the last bit.
                find_unused_parameters=options.deterministic,
            )
        return module, optimizer

    @contextlib.contextmanager
    def gradients(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        no_sync = getattr(module, "no_sync", None)
        if last:  # backward waits for the other ranks
            with self._collective():
                yield
            return
        with contextlib.nullcontext() if no_sync is None else no_sync():
            yield

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.detach().to(self.device, copy=True)
        with self._collective():
            dist.all_reduce(total)
        return total.to(tensor.device)

    def broadcast(self, value: T) -> T:
        box = [value]
        with self._collective():
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: T) -> list[T]:
        box: list[Any] = [None] * self.world_size
        with self._collective():
            dist.all_gather_object(box, value)
        return box

    def barrier(self) -> None:
        with self._collective():
            dist.barrier()

    def describe(self) -> dict[str, Any]:
        return {"collective": self.collective}

    def close(self) -> None:
        dist.destroy_process_group()
        super().close()


def meet(launcher: Launcher, watchdog: Watchdog) -> Meeting:
    """Find the other ranks at MASTER_ADDR and MASTER_PORT; `watchdog`, which runs, says for whom it waits.

    Raises:
        UserError: nothing says where they meet, the port is taken, or ranks do not come.
    """
    _complete_environment(launcher)
    address, port = os.environ["MASTER_ADDR"], _port()
    with watchdog.waiting():
        # torchrun's agent holds the store; without torchrun rank 0 does.
        has_agent = is_torchruns_worker() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if launcher.rank == 0 and not has_agent:
            store = _held_store(port, launcher.world_size)
        else:
            store = _joined_store(address, port, launcher, watchdog)

        def missing(ranks: list[int]) -> None:
            where = f" (rank 0 listens on {platform.node()}, port {port})" if launcher.rank == 0 else ""
            watchdog.awaits = others_in_words(launcher, ranks) + where if ranks else ""

        limit_s = TIMEOUT.total_seconds()
        roll = call_roll(
            store,
            launcher.rank,
            launcher.world_size,
            own_place(launcher),
            timeout_s=limit_s,
            answer_s=limit_s if has_agent else 4 * _ANSWER_WITHIN_S,  # else it is rank 0 that listens
            missing=missing,
        )
    return Meeting(store, roll)


def _port() -> int:
    text = os.environ["MASTER_PORT"]
    if not text.isdecimal() or int(text) >= 2**16:
        raise UserError(f"MASTER_PORT={text!r} is not a port: give a number up to 65535, the same on all ranks")
    return int(text)


def _held_store(port: int, world_size: int) -> TCPStore:
    try:
        return TCPStore("127.0.0.1", port, world_size, True, TIMEOUT, wait_for_workers=False)
    except dist.DistNetworkError as error:
        reason = "another program listens there" if "EADDRINUSE" in str(error) else str(error).split("\n")[0]
        raise UserError(
            f"cannot listen on port {port} of {platform.node()} ({reason}): set MASTER_PORT to a free port, "
            "the same on all ranks"
        ) from error


def _joined_store(address: str, port: int, launcher: Launcher, watchdog: Watchdog) -> TCPStore:
    deadline_s = time.monotonic() + TIMEOUT.total_seconds()
    while True:  # by hand: torch's own attempts print C++ frames
        try:
            socket.create_connection((address, port), timeout=5).close()
            break
        except OSError as error:
            watchdog.awaits = f"rank 0 at {address}:{port} ({error.strerror or error})"
            if time.monotonic() > deadline_s:
                raise UserError(
                    f"rank 0 did not answer at {address}:{port} ({error.strerror or error}): is it started, and are "
                    "MASTER_ADDR and MASTER_PORT the same on all ranks?"
                ) from error
        time.sleep(0.2)
    stranger = f"what listens at {address}:{port} is not rank 0 of this job: set MASTER_PORT to a free port, the "
    with watchdog.leaving_after(_ANSWER_WITHIN_S, stranger + "same on all ranks"):
        return TCPStore(address, port, launcher.world_size, False, TIMEOUT, wait_for_workers=False)


def _complete_environment(launcher: Launcher) -> None:
    """Give torch the meeting point that torchrun sets and srun does not.

    Raises:
        UserError: several ranks, and nothing says where they meet.
    """
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent and launcher.name == "torchrun" and launcher.world_size > 1:
        raise UserError(
            f"a half-set launcher environment: RANK and WORLD_SIZE are set and {absent[0]} is not; "
            "start through torchrun, or unset them"
        )
    if "MASTER_ADDR" in absent:
        if launcher.world_size == launcher.local_size:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        elif launcher.name == "srun":
            os.environ["MASTER_ADDR"] = _first_slurm_host()
        else:
            raise UserError("ddp over several hosts needs MASTER_ADDR and MASTER_PORT; torchrun sets both")
    # One port per job, the same on all its ranks: jobs that share a node do not meet each other.
    job = int(os.environ.get("SLURM_JOB_ID", "0")) * 16 + int(os.environ.get("SLURM_STEP_ID", "0"))
    port = 0 if launcher.world_size == 1 else 29500 + job % 3000
    os.environ.setdefault("MASTER_PORT", str(port))


def _first_slurm_host() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "")
    if "[" not in nodes:
        return nodes.split(",")[0]
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"cannot expand SLURM's node list {nodes!r} ({error}); set MASTER_ADDR") from error
    return listed.stdout.split()[0]
