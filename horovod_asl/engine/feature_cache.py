"""The file in which features of frozen layers are kept: one per machine, mapped by its ranks.

Without a `--cache-features FILE` it is already removed from its folder, so it goes when the last rank ends. A named
file is filled by one training at a time; others wait, and then use what it computed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from horovod_asl.distributed.base import Backend
from horovod_asl.errors import UserError
from horovod_asl.runs.preemption import StopSignal
from horovod_asl.store.mapping import refuses_maps
from horovod_asl.system.files import full_disk, is_full, write_atomically
from horovod_asl.system.locks import Holder, Lock

_REPORT_EVERY_S = 60.0


@dataclass(frozen=True)
class FeatureCache:
    """Features in a file that stays, and beside it (`.json`) what they are of and how many rows are there.

    Attributes:
        fingerprint: what decides the features; a file of others is refused.
    """

    path: Path
    fingerprint: Mapping[str, Any]

    def rows_done(self) -> int:
        """Rows that are there, 0 for a file that is still to be made; UserError if they are of something else."""
        note = self._fingerprint_file
        if not self.path.exists():
            return 0
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            fingerprint, rows = content["about"], int(content["rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--cache-features {self.path} is there and is none of ours, or what it holds ({note.name}) "
                "cannot be read: name another file, or remove it"
            ) from error
        if fingerprint != json.loads(json.dumps(self.fingerprint)):
            raise UserError(
                f"{self.path} holds features of other photos or weights: name another file with "
                f"--cache-features, or remove it and {note.name}"
            )
        return rows

    def write_fingerprint(self, rows: int) -> None:
        """Write down that so many rows are there."""
        write_atomically(self._fingerprint_file, json.dumps({"about": self.fingerprint, "rows": rows}))

    @property
    def _fingerprint_file(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


@contextlib.contextmanager
def alone(
    kept: FeatureCache | None, count: int, dtype: np.dtype[Any], backend: Backend, stop: StopSignal
) -> Iterator[bool | None]:
    """Within, no other training fills the kept file, and this rank makes the file that it maps if the value is true.

    None where some rank was asked to stop while they waited. The first rank of each machine locks the file that it
    sees. Where machines share a disk, that is one file: one of them makes it, and its lock is everybody's. Nobody
    keeps one lock while it waits for another, or two trainings might wait for each other. All ranks come here each
    second, so the watchdog sees them alive.
    """
    if kept is None:
        yield backend.local_rank == 0
        return
    lock = Lock(kept.path.with_name(f".{kept.path.name}.lock"), lambda line: print(line, flush=True))
    started, next_s = time.monotonic(), 0.0
    try:
        while True:
            holder = _try(lock, kept, count, dtype) if backend.local_rank == 0 else None
            found = backend.gather((lock.token, holder, stop.received))
            own = {token for token, _, _ in found}
            others = [other for _, other, _ in found if other is not None and other.token not in own]
            if not others:
                yield backend.local_rank == 0 and holder is None
                return
            lock.release()
            if any(stops for _, _, stops in found):
                yield None
                return
            waited_s = time.monotonic() - started
            if backend.rank == 0 and waited_s >= next_s:
                so_far = f", {waited_s / 60:.0f} min so far" if next_s else ""
                print(f"{kept.path} is being filled by {others[0]}; waiting for it{so_far}", flush=True)
                next_s += _REPORT_EVERY_S
            time.sleep(1)
    finally:
        lock.release()


def _try(lock: Lock, kept: FeatureCache, count: int, dtype: np.dtype[Any]) -> Holder | None:
    """Lock a file that is still to be filled; whoever holds the lock, else None."""
    try:
        if kept.rows_done() == count and kept.path.stat().st_size == count * dtype.itemsize:
            return None
        kept.path.parent.mkdir(parents=True, exist_ok=True)
        return lock.take()
    except (UserError, OSError):
        return None  # `_make_file` comes upon the same and says it on all ranks


def record_rows(kept: FeatureCache, table: np.memmap[Any, Any], rows: int) -> None:
    """Write down that so many rows are there, once they are on the disk: after a crash the rest would be zeros."""
    try:
        table.flush()
        kept.write_fingerprint(rows)
    except OSError as error:
        if not is_full(error):
            raise
        raise full_disk(kept.path.parent, "free some room, or name another --cache-features") from error


def shared_table(
    backend: Backend, photos: int, dtype: np.dtype[Any], kept: FeatureCache | None, *, makes_file: bool
) -> np.memmap[Any, Any]:
    """Records (photos,), one array for all ranks of a machine: the first of them makes it, the others map it."""
    made, fault = _make_file(photos * dtype.itemsize, kept) if makes_file else (None, None)
    reported = backend.gather((platform.node(), made, fault))
    faults = [text for _, _, text in reported if text is not None]
    if faults:
        if made is not None and kept is None:
            made.unlink()
        raise UserError(faults[0])
    if kept is None:
        path = made or next(
            file for host, file, _ in reported if file is not None and host == platform.node()
        )
    else:
        path = kept.path
        if backend.local_rank == 0 and not makes_file:
            path.touch()  # another host made it: NFS may remember that it was not there, and a touch asks anew
    table: np.memmap[Any, Any] = np.memmap(path, dtype, "r+", shape=(photos,))
    backend.barrier()
    if made is not None and kept is None:
        made.unlink()
    return table


def _make_file(size_bytes: int, kept: FeatureCache | None) -> tuple[Path | None, str | None]:
    """A file whose room is taken already, or why there is none."""
    path = None
    try:
        if kept is not None and kept.rows_done() > 0 and kept.path.stat().st_size == size_bytes:
            with kept.path.open("r+b") as file:
                _require_maps(file, kept.path)
            return kept.path, None
        if kept is None:
            handle, name = tempfile.mkstemp(prefix="horovod_asl-features-")
            path = Path(name)
        else:
            kept.path.parent.mkdir(parents=True, exist_ok=True)
            kept.write_fingerprint(0)  # first: a file without a note is none of ours
            path, handle = kept.path, os.open(kept.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        with os.fdopen(handle, "r+b") as file:
            _reserve(file, size_bytes)
            _require_maps(file, path)
    except UserError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        return None, str(error)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        where = "a temporary file" if kept is None else str(kept.path)
        return None, (
            f"no room for the features of the frozen backbone on {platform.node()}: they take "
            f"{size_bytes / 2**30:.2f} GiB in {where} ({error}); name another folder in "
            f"{'TMPDIR' if kept is None else '--cache-features'}"
        )
    return path, None


def _reserve(file: BinaryIO, size_bytes: int) -> None:
    """Take the room of a new file now: written through a map, a full disk would end the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    block = bytes(1 << 20)
    for start in range(0, size_bytes, len(block)):
        file.write(block[: size_bytes - start])
    file.flush()


def _require_maps(file: BinaryIO, path: Path) -> None:
    """UserError where the file cannot be mapped: the ranks of a machine share it, so that memory is no way out."""
    try:
        mmap.mmap(file.fileno(), 0).close()
    except OSError as error:
        if not refuses_maps(error):
            raise
        raise UserError(
            f"the file system of {path.parent} on {platform.node()} refuses memory maps, which the features of the "
            "frozen backbone need: name a folder on a local disk in TMPDIR, or a file there with --cache-features"
        ) from error
