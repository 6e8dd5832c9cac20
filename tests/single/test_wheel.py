"""What a wheel installs reads photos and prepares hands: without the checkout, Horovod, MPI or tools on the PATH."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from horovod_asl.synthetic.render import SampleSpec, render_spec
from tests.launching import ROOT

# Runs `horovod-asl WORDS` for each list of words, imports the rest, and reports what it opened of the checkout.
_PROGRAM = """
import importlib, json, pkgutil, sys
checkout, venv, commands = sys.argv[1:]
opened = []
def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(checkout) and not str(arguments[0]).startswith(venv):
        opened.append(str(arguments[0]))
sys.addaudithook(watch)
sys.modules |= {"horovod": None, "mpi4py": None}
import horovod_asl
from horovod_asl.__main__ import main
for words in json.loads(commands):
    sys.argv = ["horovod-asl", *words]
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    assert not code, (words, code)
for module in pkgutil.walk_packages(horovod_asl.__path__, "horovod_asl."):
    importlib.import_module(module.name)
print(json.dumps({"from": horovod_asl.__file__, "opened": opened}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the files alone, for a checkout may hold what earlier builds left."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("horovod_asl", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *words], check=True, timeout=280)
    (path,) = folder.glob("horovod_asl-*-py3-none-any.whl")
    return path


def test_a_wheel_holds_every_file_of_the_package_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    files = [path for path in (ROOT / "horovod_asl").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {str(path.relative_to(ROOT)) for path in files} <= held
    assert {"horovod_asl/hand_models/NOTICE", "horovod_asl/bundled_model/weights.safetensors"} <= held
    assert any(name.endswith("/LICENSE") for name in held)
    assert not [name for name in held if "benchmark" in name]  # they compare with what a checkout alone has


def test_what_a_wheel_installs_needs_nothing_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    photo = tmp_path / "photos" / "Y" / "1.png"
    photo.parent.mkdir(parents=True)
    Image.fromarray(render_spec(SampleSpec(seed=3, label="Y", recording=1, index=0), 256)).save(photo)
    prepare = ["prepare", "photos", "hands", "--hands", "--allow-missing", "--image-size", "32"]
    commands = [["predict", str(photo), "--json"], [*prepare, "--workers", "1"]]
    only = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, f"{ROOT}/", f"{Path(sys.prefix)}/", json.dumps(commands)],
        env=only,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines[0]["class"] == "Y"
    assert lines[-1] == {"from": str(tmp_path / "site" / "horovod_asl" / "__init__.py"), "opened": []}
    assert "a hand in 1 of 1 photos" in done.stdout
