"""The doctor against what it reports on: `horovodrun --check-build`, the scheduler, and machines that lack things."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from horovod_asl.commands import doctor
from horovod_asl.hands.bundle import VARIABLE, find_bundle
from horovod_asl.reports import machine

ROOT = Path(__file__).resolve().parents[3]
LAUNCHED = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_|HOROVOD_|OMPI_|PMI|SLURM_)")

without_horovod = importlib.util.find_spec("horovod") is None
needs_horovod = pytest.mark.skipif(without_horovod, reason="Horovod is not installed here")


def run(*words: str, cores: set[int] | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not LAUNCHED.match(name)} | variables
    before = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    return subprocess.run(words, env=environment, capture_output=True, text=True, cwd=ROOT, preexec_fn=before)


def remedies(report: dict[str, Any]) -> dict[str, str]:
    return {row["what"]: row["remedy"] for row in report["missing"]}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Its report on this machine, bound to one core, as rank 1 of 2, with a GPU's driver that is a stand-in."""
    folder = tmp_path_factory.mktemp("stubs")
    stub = folder / "nvidia-smi"
    stub.write_text("#!/bin/sh\necho 'GPU 0: stand-in (UUID: 0)'\n")
    stub.chmod(0o755)
    mpirun = {"RANK": "1", "SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    variables = {f"OMPI_COMM_WORLD_{name}": value for name, value in mpirun.items()}
    variables |= {"PATH": f"{folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    core = min(os.sched_getaffinity(0))
    answer = run(sys.executable, "-m", "horovod_asl", "doctor", "--json", cores={core}, **variables)
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


@needs_horovod
def test_json_agrees_with_check_build(report: dict[str, Any]) -> None:
    text = run(str(Path(sys.executable).with_name("horovodrun")), "--check-build").stdout
    ticked = [line.split("]")[1].strip() for line in text.splitlines() if line.strip().startswith("[X]")]
    listed = sum("[" in line for line in text.splitlines())
    kinds = [report["horovod"][kind] for kind in ("frameworks", "controllers", "operations")]
    assert [name for kind in kinds for name, built in kind.items() if built] == ticked
    assert sum(map(len, kinds)) == listed
    assert {"MPI", "Gloo"} <= set(report["horovod"]["controllers"])


def test_the_tables_show_every_section_and_keep_brackets(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    row = {"what": "kagglehub", "needed_for": "downloads", "remedy": "pip install -e '.[kaggle]'"}
    doctor.show(report | {"missing": [row]})
    printed = capsys.readouterr().out
    for section in (
        "versions",
        "devices",
        "threads",
        "hands",
        "export",
        "live",
        "mpi",
        "horovod",
        "launcher",
        "network",
        "storage",
        "developers tools",
        "missing",
    ):
        assert f"\n{section} " in printed
    assert report["versions"]["torch"] in printed
    assert "'.[kaggle]'" in printed  # rich takes brackets for markup unless told otherwise


def test_it_sees_the_core_it_is_bound_to_its_launcher_and_a_gpu_that_torch_cannot_use(
    report: dict[str, Any],
) -> None:
    assert report["devices"]["cores"]["usable"] == report["threads"]["torch_would_use"] == 1
    assert report["devices"]["cores"]["total"] == os.cpu_count()
    expected = {"name": "mpirun", "rank": 1, "world_size": 2, "local_rank": 1, "local_size": 2}
    assert report["launcher"].items() >= expected.items()
    assert any(what.startswith("a torch for this GPU") for what in remedies(report))


def test_horovod_that_is_not_installed_is_reported_with_the_remedy(tmp_path: Path) -> None:
    """A folder with all installed packages but Horovod, in place of the environment's own."""
    site = Path(importlib.util.find_spec("rich").submodule_search_locations[0]).parent  # type: ignore[union-attr,index]
    for entry in site.iterdir():
        if not entry.name.startswith(("horovod", "__editable__", "_distutils")):
            (tmp_path / entry.name).symlink_to(entry)
    code = "import sys; sys.path[:0] = sys.argv[1:]; from horovod_asl.commands import doctor; doctor.main(['--json'])"
    answer = run(sys.executable, "-S", "-c", code, str(ROOT), str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout)
    assert seen["horovod"] == {"installed": False}
    assert seen["versions"]["horovod"] is None
    assert remedies(seen)["Horovod"].startswith("make setup")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os.abort()", "exit code -6"),
    ],
    ids=["cannot be imported", "takes its process down"],
)
def test_a_broken_torch_is_reported_and_not_fatal(tmp_path: Path, body: str, reason: str) -> None:
    (tmp_path / "torch.py").write_text(body)
    answer = run(sys.executable, "-m", "horovod_asl", "doctor", "--json", PYTHONPATH=str(tmp_path))
    assert answer.returncode == 1
    seen = json.loads(answer.stdout)
    assert seen["can_train"] is False
    assert reason in seen["versions"]["torch"]
    assert any(what.startswith("torch:") and reason in what for what in remedies(seen))


def test_a_half_set_launcher_is_reported_and_not_fatal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(filter(LAUNCHED.match, os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANK", "0")
    machine.print_probe()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "version" in answers[0]["torch"]
    assert "WORLD_SIZE is not" in answers[2]["launcher"]["error"]


def test_what_live_needs_is_reported_and_what_is_missing_has_a_remedy(report: dict[str, Any]) -> None:
    live = report["live"]
    names = ["onnxruntime", "fastapi", "uvicorn", "websockets", "symspellpy", "av"]
    assert {name: live[name] for name in names} == {name: importlib.metadata.version(name) for name in names}
    assert live["espeak_ng"] == shutil.which("espeak-ng")
    assert live["cameras"] == sorted(str(path) for path in Path("/dev").glob("video*"))

    without = copy.deepcopy(report)
    without["live"] = dict.fromkeys(names) | {"espeak_ng": None, "cameras": []}
    found = {row.what: row for row in doctor.find_missing(without)}
    assert all(found[name].remedy.endswith("pip install 'horovod_asl[live]'") for name in names)
    assert "apt-get install espeak-ng" in found["espeak-ng"].remedy
    assert "live" in found["a camera (/dev/video*)"].needed_for
    elsewhere = copy.deepcopy(report)
    elsewhere["live"]["cameras"] = None  # not Linux
    assert not [row for row in doctor.find_missing(elsewhere) if "camera" in row.what]


def test_it_tries_mediapipe_with_the_hand_models(report: dict[str, Any]) -> None:
    version = importlib.metadata.version("mediapipe")
    assert report["hands"] == {"mediapipe": f"{version} (works)", "models": f"{find_bundle()} (verified)"}
    assert report["export"]["onnxruntime"] == importlib.metadata.version("onnxruntime")


def test_hand_models_that_are_missing_or_no_models_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent.task"))
    assert "absent.task" in machine.hands()["models_error"]
    (tmp_path / "no.task").write_bytes(b"nothing")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no.task"))
    assert "MediaPipe cannot use" in machine.hands()["error"]


def test_developers_tools_are_not_what_a_user_misses(report: dict[str, Any]) -> None:
    lacking = copy.deepcopy(report)
    lacking["developers_tools"] = dict.fromkeys(report["developers_tools"])
    assert doctor.find_missing(lacking) == doctor.find_missing(report)


def test_it_imports_torch_once(tmp_path: Path) -> None:
    """What costs: `horovodrun --check-build` starts eight processes that do. An import of it writes a line."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Counter:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        f"            print('torch', file=open({str(tmp_path / 'imports')!r}, 'a'))\n"
        "sys.meta_path.insert(0, Counter())\n"
    )
    done = run(sys.executable, "-m", "horovod_asl", "doctor", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imports").read_text().split() == ["torch"]


@pytest.mark.parametrize(
    ("section", "facts", "what"),
    [
        ("network", {"address": None}, "an address for the name"),
        ("network", {"ssh": None}, "ssh"),
        ("mpi", {"mpirun": None}, "mpirun"),
        ("storage", {"dev_shm_gib": 0.1}, "0.5 GiB of /dev/shm"),
        ("versions", {"torchvision": None}, "a torchvision"),
        ("horovod", {"installed": False}, "Horovod"),
        ("horovod", {"installed": True, "controllers": {"Gloo": True}, "operations": {}}, "Horovod's MPI"),
        ("horovod", {"installed": True, "error": "does not answer"}, "a Horovod that works: does not answer"),
        ("devices", {"gpus": [{"name": "a stand-in"}]}, "Horovod's NCCL"),
        ("hands", {"mediapipe": None}, "mediapipe"),
        ("hands", {"error": "libGL.so.1: cannot open"}, "a MediaPipe that works: libGL.so.1"),
        ("hands", {"models": None, "models_error": "not there"}, "the hand models: not there"),
        ("export", {"onnxscript": None}, "onnxscript"),
    ],
)
def test_each_lack_has_its_row(
    report: dict[str, Any], section: str, facts: dict[str, Any], what: str
) -> None:
    if "NCCL" in what and not report["horovod"]["installed"]:
        pytest.skip("Horovod is not installed here")
    lacking = copy.deepcopy(report)
    lacking[section].update(facts)
    before = {row.what for row in doctor.find_missing(report)}
    added = [row for row in doctor.find_missing(lacking) if row.what not in before]
    assert [row.what.startswith(what) for row in added] == [True]
    assert added[0].remedy
    assert added[0].needed_for
