"""Locks between processes, on one machine or on several that share a disk.

A lock is a file that names its holder: host, process, time, SLURM job. It appears at once and whole (`link` fails
where the name is taken, also on NFS), and whoever finds it decides whether its holder still runs:

- in this boot and process namespace: by the process, so a killed holder never keeps the next start waiting;
- elsewhere (another host or container): by the file's time, which a live holder renews every 10 s. The file system's
  own clock is used, and a lock that was not renewed for a minute is stale;
- a SLURM job that was requeued takes over from its own earlier start at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from horovod_asl.system.process_identity import pid_namespace, status_of

STALE_AFTER_S = 60.0
_RENEW_EVERY_S = 10.0
_LOOK_EVERY_S = 0.5
_REPORT_EVERY_S = 60.0
# FAT, some FUSE file systems; on macOS ENOTSUP is another number.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names; `str()` is for messages."""

    host: str
    pid: int
    began: int | None
    """When the process began, in clock ticks since the boot: tells it from a later one with the same pid."""
    machine: str
    """The boot and the process namespace in which `pid` means this process; empty if the system does not tell."""
    since: str
    job: str | None
    restarts: int
    place: str
    """The path of the lock file, and below its inode: of a copy of the folder that it is in, both are others."""
    inode: int
    token: str
    """Of this lock alone."""
    is_alive: bool = False
    """For certain: it runs on this machine, or renewed the file while we looked. Else nobody knows yet."""

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.since}" if self.pid else "an unknown process"


class Lock:
    """One lock file. Not for threads of one process among themselves.

    Args:
        path: the file; its folder must exist.
        log: gets a line where a stale lock was taken over.
    """

    def __init__(self, path: Path, log: Callable[[str], None] = lambda line: None) -> None:
        self.path = path
        self.token: str | None = None
        """Of the lock while this process holds it."""
        self._log = log
        self._seen: tuple[str, float] | None = None
        self._released = threading.Event()
        self._renewal: threading.Thread | None = None

    def take(self, *, force: bool = False) -> Holder | None:
        """Take the lock without waiting; None when it is ours, else who holds it.

        Args:
            force: take it from whoever holds it, where the caller knows better.

        Raises:
            OSError: the folder cannot be written.
        """
        own = _this_process(self.path)
        draft = self.path.with_name(f"{self.path.name}.{own.token}")
        try:
            with draft.open("x") as file:
                own = replace(own, inode=os.fstat(file.fileno()).st_ino)
                file.write(_as_text(own))
            holder = self._place(draft, own, force=force)
        finally:
            draft.unlink(missing_ok=True)
        if holder is None:
            self.token = own.token
            self._released.clear()
            self._renewal = threading.Thread(target=self._renew, name="lock", daemon=True)
            self._renewal.start()
        return holder

    def release(self) -> None:
        """Give the lock back, if this process holds it."""
        if self.token is None:
            return
        self._released.set()
        if self._renewal is not None:
            self._renewal.join()
        with contextlib.suppress(OSError):  # the whole folder may be gone
            found = _read(self.path)
            if found is not None and found[0].token == self.token:
                self.path.unlink()
        self.token = None

    def _place(self, draft: Path, own: Holder, *, force: bool) -> Holder | None:
        while not _link(draft, self.path):
            found = _read(self.path)
            if found is None:
                continue  # released meanwhile
            holder, renewed_s = found
            os.utime(draft)
            age_s = draft.stat().st_mtime - renewed_s
            is_stale = _is_stale(holder, own, age_s) or self._is_copy(holder, own)
            if not (force or is_stale):
                is_alive = _same_machine(holder, own) or self._was_renewed(holder, renewed_s)
                return replace(holder, is_alive=is_alive)
            if not self._take_over(draft, holder):
                return holder  # another process is taking it over
            if is_stale:
                self._log(f"the lock {self.path} of {holder} is stale: taken over")
            return None
        return None

    def _take_over(self, draft: Path, holder: Holder) -> bool:
        """Replace this holder's file by ours, if it is still there.

        The right to do so is itself a lock, named after the holder's: of several that find it stale one comes first,
        and the others then find that the file is no longer the one that they have judged.
        """
        right = Lock(self.path.with_name(f"{self.path.name}.{holder.token}.takeover"))
        if right.take() is not None:
            return False
        try:
            found = _read(self.path)
            if found is None or found[0].token != holder.token:
                return False
            draft.rename(self.path)
            return True
        finally:
            right.release()

    def _is_copy(self, holder: Holder, own: Holder) -> bool:
        """Whether this file came here with a copy of the folder that is locked."""
        moved = _same_machine(holder, own) and holder.place != own.place
        with contextlib.suppress(FileNotFoundError):
            return moved and holder.inode != self.path.stat().st_ino
        return False

    def _was_renewed(self, holder: Holder, renewed_s: float) -> bool:
        before, self._seen = self._seen, (holder.token, renewed_s)
        return before is not None and before[0] == holder.token and before[1] != renewed_s

    def _renew(self) -> None:
        while not self._released.wait(_RENEW_EVERY_S):
            with contextlib.suppress(OSError):
                found = _read(self.path)
                if found is not None and found[0].token == self.token:
                    os.utime(self.path)
                elif found is not None:  # this process was suspended for so long that another host gave it up
                    _to_stderr(f"error: the lock {self.path} was taken over by {found[0]}; this process ends")
                    os._exit(1)  # as after a kill: what is saved is whole, and nothing more may be written


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(path: Path, busy: str, *, log: Callable[[str], None] = _to_stderr) -> Iterator[None]:
    """Hold the lock at `path`, after waiting for it where need be.

    Args:
        busy: what another holder is doing, for the line that says that this process waits.
    """
    lock = Lock(path, log)
    started, next_s = time.monotonic(), 0.0
    while (holder := lock.take()) is not None:
        waited_s = time.monotonic() - started
        if waited_s >= next_s:
            log(
                f"{busy} ({holder}); waiting for it" + (f", {waited_s / 60:.0f} min so far" if next_s else "")
            )
            next_s += _REPORT_EVERY_S
        time.sleep(_LOOK_EVERY_S)
    try:
        yield
    finally:
        lock.release()


def _link(draft: Path, path: Path) -> bool:
    """Give the draft its second name; False where that is taken."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return _is_same(draft, path)  # NFS may have done it and lost the answer
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(draft.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _is_same(draft: Path, path: Path) -> bool:
    try:
        return draft.samefile(path)
    except FileNotFoundError:
        return False


def _this_process(lock: Path) -> Holder:
    return Holder(
        host=platform.node(),
        pid=os.getpid(),
        began=status_of(os.getpid())[1],
        machine=pid_namespace(),
        since=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        job=os.environ.get("SLURM_JOB_ID"),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        place=str(lock.resolve()),
        inode=0,
        token=secrets.token_hex(8),
    )


def _as_text(holder: Holder) -> str:
    return json.dumps({name: value for name, value in asdict(holder).items() if name != "is_alive"}) + "\n"


def _read(path: Path) -> tuple[Holder, float] | None:
    """Who holds a lock, and when that was last renewed (seconds of the file system's clock); None: nobody."""
    try:
        # NFS asks the server anew when a file is opened; for `stat` it may not.
        with path.open(encoding="utf-8") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        holder = Holder(**json.loads(text))
    except (ValueError, TypeError):  # torn, or of another version
        holder = Holder("", 0, None, "", "", None, 0, "", 0, f"{status.st_ino:x}")
    return holder, status.st_mtime


def _is_stale(holder: Holder, own: Holder, age_s: float) -> bool:
    if holder.job is not None and holder.job == own.job and holder.restarts < own.restarts:
        return True
    return not _runs(holder) if _same_machine(holder, own) else age_s > STALE_AFTER_S


def _same_machine(holder: Holder, own: Holder) -> bool:
    """Whether the holder's pid can be looked up here."""
    is_known = own.machine != "" or not sys.platform.startswith("linux")
    return is_known and (holder.host, holder.machine) == (own.host, own.machine)


def _runs(holder: Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    state, began = status_of(holder.pid)
    return state not in ("Z", "X") and (None in (began, holder.began) or began == holder.began)
