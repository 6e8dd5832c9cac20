"""What goes wrong with a GPU through no fault of the program's, in one line with a remedy."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

import torch

from horovod_asl.errors import UserError

_LESS_MEMORY = (
    "lower --batch-size-per-replica, and raise --accumulation-steps by as much for the same global batch"
)


def refuse_unfit_gpu(device: torch.device) -> None:
    """UserError if this torch was built without kernels for the GPU: it would fail in its first operation."""
    capability, built_for = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    if not has_kernels(capability, built_for):
        raise UserError(_no_kernels(torch.cuda.get_device_name(device), capability, built_for))


def has_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether code for these architectures (`sm_90`, `compute_90`, …) runs on a GPU of this compute capability.

    Machine code (sm) runs on later minor versions of its major one, PTX (compute) on all later versions; `a` means
    that version alone, and what is not understood counts as fitting.
    """
    for name in built_for:
        known = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if known is None:  # AMD's, or a kind that is newer than this
            return True
        kind, major, minor, suffix = known[1], int(known[2]), int(known[3]), known[4]
        if suffix == "a":
            fits = capability == (major, minor)
        elif kind == "compute" and not suffix:
            fits = capability >= (major, minor)
        else:
            fits = capability[0] == major and capability[1] >= minor
        if fits:
            return True
    return not built_for


def refuse_old_driver() -> None:
    """UserError if there is a GPU and its driver is too old for this torch, which then sees none."""
    if torch.version.cuda is None or torch.cuda.is_available():
        return
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "driver" in str(error) and "too old" in str(error):
            raise UserError(_old_driver(error)) from error


def in_one_line(error: BaseException) -> str | None:
    """The fault and the remedy for torch's errors that are not the program's; None for all others."""
    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"{_memory()}: {_LESS_MEMORY}"
    if not isinstance(error, RuntimeError):
        return None
    if "can't allocate memory" in text:
        return f"{platform.node()} is out of memory: {_LESS_MEMORY}; or start fewer ranks"
    if "no kernel image is available" in text:
        device = torch.cuda.current_device()
        capability = torch.cuda.get_device_capability(device)
        return _no_kernels(torch.cuda.get_device_name(device), capability, torch.cuda.get_arch_list())
    if "driver" in text and ("too old" in text or "insufficient" in text):
        return _old_driver(error)
    return None


def _memory() -> str:
    try:
        device = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.max_memory_allocated(device)
    except (RuntimeError, AssertionError):  # the GPU may not answer any more
        return f"a GPU of {platform.node()} is out of memory"
    used = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB in use"
    return (
        f"GPU {device} of {platform.node()} is out of memory ({used}, this process took up to {own / 2**30:.1f})"
    )


def _no_kernels(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> str:
    return (
        f"{name} on {platform.node()} has compute capability {capability[0]}.{capability[1]}, and this torch "
        f"{torch.__version__} was built for {', '.join(built_for)}: install a torch for it (TORCH_INDEX_URL=… make "
        "setup), or use --device cpu"
    )


def _old_driver(error: BaseException) -> str:
    found = re.search(r"found version (\d+)", str(error))
    version = f" (CUDA {int(found[1]) // 1000}.{int(found[1]) % 1000 // 10})" if found else ""
    return (
        f"the NVIDIA driver of {platform.node()}{version} is too old for this torch, built for CUDA "
        f"{torch.version.cuda}: install a newer driver or a torch for an older CUDA (TORCH_INDEX_URL=… make setup), "
        "or use --device cpu"
    )
