"""What is on this machine: versions, devices, MPI, Horovod's build, launcher, disk. The doctor shows it.

torch, Horovod and MPI are asked in processes of their own, so a broken one is an answer and not a crash. A value that
is not there is None, or stands under `error` with the reason.

`python -m horovod_asl.reports.machine` is one of those processes: it prints what only torch and Horovod know, a JSON
object per line, so that the lines before a crash still count. `python -m horovod_asl.reports.machine hands` tries
MediaPipe.
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
from horovod_asl.errors import UserError
from horovod_asl.hands.bundle import VARIABLE, find_bundle
from horovod_asl.system.cores import cpu_quota, usable_cores

Facts = dict[str, Any]

GIB = 2**30
_COMMAND_TIMEOUT_SECONDS = 120

LIVE_PACKAGES = {
    "onnxruntime": "live, translate: the bundled model without torch",
    "fastapi": "live: its server",
    "uvicorn": "live: its server",
    "websockets": "live: its server",
    "symspellpy": "live: word suggestions",
    "av": "translate; films as sources of prepare",
}
"""What reads films and the camera as they come: package → needed for. MediaPipe is reported with the hands."""


def probe() -> dict[str, Facts]:
    """What a process with torch says: `torch`, `torchvision`, `launcher`, `horovod`; `error` where one failed."""
    answer = _run(sys.executable, "-m", "horovod_asl.reports.machine")
    facts: dict[str, Facts] = {name: {"error": _last_line(answer)} for name in _PROBES}
    for line in answer.stdout.splitlines():
        facts |= json.loads(line)
    return facts


def _probe_torch() -> Facts:
    import torch

    gpus = [_gpu(index) for index in range(torch.cuda.device_count())]
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}


def _gpu(index: int) -> Facts:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": _gib(properties.total_memory),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def _probe_torchvision() -> Facts:
    """Whether its compiled part fits this torch. Importing it whole would take longer than all the rest."""
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ImportError("torchvision is not installed")
    try:
        for library in Path(found.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        torch.ops.torchvision.nms  # noqa: B018
    except (OSError, AttributeError):
        return {"works": "its compiled part does not load; horovod_asl declares the operators that it needs"}
    return {"works": "its compiled part loads"}


def _probe_launcher() -> Facts:
    from horovod_asl.distributed import launcher, threads

    started_by = launcher.detect()
    return asdict(started_by) | {"threads": threads.usable_threads(started_by.local_size)}


def _probe_horovod() -> Facts:
    if importlib.util.find_spec("horovod") is None:
        return {}
    from horovod_asl.distributed import hvd

    return hvd.built()


def versions(torch: Facts, torchvision: Facts) -> Facts:
    """What is installed, by name; a package that cannot be imported says so beside its version."""
    return {
        "python": platform.python_version(),
        "horovod_asl": __version__,
        "torch": torch["version"] if "version" in torch else _with_state("torch", torch),
        "cuda_of_torch": torch.get("cuda"),
        "torchvision": _with_state("torchvision", torchvision),
        **{name: version_of(name) for name in ("horovod", "mpi4py", "numpy", "pillow")},
    }


def devices(torch: Facts) -> Facts:
    """The CPU, the cores that this process may use, memory, the GPUs as torch and as the driver see them."""
    quota = cpu_quota()
    cores = {
        "usable": usable_cores(),
        "total": os.cpu_count(),
        "quota": None if quota is None else round(quota, 2),
    }
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gib": _memory_gib(),
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


def horovod(probed: Facts) -> Facts:
    """Whether it is installed, and its part of `probe`: the frameworks, controllers and operations that are built."""
    if importlib.util.find_spec("horovod") is None:
        return {"installed": False}
    return {"installed": True, **probed}


def hands() -> Facts:
    """MediaPipe's version and whether it finds hands here; where the hand models lie; or why not."""
    version = version_of("mediapipe")
    try:
        models = f"{find_bundle()} (verified)" if not os.environ.get(VARIABLE) else str(find_bundle())
    except UserError as error:
        return {"mediapipe": version, "models": None, "models_error": str(error)}
    if version is None:
        return {"mediapipe": None, "models": models}
    answer = _run(sys.executable, "-m", "horovod_asl.reports.machine", "hands")
    if answer.returncode == 0:
        return {"mediapipe": f"{version} (works)", "models": models}
    return {"mediapipe": f"{version} (does not work)", "models": models, "error": _last_line(answer)}


def export() -> Facts:
    """Versions of what `horovod-asl export` needs."""
    return {name: version_of(name) for name in ("onnx", "onnxruntime", "onnxscript")}


def live() -> Facts:
    """What `live` and `translate` need: packages by name, the program that speaks, and this machine's cameras."""
    packages = {name: version_of(name) for name in LIVE_PACKAGES}
    return packages | {"espeak_ng": shutil.which("espeak-ng"), "cameras": _cameras()}


def _cameras() -> list[str] | None:
    """Linux names them; None elsewhere, where only the browser knows."""
    return sorted(map(str, Path("/dev").glob("video*"))) if sys.platform.startswith("linux") else None


def developers_tools() -> Facts:
    """What `make test` and `make lint` need."""
    return {name: version_of(name) for name in ("pytest", "hypothesis", "ruff", "mypy", "pre-commit")}


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
    elif sys.platform.startswith("linux"):  # macOS has none, and nothing that needs it
        facts["dev_shm_gib"] = 0.0
    return facts


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, read without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _with_state(name: str, facts: Facts) -> str | None:
    version = version_of(name)
    if version is None:
        return None
    state = f"cannot be imported: {facts['error']}" if "error" in facts else facts["works"]
    return f"{version} ({state})"


def _cpu_model() -> str:
    try:
        cores = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names = re.findall(r"^model name\s*:\s*(.+)$", cores, re.MULTILINE)
    except OSError:
        names = []
    return str(names[0]) if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        return _gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # a system that knows them by no such names
        return None


def _lines(*command: str) -> list[str]:
    answer = _run(*command)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def _last_line(answer: subprocess.CompletedProcess[str]) -> str:
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended with exit code {answer.returncode}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    limits: Facts = {"timeout": _COMMAND_TIMEOUT_SECONDS, "stdin": subprocess.DEVNULL}
    decoding: Facts = {"encoding": "utf-8", "errors": "replace"}
    try:
        return subprocess.run(command, capture_output=True, check=False, **decoding, **limits)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, returncode=127, stdout="", stderr=str(error))


def _gib(size_bytes: int) -> float:
    return round(size_bytes / GIB, 1)


_PROBES = {
    "torch": _probe_torch,
    "torchvision": _probe_torchvision,
    "launcher": _probe_launcher,
    "horovod": _probe_horovod,  # the last: a broken one may take its process down
}


def print_probe() -> None:
    """Answer `probe` from within its process: one JSON object per line, each as soon as it is known."""
    for name, ask in _PROBES.items():
        try:
            facts = ask()
        except Exception as error:
            facts = {"error": " ".join(str(error).split())}
        print(json.dumps({name: facts}), flush=True)


def try_hands() -> None:
    """Load MediaPipe with the hand models and look once; the last line of standard error says why that fails."""
    from horovod_asl.hands.finder import shared_finder

    try:
        shared_finder()
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    try_hands() if sys.argv[1:] == ["hands"] else print_probe()
