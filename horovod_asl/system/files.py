"""What several rooms need of files: atomic writes, digests, and a full disk in one line."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path

from horovod_asl.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by the content: a reader sees the old or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    if isinstance(content, str):
        content = content.encode("utf-8", errors="surrogateescape")  # file names may be no UTF-8
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota that is full is behind this error, which a library may have wrapped in its own."""
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        in_rust = re.search(r"\(os error (\d+)\)", str(seen))  # of safetensors, whose errors have no errno
        if number in _FULL or (in_rust is not None and int(in_rust[1]) in _FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def full_disk(folder: Path, remedy: str) -> UserError:
    """The error for a disk that is full: which folder, what is free there, and what to do.

    Args:
        folder: where something was being written; it need not exist.
        remedy: the rest of the line.
    """
    there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
    state = os.statvfs(there)
    free = state.f_bavail * state.f_frsize
    shown = f"{free / 1e9:.1f} GB free" if free >= 1e9 else f"{free / 1e6:.1f} MB free"
    if state.f_files and not state.f_favail:
        shown = "no room for another file's name"
    return UserError(f"the disk of {folder} is full, or your quota is used up ({shown}): {remedy}")
