"""The architecture as a test: imports point strictly down, and a heavy dependency is imported by one file.

Imports are read from the source, those inside functions and under TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.launching import ROOT, clean_environment

PACKAGE = ROOT / "horovod_asl"
LAYERS: dict[str, int] = {
    **dict.fromkeys(("labels", "config", "errors", "files", "cli", "cores", "launcher", "locks"), 0),
    "hand_bundle": 0,
    **dict.fromkeys(("options", "synonyms", "flags", "manual", "config_file"), 0),
    **dict.fromkeys(("process_identity", "streams"), 0),
    "progress": 1,
    **dict.fromkeys(
        ("backends", "data", "models", "landmark_network", "schedule", "metrics", "checkpoint", "runfolder"),
        1,
    ),
    **dict.fromkeys(("hand_network", "hand_trunk"), 1),
    **dict.fromkeys(
        ("boxed", "compact", "earlier_run", "machine", "memory", "optimizers", "torchvision_compat"), 1
    ),
    **dict.fromkeys(
        ("learner", "engine", "features", "trainer", "session", "inference", "report", "sample"), 2
    ),
    **dict.fromkeys(
        ("announce", "curves", "stopping", "resume", "restarts", "onnx_export", "model_card"), 2
    ),
    **dict.fromkeys(("gradcam", "explain", "examples", "evaluation_report"), 2),
    **dict.fromkeys(("run_report", "score_lines", "score_tables", "web_page"), 2),
    **dict.fromkeys(("calibration", "folds", "initial_weights", "run_weights"), 1),
    **dict.fromkeys(("answers", "crossval", "crossval_report", "recipe", "run_opening", "stages", "store_photos"), 2),
    **dict.fromkeys(("api", "onnx_metadata"), 2),
    **dict.fromkeys(("commands", "__main__", "__init__"), 3),
}
ONLY_IN: dict[str, set[str]] = {
    "horovod": {"backends/hvd.py"},
    "torch.distributed": {"backends/ddp.py"},
    "mpi4py": {"data/executor.py"},
    "kagglehub": {"data/kaggle.py"},
    "imagehash": set(),  # the tests' reference for data/hashing.py
    "simplejpeg": {"data/decode.py"},
    "pillow_heif": {"data/decode.py"},
    "av": {"data/films.py"},
    "mediapipe": {"data/hand_finder.py"},
    "tflite": {"hand_trunk.py"},
    "onnx": {"onnx_export.py"},
    "onnxruntime": {"onnx_export.py"},
    "matplotlib": {"report.py"},
    "torchvision": {"torchvision_compat.py"},
    "torch.utils.tensorboard": {"curves.py"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    """`data` for data/store.py, `engine` for engine.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("horovod_asl.")} & LAYERS.keys()


def test_every_file_has_a_layer() -> None:
    assert {room(path) for path in FILES} <= LAYERS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    for other in own_rooms(path):
        assert LAYERS[other] <= LAYERS[own], f"{path} (L{LAYERS[own]}) imports {other} (L{LAYERS[other]})"


def test_rooms_of_a_layer_do_not_import_each_other_in_circles() -> None:
    reaches = {name: set[str]() for name in LAYERS}
    for path in FILES:
        reaches[room(path)] |= own_rooms(path) - {room(path)}
    for _ in LAYERS:
        for name in reaches:
            reaches[name] = reaches[name].union(*(reaches[other] for other in reaches[name]), set())
    assert not [name for name in reaches if name in reaches[name]]


def test_the_package_itself_imports_nothing_slow_until_a_model_is_loaded() -> None:
    program = "import sys, horovod_asl as h; print(h.load.__name__, {'torch', 'numpy', 'PIL'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["load", "set()"]


def test_commands_do_not_import_each_other() -> None:
    for path in (PACKAGE / "commands").glob("*.py"):
        assert not [name for name in imported(path) if name.startswith("horovod_asl.commands")], path


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_dependency_is_imported_by_one_file(package: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name == package or name.startswith(package + ".") for name in imported(path))
    }
    assert users == ONLY_IN[package]


# What `train` needs late or never, and what would cost every rank seconds before its first step.
LATER = ("torch._dynamo", "torch._inductor", "sympy", "tensorboard", "matplotlib", "rich", "torchvision")


def imported_by_train(*words: str | Path, of: Sequence[str]) -> tuple[str, list[str]]:
    """The output of `train.py WORDS`, and which modules `of` these it had imported by its end."""
    program = (
        f"import sys\nsys.argv = {['train.py', *map(str, words)]!r}\n"
        "from horovod_asl.__main__ import main\n"
        "try:\n    main('train')\nexcept SystemExit as end:\n    assert end.code in (0, 3)\n"
        f"print(*(name for name in {of!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=clean_environment(),
    )
    output, _, names = done.stdout.removesuffix("\n").rpartition("\n")
    return output, names.split()


def test_help_comes_without_what_is_slow_to_import() -> None:
    manual, names = imported_by_train("--help", of=("torch", "numpy", "yaml", "typeguard", *LATER))
    assert names == []
    assert "horovodrun -np 4 python train.py" in manual


def test_a_first_step_and_its_checkpoint_come_without_what_is_needed_later(
    small_store: Path, tmp_path: Path
) -> None:
    words = ("--store", small_store, "--run-folder", tmp_path / "run", "--backend", "serial")
    # TensorBoard comes as the run stops, for the points of its steps.
    later = [name for name in LATER if name != "tensorboard"]
    output, names = imported_by_train(*words, "--epochs", "1", "--stop-after-steps", "1", of=later)
    assert names == []
    assert "stopped at step 1" in output


def test_importing_has_no_effects() -> None:
    """Neither environment, nor threads, nor files change, and nothing is printed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py"
    ]
    program = (
        "import importlib, os, torch\n"
        "before = dict(os.environ), torch.get_num_threads(), sorted(os.listdir())\n"
        f"for name in {modules!r}:\n    importlib.import_module(name)\n"
        "assert before == (dict(os.environ), torch.get_num_threads(), sorted(os.listdir()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean_environment(),
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
