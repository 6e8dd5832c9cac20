"""How many cores this process may use: those that it may run on, but no more than its cgroups give it time for.

A container that was started with `--cpus 2` runs on all 64 cores of its machine, two at a time: 64 threads would
spend most of each tenth of a second waiting for the next one. `python -m horovod_asl.system.cores` prints the number
for the launch scripts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_OWN_CGROUPS, _HIERARCHIES = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Where the controller `cpu` of cgroup v1 is mounted: by itself, or together with `cpuacct`.
_V1_FOLDERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_cores() -> int:
    """Cores that this process may use, at least 1; part of a core counts as one, and so do hyper-threads."""
    allowed, quota = len(allowed_cores()), cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def allowed_cores() -> set[int]:
    """The cores that this process may run on (cpusets and taskset count); all, where the system has no such sets."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_quota(own_cgroups: Path = _OWN_CGROUPS, hierarchies: Path = _HIERARCHIES) -> float | None:
    """The smallest CPU quota of this process's cgroups and of their parents, in cores; None without one.

    Args:
        own_cgroups: the file that names the cgroups of the process.
        hierarchies: the folder below which cgroups (v2 and v1) are mounted.
    """
    quotas = [_quota(folder) for folder in _folders(own_cgroups, hierarchies)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folders(own_cgroups: Path, hierarchies: Path) -> Iterator[Path]:
    """The folders of the process's cgroups that the CPU controller may serve, and of their parents.

    Inside a container the path may be the host's, which is not there: then the mount's root is the container's own.
    """
    try:
        lines = own_cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        cgroup = PurePosixPath(path.lstrip("/"))
        mounts = _V1_FOLDERS if "cpu" in controllers.split(",") else () if controllers else (".",)
        for mount in mounts:
            for folder in (cgroup, *cgroup.parents):
                yield hierarchies / mount / folder


def _quota(folder: Path) -> float | None:
    """The quota of one cgroup of either version, in cores; None where it has none or is not there."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # `max` in place of a number
        return None


if __name__ == "__main__":
    print(usable_cores())
