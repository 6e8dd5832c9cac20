"""What tells one process from another: its boot, its namespace, and when it began."""

from __future__ import annotations

import os
from pathlib import Path


def pid_namespace() -> str:
    """The boot and the process namespace in which this process has its pid; empty if the system hides them.

    Containers of one machine may share its name and its boot, but number their processes apart.
    """
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


def status_of(pid: int) -> tuple[str | None, int | None]:
    """The state of a process, and when it began in clock ticks since the boot; None where the system hides it."""
    try:
        # proc(5): the name, in brackets, may itself hold brackets and spaces; the state follows it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None, None
