"""What is installed here, and what is missing for what.

    horovod-asl doctor             tables for a reader
    horovod-asl doctor --json      the same as one JSON object, for a bug report or a script

It prints versions, devices, the threads that torch would take, MediaPipe and the hand models, what `export` needs,
what `live` and `translate` need, MPI, Horovod's controllers and operations, the launcher that started this process,
network, disk and shared memory, and developers' tools; then a row for each thing that is missing: what it is needed
for, and the command that gets it.

It works where Horovod, MPI or even torch are missing or broken. The exit code is 0 when training can run at all,
which is when torch can be imported, and 1 otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from horovod_asl.command_line.cli import parse
from horovod_asl.reports import machine

# Below this, ranks on one machine may fail to map the memory through which they talk (Docker's default is 64 MB).
LEAST_SHARED_MEMORY_GIB = 0.5

_SETUP = "make setup"
_REBUILD = "rm -f .venv/.ready .venv/.horovod && make setup"

# Packages that only some commands need: module → (needed for, remedy).
_OPTIONAL = {
    "mpi4py": ("preparing photos on several machines", _SETUP),
    "kagglehub": ("downloading the photos from Kaggle", ".venv/bin/pip install -e '.[kaggle]'"),
}
_FINDING_HANDS = "finding hands: the model that ships, prepare --hands"


@dataclass(frozen=True)
class DoctorConfig:
    """Options of `horovod-asl doctor`."""

    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True)
class Missing:
    """One thing that is not here."""

    what: str
    needed_for: str
    remedy: str


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 0 when training can run at all, 1 otherwise."""
    arguments = sys.argv[1:] if argv is None else argv
    config = parse(DoctorConfig, arguments, prog="horovod-asl doctor", description=__doc__)
    report = examine()
    if config.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0 if report["can_train"] else 1


def examine() -> dict[str, Any]:
    """All that the doctor knows: section → fact → value; `missing` is a list of `Missing` as dicts."""
    # Each of these waits for processes of its own.
    with ThreadPoolExecutor() as pool:
        probing, hands, mpi = map(pool.submit, (machine.probe, machine.hands, machine.mpi))
        probed = probing.result()
    torch, launcher = probed["torch"], probed["launcher"]
    report = {
        "can_train": "error" not in torch,
        "versions": machine.versions(torch, probed["torchvision"]),
        "devices": machine.devices(torch),
        "threads": {
            "torch_would_use": launcher.pop("threads", None),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        },
        "hands": hands.result(),
        "export": machine.export(),
        "live": machine.live(),
        "mpi": mpi.result(),
        "horovod": machine.horovod(probed["horovod"]),
        "launcher": launcher,
        "network": machine.network(),
        "storage": machine.storage(),
        "developers_tools": machine.developers_tools(),
    }
    return report | {"missing": [asdict(row) for row in find_missing(report)]}


def find_missing(report: dict[str, Any]) -> list[Missing]:
    """A row for each thing that the facts in `report` (as `examine` collects them) show to be missing."""
    packages = [
        Missing(name, *row) for name, row in _OPTIONAL.items() if importlib.util.find_spec(name) is None
    ]
    return [
        *_missing_torch(report),
        *_missing_horovod(report["horovod"], has_gpu=bool(report["devices"]["gpus"])),
        *_missing_for_processes(report),
        *_missing_for_hands(report["hands"]),
        *(
            Missing(name, "horovod-asl export", f"{_SETUP}, or: pip install 'horovod_asl[export]'")
            for name, version in report["export"].items()
            if version is None
        ),
        *_missing_for_live(report["live"]),
        *packages,
    ]


def _missing_for_live(live: dict[str, Any]) -> list[Missing]:
    remedy = f"{_SETUP}, or: pip install 'horovod_asl[live]'"
    rows = [Missing(name, use, remedy) for name, use in machine.LIVE_PACKAGES.items() if live[name] is None]
    if live["espeak_ng"] is None:
        needed_for = "translate --speak; live, where the browser has no voice"
        rows.append(Missing("espeak-ng", needed_for, f"{_SETUP}, or: apt-get install espeak-ng"))
    if live["cameras"] == []:
        remedy = "connect one; in a virtual machine or container, hand /dev/video0 on to it"
        needed_for = "translate camera:0; live in a browser on this machine"
        rows.append(Missing("a camera (/dev/video*)", needed_for, remedy))
    return rows


def _missing_torch(report: dict[str, Any]) -> list[Missing]:
    versions, devices = report["versions"], report["devices"]
    if not report["can_train"]:
        return [Missing(f"torch: {versions['torch']}", "everything", _SETUP)]
    rows = []
    if versions["torchvision"] is None or "cannot be imported" in versions["torchvision"]:
        what = f"a torchvision for this torch: {versions['torchvision'] or 'not installed'}"
        rows.append(Missing(what, "models and augmentation", _SETUP))
    if devices["gpus_of_the_driver"] and not devices["gpus"]:
        remedy = (
            "rm -rf .venv && make setup; with TORCH_INDEX_URL=… where the package index has CPU builds only"
        )
        rows.append(
            Missing(f"a torch for this GPU: {versions['torch']} sees none", "training on the GPU", remedy)
        )
    return rows


def _missing_horovod(horovod: dict[str, Any], *, has_gpu: bool) -> list[Missing]:
    needed_for = "--backend horovod, horovodrun (serial, dp and ddp work without)"
    if not horovod["installed"]:
        return [Missing("Horovod", needed_for, f"{_SETUP}, without HOROVOD_ASL_WITHOUT_HOROVOD")]
    if "error" in horovod:
        return [Missing(f"a Horovod that works: {horovod['error']}", needed_for, _REBUILD)]
    uses = {"MPI": "horovodrun and mpirun over MPI", "Gloo": "horovodrun --gloo, elastic training"}
    built = horovod["controllers"]
    rows = [Missing(f"Horovod's {name}", use, _REBUILD) for name, use in uses.items() if not built.get(name)]
    if has_gpu and not horovod["operations"].get("NCCL"):
        remedy = f"install the CUDA toolkit (nvcc), then {_REBUILD}"
        rows.append(Missing("Horovod's NCCL", "--backend horovod on GPUs (ddp works without)", remedy))
    return rows


def _missing_for_processes(report: dict[str, Any]) -> list[Missing]:
    network, rows = report["network"], []
    if report["mpi"]["mpirun"] is None:
        rows.append(
            Missing("mpirun", "mpirun, horovodrun over MPI", f"{_SETUP}, or: apt-get install openmpi-bin")
        )
    if network["ssh"] is None:
        rows.append(Missing("ssh", "several machines", f"{_SETUP}, or: apt-get install openssh-client"))
    if network["address"] is None:
        remedy = f"echo 127.0.1.1 {network['hostname']} >> /etc/hosts (with its real address, for several machines)"
        rows.append(
            Missing(f"an address for the name {network['hostname']}", "horovodrun --gloo, torchrun", remedy)
        )
    if report["storage"].get("dev_shm_gib", math.inf) < LEAST_SHARED_MEMORY_GIB:
        remedy = "mount -o remount,size=2g /dev/shm; in Docker: --shm-size=2g"
        rows.append(
            Missing(f"{LEAST_SHARED_MEMORY_GIB} GiB of /dev/shm", "several ranks on one machine", remedy)
        )
    return rows


def _missing_for_hands(hands: dict[str, Any]) -> list[Missing]:
    rows = []
    if hands["mediapipe"] is None:
        rows.append(Missing("mediapipe", _FINDING_HANDS, f"{_SETUP}, or: pip install 'horovod_asl[hands]'"))
    if "error" in hands:
        remedy = f"{_SETUP}, or: apt-get install libgl1 libegl1 libgles2 libglib2.0-0"
        rows.append(Missing(f"a MediaPipe that works: {hands['error']}", _FINDING_HANDS, remedy))
    if "models_error" in hands:
        rows.append(Missing(f"the hand models: {hands['models_error']}", _FINDING_HANDS, _SETUP))
    return rows


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    console = Console()
    for section, facts in report.items():
        if isinstance(facts, dict):
            console.print(
                _table(
                    section.replace("_", " "),
                    ["", ""],
                    [[_words(name), _words(value)] for name, value in facts.items()],
                )
            )
    rows = [list(row.values()) for row in report["missing"]] or [["nothing", "", ""]]
    console.print(_table("missing", ["what", "needed for", "how to get it"], rows))
    console.print("Training can run." if report["can_train"] else "Training cannot run: see what is missing.")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=None, show_header=any(columns)
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _words(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{_words(name)} {_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "none"
    return str(value)
