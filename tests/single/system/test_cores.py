"""The cores that may be used: affinity, and quotas of made-up cgroups and, where one can be made, of a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from horovod_asl.system import cores
from tests.launching import ROOT, clean_environment


def cgroups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """`/proc/self/cgroup` and `/sys/fs/cgroup` as they are with these files."""
    for name, text in files.items():
        file = folder / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    (folder / "cgroup").write_text(own)
    return folder / "cgroup", folder / "fs"


def v1(mount: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{mount}/cpu.cfs_quota_us": str(quota), f"{mount}/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2.0),  # docker run --cpus 2
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {}, None),  # the root of a machine has no such file
        ("0::/user.slice/job\n", {"user.slice/cpu.max": "150000 100000"}, 1.5),  # of a parent
        ("0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "300000 100000"}, 3.0),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "800000 100000"}, 3.0),
        ("0::/a\n", {"other/cpu.max": "100000 100000"}, None),
        ("0::/kubepods/host's path\n", {"cpu.max": "50000 100000"}, 0.5),  # the container's own is the root
        ("4:memory:/x\n3:cpu,cpuacct:/d/1\n0::/\n", v1("cpu,cpuacct/d/1", 400_000), 4.0),
        ("3:cpu,cpuacct:/docker/host's\n", v1("cpu,cpuacct", 250_000), 2.5),
        ("1:cpu:/\n", v1("cpu", -1), None),
        ("1:cpu:/a\n", v1("cpu", -1) | v1("cpu/a", 100_000, 50_000), 2.0),
        ("2:cpuset:/\n1:cpuacct:/a\n", v1("cpu/a", 100_000), None),  # not this process's
    ],
)
def test_the_smallest_quota_of_the_cgroup_and_its_parents(
    own: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cores.cpu_quota(*cgroups(tmp_path, own, files)) == quota


def test_a_system_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert cores.cpu_quota(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("allowed", "quota", "usable"),
    [(64, 2.0, 2), (64, 1.5, 2), (64, 0.25, 1), (2, 8.0, 2), (64, None, 64), (64, 63.99, 64)],
)
def test_neither_more_cores_than_allowed_nor_more_than_the_quota(
    allowed: int, quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    assert cores.usable_cores() == usable


def test_without_affinity_all_cores_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no `os.sched_getaffinity` (a mock: we have no such machine)."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores.allowed_cores() == set(range(10))


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real cgroup whose processes get half a core, where this user may make one."""
    v2, v1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")
    root = v1 if (v1 / "cgroup.procs").exists() else v2
    group = root / f"horovod_asl-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if root == v1:
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
        yield group
    except OSError as error:
        pytest.skip(f"no CPU quota can be set here: {error}")
    finally:
        group.rmdir()


def test_a_real_quota_counts_for_python_and_for_the_launch_scripts(half_a_core: Path) -> None:
    def enter() -> None:
        (half_a_core / "cgroup.procs").write_text(str(os.getpid()))

    launchers = "unset NP HOSTS HOSTFILE; export CUDA_VISIBLE_DEVICES=; . launch/lib.sh; echo $NP"
    for command in ([sys.executable, "-m", "horovod_asl.system.cores"], ["bash", "-c", launchers]):
        told = subprocess.run(
            command,
            preexec_fn=enter,
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert told.stdout == "1\n", told.stderr


@pytest.mark.parametrize(("listed", "usable", "ranks"), [(64, 2, 2), (2, 64, 2), (8, 8, 8)])
def test_launch_scripts_start_no_more_ranks_than_cores(
    listed: int, usable: int, ranks: int, tmp_path: Path
) -> None:
    """`nproc` and the module are stand-ins: `lib.sh` takes the smaller."""
    checkout = tmp_path / "checkout"
    for folder, name, line in (
        (checkout / ".venv" / "bin", "python", f"echo {usable}"),
        (checkout / ".venv" / "bin", "nproc", f"echo {listed}"),
        (checkout / ".venv" / "bin", "nvidia-smi", "exit 1"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    (checkout / "launch").symlink_to(ROOT / "launch")
    script = f". {checkout}/launch/lib.sh; echo $NP"
    environment = {"PATH": os.environ["PATH"]}
    told = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30
    )
    assert told.stdout == f"{ranks}\n", told.stderr
