"""The arrays of .npy files: mapped, or read into memory where the file system refuses memory maps.

FUSE with direct I/O, Weka and some network file systems let files be read and not mapped.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.distributed.launcher import announced_rank, detect
from horovod_asl.errors import UserError

_REFUSALS = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


def refuses_maps(error: OSError) -> bool:
    """Whether a file was opened, and could not be mapped."""
    return error.filename is None and error.errno in _REFUSALS


def open_arrays(files: Sequence[Path], *, are_all: bool = True) -> list[NDArray[Any]]:
    """The arrays in these files of one folder, to be read; a line on standard error says where they are not mapped.

    Args:
        are_all: no others of the folder will follow, so that the line tells how much memory they take.

    Raises:
        UserError: they can't be mapped, and memory is too small to read them.
    """
    try:
        return [np.asarray(np.load(file, mmap_mode="r")) for file in files]  # np.memmap itself indexes slowly
    except OSError as error:
        if not refuses_maps(error):
            raise
    _require_memory(files, are_all=are_all)
    return [np.load(file) for file in files]


def _require_memory(files: Sequence[Path], *, are_all: bool) -> None:
    import psutil  # only here: others do without

    ranks = detect().local_size
    needed, free = sum(file.stat().st_size for file in files), psutil.virtual_memory().available
    folder = files[0].parent
    each = f" in each of {ranks} ranks" if ranks > 1 else ""
    if ranks * needed > free:
        raise UserError(
            f"the file system of {folder} refuses memory maps, and reading its files takes {needed / 2**30:.1f} GiB"
            f"{each} where {free / 2**30:.1f} GiB are free: copy the folder to a local disk"
        )
    if announced_rank() in (None, "0"):
        _say_once(folder, f"{needed / 2**30:.2f} GiB{each}" if are_all else "")


@functools.cache
def _say_once(folder: Path, memory: str) -> None:
    taken = f" ({memory})" if memory else ""
    print(
        f"note: the file system of {folder} refuses memory maps; its files are read into memory{taken}",
        file=sys.stderr,
    )
