"""What is on this machine: versions, devices, MPI, Horovod's build, launcher, disk. The doctor shows it.

torch, Horovod and MPI are asked in processes of their own, so a broken one is an answer and not a crash. A value that
is not there is None, or stands under `error` with the reason.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from horovod_asl import __version__
from horovod_asl.backends import launcher
from horovod_asl.errors import UserError

Facts = dict[str, Any]

GIB = 2**30
_COMMAND_TIMEOUT_SECONDS = 120

_TORCH_PROBE = """
import json, sys, torch
from horovod_asl.backends.threads import usable_threads
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": []}
facts["threads"] = usable_threads(int(sys.argv[1]))
for index in range(torch.cuda.device_count()):
    properties = torch.cuda.get_device_properties(index)
    facts["gpus"].append({
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    })
print(json.dumps(facts))
"""


def torch_facts(local_size: int) -> Facts:
    """torch's version, its CUDA, its GPUs, and the threads that one of `local_size` ranks takes; or `error`."""
    answer = _run(sys.executable, "-c", _TORCH_PROBE, str(local_size))
    if answer.returncode != 0:
        return {"error": _last_line(answer)}
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def versions(torch: Facts) -> Facts:
    """What is installed, by name; a package that cannot be imported says so beside its version."""
    installed = version_of("torch")
    broken = f"{installed or 'not installed'} (cannot be imported: {torch.get('error')})"
    return {
        "python": platform.python_version(),
        "horovod_asl": __version__,
        "torch": torch.get("version", broken),
        "cuda_of_torch": torch.get("cuda"),
        "torchvision": version_of("torchvision") if "error" in torch else _torchvision(),
        **{name: version_of(name) for name in ("horovod", "mpi4py", "numpy", "pillow")},
    }


def devices(torch: Facts) -> Facts:
    """The CPU, the cores that this process may use, memory, the GPUs as torch and as the driver see them."""
    cores = {"usable": len(os.sched_getaffinity(0)), "total": os.cpu_count(), "quota": _cpu_quota()}
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gib": _gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "gpus": torch.get("gpus", []),
        "gpus_of_the_driver": [line for line in _lines("nvidia-smi", "-L") if line.startswith("GPU ")],
        "nvcc": shutil.which("nvcc"),
    }


def mpi() -> Facts:
    """mpirun and the library behind it."""
    return {
        "mpirun": shutil.which("mpirun"),
        "mpirun_says": next(iter(_lines("mpirun", "--version")), None),
        "library": next(iter(_lines("ompi_info", "--version")), None),
    }


def horovod() -> Facts:
    """What `horovodrun --check-build` ticks: frameworks, controllers and operations, each name → built."""
    if importlib.util.find_spec("horovod") is None:
        return {"installed": False}
    beside = Path(sys.executable).with_name("horovodrun")
    answer = _run(str(beside) if beside.exists() else "horovodrun", "--check-build")
    titles = {"frameworks": "Frameworks", "controllers": "Controllers", "operations": "Tensor Operations"}
    facts: Facts = {kind: parse_ticks(answer.stdout, f"Available {title}:") for kind, title in titles.items()}
    if not facts["controllers"]:
        facts["error"] = f"horovodrun --check-build: {_last_line(answer)}"
    return {"installed": True, **facts}


def started_by() -> Facts:
    """The launcher of this process, its rank and sizes; or `error` where the environment contradicts itself."""
    try:
        return asdict(launcher.detect())
    except UserError as error:
        return {"error": str(error)}


def network() -> Facts:
    """This machine's name, its address by that name (Gloo and torchrun look it up), and ssh."""
    name = socket.gethostname()
    try:
        address: str | None = socket.gethostbyname(name)
    except OSError:
        address = None
    return {"hostname": name, "address": address, "ssh": shutil.which("ssh")}


def storage() -> Facts:
    """Free disk in the current folder, and /dev/shm, in GiB."""
    facts: Facts = {"here": str(Path.cwd()), "free_gib": _gib(shutil.disk_usage(".").free)}
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        facts |= {"dev_shm_gib": _gib(usage.total), "dev_shm_free_gib": _gib(usage.free)}
    return facts


def parse_ticks(text: str, title: str) -> dict[str, bool]:
    """The block under `title` in the output of `horovodrun --check-build`, as name → ticked."""
    block = text.partition(title)[2].split("\n\n")[0]
    return {name: mark == "X" for mark, name in re.findall(r"\[(X| )\] (\S+)", block)}


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, read without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torchvision() -> str | None:
    version = version_of("torchvision")
    if version is None:
        return None
    answer = _run(sys.executable, "-c", "import torchvision")
    if answer.returncode == 0:
        return f"{version} (works)"
    if "operator torchvision::nms does not exist" in answer.stderr:
        return f"{version} (works with the operators that horovod_asl declares: its compiled part does not load)"
    return f"{version} (cannot be imported: {_last_line(answer)})"


def _cpu_model() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return str(names[0]) if names else platform.machine()


def _cpu_quota() -> float | None:
    """Cores' worth of time that a container may use (cgroup v2); None where there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return round(int(quota) / int(period), 2)
    except (OSError, ValueError):
        return None


def _lines(*command: str) -> list[str]:
    answer = _run(*command)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def _last_line(answer: subprocess.CompletedProcess[str]) -> str:
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended with exit code {answer.returncode}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    limits: Facts = {"timeout": _COMMAND_TIMEOUT_SECONDS, "stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, **limits)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, returncode=127, stdout="", stderr=str(error))


def _gib(size_bytes: int) -> float:
    return round(size_bytes / GIB, 1)
