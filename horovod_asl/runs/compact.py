"""Weights in half the room where that changes nothing: numbers that 16 bits hold exactly are stored in 16.

Networks whose weights were published as float16 keep such numbers where they are not trained further. A tensor is
stored as float16 only if every one of its values comes back with the same bits; the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save


def fits_half(values: NDArray[np.float32]) -> bool:
    """Whether all of float32 `values` come back from float16 with the same bits."""
    with np.errstate(over="ignore"):
        back = values.astype(np.float16).astype(np.float32)
    return bool(np.array_equal(back.view(np.uint32), values.view(np.uint32)))


def save_compact(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict as safetensors; float32 tensors that `fits_half` takes, as float16."""
    compacted = {name: _compacted(tensor.detach().cpu().contiguous()) for name, tensor in weights.items()}
    path.write_bytes(save(compacted))  # safetensors' own save_file keeps others from reading it


def load_compact(path: Path) -> dict[str, torch.Tensor]:
    """The state dict that `save_compact` wrote: every float16 tensor as float32."""
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in load(path.read_bytes()).items()
    }


def _compacted(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.dtype == torch.float32 and fits_half(tensor.numpy()) else tensor
