"""The architecture as a test: a room imports only rooms above it, and a heavy dependency is imported by one file.

Imports are read from the source, those inside functions and under TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.launching import ROOT, clean_environment

PACKAGE = ROOT / "horovod_asl"
ROOMS = (
    "",  # the files at the top
    "system",
    "distributed",
    "command_line",
    "hands",
    "synthetic",
    "photos",
    "discovery",
    "splits",
    "sources",
    "store",
    "prepare",
    "inputs",
    "runs",
    "models",
    "metrics",
    "engine",
    "inference",
    "reports",
    "live",
    "translation",
    "web",
    "training",
    "recipes",
    "commands",
)
"""The folders of the package in the order of the data. Each imports those above it alone."""
LAST = "__main__"
"""This file, which starts everything, and the package itself, which loads lazily, stand below all rooms."""
MOST_FILES, MOST_LINES, LONGEST_FUNCTION = 12, 300, 50
ONLY_IN: dict[str, set[str]] = {
    "horovod": {"distributed/hvd.py"},
    "torch.distributed": {"distributed/ddp.py"},
    "mpi4py": {"photos/workers.py"},
    "kagglehub": {"sources/kaggle.py"},
    "imagehash": set(),  # the tests' reference for photos/hashing.py
    "simplejpeg": {"photos/decode.py"},
    "pillow_heif": {"photos/decode.py"},
    "av": {"photos/pyav.py", "photos/films.py", "photos/film_stream.py"},  # the last two for its types alone
    "symspellpy": {"live/suggestions.py"},
    "mediapipe": {"hands/landmarker.py"},
    "tflite": {"models/hand_trunk.py"},
    "onnx": {"inference/onnx_export.py"},
    "onnxruntime": {"inference/onnx_session.py"},
    "fastapi": {"web/server.py"},
    "starlette": {"web/server.py"},
    "uvicorn": {"web/serve.py"},
    "pydantic": {"web/messages.py"},
    "matplotlib": {"reports/plots.py"},
    "torchvision": {"models/torchvision_compat.py"},
    "torch.utils.tensorboard": {"training/curves.py"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """The dotted names that a file imports, with lines; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room(path: Path) -> int:
    """The place in `ROOMS` of a file's room; after all of them for `LAST` and the package's own __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts in ((LAST,), ("__init__",)):
        return len(ROOMS)
    return ROOMS.index(parts[0] if len(parts) == 2 else "")


def room_of_module(name: str) -> int | None:
    """The same of a dotted name; None for what is not of this package or is the package itself."""
    parts = name.split(".")
    if parts[0] != "horovod_asl" or len(parts) == 1:
        return None
    if parts[1] in ROOMS:
        return ROOMS.index(parts[1])
    if parts[1] == LAST:
        return len(ROOMS)
    return ROOMS.index("") if (PACKAGE / f"{parts[1]}.py").exists() else None


def test_every_folder_with_code_is_a_room() -> None:
    assert {path.relative_to(PACKAGE).parent.as_posix() for path in FILES} - {"."} == set(ROOMS) - {""}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_a_room_imports_rooms_above_it(path: Path) -> None:
    upward = [
        f"{short(path)}:{line} imports {name}"
        for name, line in imported(path)
        if (other := room_of_module(name)) is not None and other > room(path)
    ]
    assert upward == []


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_file_and_no_function_is_long(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def test_no_room_holds_many_files() -> None:
    """But for the empty `__init__`."""
    modules = [path for path in FILES if path.name != "__init__.py"]
    files = Counter(path.relative_to(PACKAGE).parent.as_posix() for path in modules)
    assert {folder: number for folder, number in files.items() if number > MOST_FILES} == {}


def test_importing_a_room_imports_nothing_else() -> None:
    """`__main__` needs the launcher at once, and `--help` no torch, which its room's other files import."""
    assert [short(path) for path in FILES if path.name == "__init__.py" and path.read_text()] == [
        "__init__.py"
    ]


def test_the_tests_stand_in_the_same_rooms() -> None:
    """Each folder of tests is a room of the package, or a folder of the checkout: launch/, benchmarks/, docs/."""
    folders = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert [name for name in folders - set(ROOMS) if not (ROOT / name).is_dir()] == []


def test_the_package_itself_imports_nothing_slow_until_a_model_is_loaded() -> None:
    program = (
        "import sys, horovod_asl as h; print(h.load.__name__, {'torch', 'numpy', 'PIL'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["load", "set()"]


def test_commands_do_not_import_each_other() -> None:
    for path in (PACKAGE / "commands").glob("*.py"):
        assert not [name for name, _ in imported(path) if name.startswith("horovod_asl.commands")], path


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_dependency_is_imported_by_one_file(package: str) -> None:
    users = {
        short(path)
        for path in FILES
        if any(name == package or name.startswith(package + ".") for name, _ in imported(path))
    }
    assert users == ONLY_IN[package]


def test_rooms_up_to_the_store_work_without_torch() -> None:
    """`--help` and prepare's workers import them; torch takes two seconds and 200 MB in each process."""
    users = {
        path.parent.name for path in FILES if any(name.split(".")[0] == "torch" for name, _ in imported(path))
    }
    assert users.isdisjoint({*ROOMS[: ROOMS.index("inputs")]} - {"distributed"})


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
