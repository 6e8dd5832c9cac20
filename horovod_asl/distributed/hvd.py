"""Horovod: the only file that imports horovod. Its traps (shared/FACTS.md) are handled here and named.

Settings by device, chosen before MPI and Horovod start, each only where the user has not set it:

- CPU: ranks yield while they wait (`mpi_yield_when_idle`) and the cycle is 25 ms, because Open MPI's waiting
  spins on the very cores that compute. Measured on two cores: 26 img/s per rank by default, 46 so.
- GPU: Horovod's own 1 ms cycle; waiting costs no compute there.
- The stall check warns after 30 s and ends the job after 600 s; by default Horovod only ever warns. While
  training the watchdog is quicker, and also sees what blocks inside MPI.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from horovod_asl.distributed.base import ReductionOptions
from horovod_asl.distributed.watchdog import Watchdog, Watched
from horovod_asl.errors import UserError
from horovod_asl.system.cores import allowed_cores

T = TypeVar("T")

_CPU_SETTINGS = {"OMPI_MCA_mpi_yield_when_idle": "1", "HOROVOD_CYCLE_TIME": "25"}
_ALL_SETTINGS = {
    "HOROVOD_STALL_CHECK_TIME_SECONDS": "30",
    "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600",
    "HOROVOD_DISABLE_GROUP_FUSION": "1",
}
# The values in force when the variables are unset (Horovod's documentation says 64 MB; its code 128).
_DEFAULT_FUSION_MIB, _DEFAULT_CYCLE_MS = 128, 1.0


class Horovod(Watched):
    """One process per rank; DistributedOptimizer averages gradients in a ring allreduce (MPI, Gloo or NCCL)."""

    name = "horovod"

    def __init__(self, device: torch.device, watchdog: Watchdog) -> None:
        super().__init__(device, watchdog)
        self._hvd = _start(device)
        self.elastic = os.environ.get("HOROVOD_ELASTIC") == "1"
        self.lost = (
            () if self.elastic else ("Horovod has been shut down",)
        )  # elastic `run` acts on the error itself
        self._take_place()
        self._adasum = self._compressed = False
        if device.type == "cuda" and not (self._hvd.nccl_built() or self._hvd.cuda_built()):
            raise UserError(
                "this Horovod was built without a GPU's operations (on a machine without one?); build it here "
                "(`rm -rf .venv && make setup`), or use torchrun (--backend ddp), or --device cpu"
            )

    def _take_place(self) -> None:
        hvd = self._hvd
        self.rank, self.world_size, self.num_replicas = hvd.rank(), hvd.size(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def run(self, body: Callable[[Any], T]) -> T:
        """Under `horovodrun --min-np`, once more after each change of ranks; else once.

        Horovod's own elastic sampler counts whole batches on every rank, also the short last ones, and so loses
        or repeats photos (horovod#3143, #3399): the position in the epoch is part of our state instead.
        """
        if not self.elastic:
            return body(None)
        self._committed = _committed_state(self._hvd)

        @self._hvd.elastic.run  # type: ignore[untyped-decorator]
        def attempt(state: Any) -> T:
            self._take_place()
            return body(state.value)

        result: T = attempt(self._committed)
        return result

    def commit(self, state: Any) -> None:
        if self.elastic:
            self._committed.value = state
            with self._collective():
                self._committed.commit()  # where hosts came or went, this leaves `attempt`

    def wrap(
        self, model: nn.Module, optimizer: Optimizer, options: ReductionOptions
    ) -> tuple[nn.Module, Optimizer]:
        self._refuse(options)
        hvd = self._hvd
        self._adasum = options.adasum and self.world_size > 1
        self._compressed = options.fp16_compression
        optimizer = hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            compression=_contiguous(
                hvd.Compression.fp16 if options.fp16_compression else hvd.Compression.none
            ),
            backward_passes_per_step=options.backward_passes_per_step,
            op=hvd.Adasum if options.adasum else hvd.Average,
            # One group, fused with nothing else, is laid out alike in every step: over three ranks and more the
            # order of a ring's sums, and so their last bit, would otherwise depend on which gradient came first.
            groups=1 if options.deterministic else None,
        )
        return model, optimizer

    def _refuse(self, options: ReductionOptions) -> None:
        if options.adasum and self.world_size > 1 and not self._hvd.mpi_enabled():
            raise UserError(
                "Adasum fails under Horovod's Gloo controller; start with mpirun or horovodrun --mpi"
            )
        if options.adasum and self.world_size & (self.world_size - 1):
            raise UserError(f"Adasum needs a power of two of ranks, not {self.world_size}")

    @contextlib.contextmanager
    def gradients(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        with self._naming_lost_ranks():  # backward hands gradients over
            yield

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        if not self._adasum:  # Adasum reduces whole updates, in its step
            with self._collective():
                optimizer.synchronize()  # type: ignore[attr-defined]

    def apply(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        ready: Any = contextlib.nullcontext() if self._adasum else optimizer.skip_synchronize()  # type: ignore[attr-defined]
        with ready, self._collective() if self._adasum else contextlib.nullcontext():
            super().apply(optimizer, scaler)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        with self._collective():
            total: torch.Tensor = self._hvd.allreduce(
                tensor.detach(), op=self._hvd.Sum, name="horovod_asl.sum"
            )
        return total

    def broadcast(self, value: T) -> T:
        # A name of its own: unnamed broadcasts hang when the objects' types differ by rank.
        with self._collective():
            result: T = self._hvd.broadcast_object(value, root_rank=0, name="horovod_asl.broadcast")
        return result

    def gather(self, value: T) -> list[T]:
        if self.world_size == 1:
            return [value]
        with self._collective():
            result: list[T] = self._hvd.allgather_object(value, name="horovod_asl.gather")
        return result

    def barrier(self) -> None:
        with self._collective():
            self._hvd.barrier()

    def describe(self) -> dict[str, Any]:
        environment = os.environ
        gpu_operations = "nccl" if self._hvd.nccl_built() else "mpi"
        return {
            "controller": "mpi" if self._hvd.mpi_enabled() else "gloo",
            "operations": gpu_operations if self.device.type == "cuda" else "cpu",
            "reduction": "adasum" if self._adasum else "average",
            "compression": "fp16" if self._compressed else "none",
            "fusion_mib": int(environment.get("HOROVOD_FUSION_THRESHOLD", _DEFAULT_FUSION_MIB << 20)) / 2**20,
            "cycle_ms": float(environment.get("HOROVOD_CYCLE_TIME", _DEFAULT_CYCLE_MS)),
            "yield_when_idle": environment.get("OMPI_MCA_mpi_yield_when_idle", "0") == "1",
        }

    def close(self) -> None:
        self._hvd.shutdown()
        super().close()


def built() -> dict[str, dict[str, bool]]:
    """What `horovodrun --check-build` ticks: frameworks, controllers and operations, each name → built.

    Asked in this process; Horovod's own command starts one for each of its checks, and each imports torch.

    Raises:
        ImportError: Horovod cannot be imported.
    """
    hvd = _imported()
    home = Path(importlib.import_module("horovod").__path__[0])
    controllers = {"MPI": bool(hvd.mpi_built()), "Gloo": bool(hvd.gloo_built())}
    others = {"NCCL": hvd.nccl_built(), "DDL": hvd.ddl_built(), "CCL": hvd.ccl_built()}
    return {
        "frameworks": {
            name: any((home / name.lower()).glob("mpi_lib*.so")) or name == "PyTorch"
            for name in ("TensorFlow", "PyTorch", "MXNet")
        },
        "controllers": controllers,
        "operations": {name: bool(value) for name, value in others.items()} | controllers,
    }


def _imported() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources and friends, from libraries that Horovod imports
        import horovod.torch as hvd
    return hvd


def _start(device: torch.device) -> Any:
    """Import and initialise Horovod with our settings; the affinity that it may narrow is put back."""
    for name, value in (_ALL_SETTINGS | (_CPU_SETTINGS if device.type == "cpu" else {})).items():
        os.environ.setdefault(name, value)
    # An orted of several hosts hands its own parameters down; ranks read ours, set here, at MPI_Init.
    cores = allowed_cores()
    try:
        hvd = _imported()
    except ImportError as error:
        raise UserError(
            f"the horovod backend needs Horovod ({error}); run `make setup`, "
            "or use --backend serial, dp or (under torchrun) ddp"
        ) from error
    hvd.init()
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, cores)
    return hvd


def _committed_state(hvd: Any) -> Any:
    """What elastic ranks hand on: `value`, from rank 0, which Horovod gives to a rank that was there before."""
    from horovod.common.elastic import State

    class Committed(State):  # type: ignore[misc]
        value: Any = None

        def save(self) -> None:
            """`value` was set by who commits."""

        def restore(self) -> None:
            """The next attempt begins from `value`, whatever the last one left."""

        def sync(self) -> None:
            self.value = hvd.broadcast_object(self.value, root_rank=0, name="horovod_asl.committed")

    named = functools.partial(hvd.broadcast_object, name="horovod_asl.hosts")
    return Committed(bcast_object=named, get_rank=hvd.rank)


def _contiguous(compression: Any) -> Any:
    """`compression` over contiguous tensors: channels_last gradients are refused otherwise (horovod#3491)."""

    class Contiguous(compression):  # type: ignore[misc]
        @staticmethod
        def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
            compressed, context = compression.compress(tensor.contiguous())
            return compressed, (context, tensor.stride())

        @staticmethod
        def decompress(tensor: torch.Tensor, context: Any) -> torch.Tensor:
            """The strides come back too: fused optimizers read gradient and weight side by side."""
            inner, stride = context
            averaged: torch.Tensor = compression.decompress(tensor, inner)
            if averaged.stride() == stride:
                return averaged
            return averaged.new_empty_strided(averaged.shape, stride).copy_(averaged)

    return Contiguous
