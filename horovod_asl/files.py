"""What several rooms need of files: atomic writes, digests, a full disk in one line, and locks between processes.

A lock is a file that names its holder: host, process, time, SLURM job. It appears at once and whole (`link` fails
where the name is taken, also on NFS), and whoever finds it decides whether its holder still runs:

- in this boot and process namespace: by the process, so a killed holder never keeps the next start waiting;
- elsewhere (another host or container): by the file's time, which a live holder renews every 10 s. The file system
  itself says what time it is, and a lock that was not renewed for a minute is stale;
- a SLURM job that was requeued takes over from its own earlier start at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from horovod_asl.errors import UserError

STALE_AFTER_S = 60.0
_RENEW_EVERY_S = 10.0
_LOOK_EVERY_S = 0.5
_SAY_EVERY_S = 60.0
# FAT, some FUSE file systems; on macOS ENOTSUP is another number.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`: a reader sees the old or the new content, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:  # file names may be no UTF-8
        file.write(text)
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


# -- a full disk --------------------------------------------------------------------------------------------------


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


# -- locks --------------------------------------------------------------------------------------------------------


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
        say: gets a line where a stale lock was taken over.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda line: None) -> None:
        self.path = path
        self.token: str | None = None
        """Of the lock while this process holds it."""
        self._say = say
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
                self._say(f"the lock {self.path} of {holder} is stale: taken over")
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
def locked(path: Path, busy: str, *, say: Callable[[str], None] = _to_stderr) -> Iterator[None]:
    """Hold the lock at `path`, after waiting for it where need be.

    Args:
        busy: what another holder is doing, for the line that says that this process waits.
    """
    lock = Lock(path, say)
    started, next_s = time.monotonic(), 0.0
    while (holder := lock.take()) is not None:
        waited_s = time.monotonic() - started
        if waited_s >= next_s:
            say(f"{busy} ({holder}); waiting for it" + (f", {waited_s / 60:.0f} min so far" if next_s else ""))
            next_s += _SAY_EVERY_S
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
        began=_status(os.getpid())[1],
        machine=_machine(),
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


def _machine() -> str:
    """Containers of one machine may share its name and its boot, but number their processes apart."""
    try:
        boot = boot_id()
        namespace = Path("/proc/self/ns/pid").readlink()
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return ""  # a /proc of another namespace, whose pids are other processes
    except OSError:
        return ""
    return f"{boot} {namespace}"


def boot_id() -> str:
    """The identity of this boot of the machine, which containers of one host share. OSError where there is none."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _runs(holder: Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    state, began = _status(holder.pid)
    return state not in ("Z", "X") and (None in (began, holder.began) or began == holder.began)


def _status(pid: int) -> tuple[str | None, int | None]:
    """The state of a process, and when it began in clock ticks since the boot; None where the system hides it."""
    try:
        # proc(5): the name, in brackets, may itself hold brackets and spaces; the state follows it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None, None
