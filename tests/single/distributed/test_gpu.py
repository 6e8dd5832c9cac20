"""What goes wrong with a GPU, in one line. torch.cuda is a stand-in here: these machines have no GPU to fill."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from horovod_asl.distributed import gpu
from horovod_asl.distributed.create import _device
from horovod_asl.errors import UserError

GIB = 2**30
# As torch 2.13 for CUDA 13 answers; its builds for CUDA 12.6 begin with sm_50.
NEW_BUILD = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "fits"),
    [
        ((9, 0), NEW_BUILD, True),
        ((8, 9), NEW_BUILD, True),  # an L4 runs sm_86
        ((12, 1), NEW_BUILD, True),
        ((6, 1), NEW_BUILD, False),  # a GTX 1080
        ((7, 0), NEW_BUILD, False),  # a V100
        ((12, 0), ["sm_80", "sm_90"], False),  # an RTX 5090 under an older torch
        ((12, 0), ["sm_80", "sm_90", "compute_90"], True),  # by PTX
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a"], False),
        ((9, 4), ["gfx90a", "gfx942"], True),  # AMD's are not judged
        ((9, 0), [], True),
    ],
)
def test_which_kernels_run_where(capability: tuple[int, int], built_for: list[str], fits: bool) -> None:
    assert gpu.has_kernels(capability, built_for) == fits


def stand_in(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """torch.cuda as it answers with one GPU, but for `answers`."""
    usual: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "get_arch_list": NEW_BUILD,
        "get_device_name": "NVIDIA H100",
        "set_device": None,
        "mem_get_info": (1 * GIB, 80 * GIB),
        "max_memory_allocated": 78 * GIB,
    }
    for name, answer in (usual | answers).items():
        function = answer if callable(answer) else lambda *words, answer=answer: answer
        monkeypatch.setattr(torch.cuda, name, function)


def test_a_gpu_without_kernels_is_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    assert _device("auto", 0) == torch.device("cuda", 0)
    stand_in(monkeypatch, get_device_capability=(6, 1), get_device_name="NVIDIA GTX 1080")
    with pytest.raises(UserError, match=r"NVIDIA GTX 1080 on .* compute capability 6\.1.*sm_75.*--device cpu"):
        _device("auto", 0)


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


def refused_by_cuda(text: str) -> Any:
    def init() -> None:
        raise RuntimeError(text)

    return init


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_a_driver_that_is_too_old_is_no_reason_to_take_the_cpu(
    requested: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, is_available=False, init=refused_by_cuda(TOO_OLD))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"driver of .* \(CUDA 11\.4\) is too old .*CUDA 13\.0: .*newer driver"):
        _device(requested, 0)
    assert _device("cpu", 0).type == "cpu"


def test_without_a_gpu_auto_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, is_available=False, init=refused_by_cuda("Found no NVIDIA driver on your system."))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert _device("auto", 0).type == "cpu"


def test_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    line = gpu.in_one_line(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB."))
    assert line is not None
    assert line.startswith(f"GPU 0 of {platform.node()} is out of memory (79.0 of 80.0 GiB in use")
    assert "this process took up to 78.0" in line
    assert "--batch-size-per-replica" in line
    assert "--accumulation-steps" in line


def test_the_machine_s_memory_too() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    line = gpu.in_one_line(caught.value)
    assert line is not None
    assert "is out of memory: lower --batch-size-per-replica" in line


def test_a_kernel_that_is_missing_is_named_also_in_mid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, get_device_capability=(7, 0), get_device_name="Tesla V100")
    text = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be …"
    line = gpu.in_one_line(RuntimeError(text))
    assert line is not None
    assert line.startswith("Tesla V100 on ")


@pytest.mark.parametrize("error", [RuntimeError("the sizes do not match"), ValueError("no"), KeyError("x")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    assert gpu.in_one_line(error) is None
