"""The set-up, the Makefile and the launch scripts. What a machine may lack is played by stand-ins on the PATH."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / ".ci" / "run"])
LAUNCHERS = ["horovodrun.sh", "mpirun.sh", "torchrun.sh", "dp.sh", "train.sh"]
# The tools that every Debian has; a PATH of these alone has no compiler, no MPI and no ssh.
ESSENTIALS = """
awk bash cat chmod cp cut date diff dirname echo env flock getconf grep head id ls mkdir mktemp mv nproc readlink rm
sed sha256sum sort tail timeout tr uname xargs
"""


def stub(folder: Path, name: str, script: str) -> Path:
    """An executable stand-in."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the set-up reads, in a folder of their own."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "launch", root / "launch")
    shutil.copytree(ROOT / ".ci", root / ".ci")
    shutil.copytree(ROOT / "horovod_asl" / "recipes", root / "horovod_asl" / "recipes")
    for name in ("setup.cfg", "pyproject.toml", "Makefile", "train.py"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with Debian's essentials and a Python, and nothing else."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ESSENTIALS.split():
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    # A link to the python would not find its library from here; a script that starts it does.
    stub(folder, "python3.11", f'exec "{getattr(sys, "_base_executable", sys.executable)}" "$@"')
    return folder


def stub_venv(root: Path, torch: str = "2.13.0", cuda: str = "13.0") -> Path:
    """A .venv whose pip installs nothing and whose torch is a name."""
    return stub(
        root / ".venv" / "bin",
        "python",
        f"""case "$*" in
        *"-m pip"*) echo "pip got: $*"; exit 0 ;;
        *'else "CPU"'*) echo CPU ;;
        *torch.version.cuda*) echo {torch} {cuda} cp311 "$(dirname "$(dirname "$0")")/include" ;;
        *"import torch"*) echo {torch} ;;
        *) exec "{sys.executable}" "$@" ;;
        esac""",
    )


def run(
    *command: str | Path, path: Path | str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOROVOD_", "MAKE"))
    }
    # Libraries that MediaPipe loads may be missing here, and would be installed.
    environment |= {"PATH": str(path or os.environ["PATH"]), "HOROVOD_ASL_WITHOUT_HANDS": "1", **variables}
    words = list(map(str, command))
    return subprocess.run(words, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


# ---- scripts and Makefile ------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_bash_and_can_be_run(script: Path) -> None:
    assert run("bash", "-n", script).returncode == 0
    assert os.access(script, os.X_OK) == (script.name != "lib.sh")


def test_bare_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[0].split())
    listed = set(re.findall(r"^  make ([a-z-]+)  +\S", run("make", "-C", ROOT).stdout, re.MULTILINE))
    assert {"train", "test", "lint", "doctor", "ci"} <= rules
    assert rules == phony == listed


@pytest.mark.parametrize("script", LAUNCHERS)
def test_launchers_without_an_environment_name_the_remedy(checkout: Path, script: str) -> None:
    answer = run(checkout / "launch" / script)
    assert answer.returncode == 1
    assert "run `make setup` first" in answer.stderr


def test_make_train_without_horovod_says_what_it_takes_instead(checkout: Path, bare: Path) -> None:
    stub_venv(checkout)
    stub(checkout / ".venv" / "bin", "torchrun", 'echo "torchrun got: $*"')
    stub(
        checkout / ".venv" / "bin",
        "python",
        'case "$*" in *horovod_asl.system.cores) echo 2 ;; *) echo "python got: $*" ;; esac',
    )
    answer = run(checkout / "launch" / "train.sh", "--epochs", "3", path=bare)
    assert "Horovod is not installed: one process" in answer.stdout
    assert f"python got: {checkout}/train.py --epochs 3" in answer.stdout

    stub(bare, "nvidia-smi", "echo GPU 0: stand-in; echo GPU 1: stand-in")
    answer = run(checkout / "launch" / "train.sh", "--epochs", "3", path=bare)
    assert "torchrun, 2 process(es)" in answer.stdout
    assert re.search(r"torchrun got: --nproc-per-node 2 .*train.py --backend ddp --epochs 3", answer.stdout)


def test_hosts_of_a_file_reach_horovodrun_whatever_is_started(
    checkout: Path, bare: Path, tmp_path: Path
) -> None:
    stub_venv(checkout)
    stub(checkout / ".venv" / "bin", "horovodrun", 'echo "horovodrun got: $*"')
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("# two\nalpha slots=4\nbeta slots = 2\n\ngamma\n")
    (tmp_path / "model" / "store").mkdir(parents=True)
    where = {"HOSTFILE": str(hosts), "INTERFACE": "eth0", "WORK": str(tmp_path / "model")}
    for script, words in (("train.sh", ()), ("baselines.sh", ("landmarks",))):
        answer = run(checkout / "launch" / script, *words, path=bare, **where)
        assert f"horovodrun got: -np 7 --hostfile {hosts} --network-interfaces eth0 " in answer.stdout
    assert f"7 process(es) on {hosts}" in run(checkout / "launch" / "train.sh", path=bare, **where).stdout


def test_elastic_hosts_are_counted_too(checkout: Path, bare: Path, tmp_path: Path) -> None:
    stub_venv(checkout)
    stub(checkout / ".venv" / "bin", "horovodrun", 'echo "horovodrun got: $*"')
    (tmp_path / "hosts.txt").write_text("alpha:4\nbeta:2\n")
    where = {"HOSTFILE": str(tmp_path / "hosts.txt"), "INTERFACE": "lo"}
    answer = run(checkout / "launch" / "elastic.sh", path=bare, **where)
    assert "horovodrun got: -np 6 --min-np 1 " in answer.stdout


def test_make_model_neither_mixes_recipes_nor_stores(checkout: Path, bare: Path, tmp_path: Path) -> None:
    stub_venv(checkout)
    (tmp_path / "photos" / "asl_alphabet_train").mkdir(parents=True)
    prepare = 'mkdir -p "$WORK/store"; echo "{\\"digest\\": \\"$DIGEST\\"}" >"$WORK/store/store.json"; echo prepared'
    stub(checkout / ".venv" / "bin", "horovod-asl", prepare)
    stub(checkout / ".venv" / "bin", "horovodrun", "exit 3")  # as if it were interrupted in the second stage

    def model(*flags: str, **changed: str) -> subprocess.CompletedProcess[str]:
        where = {
            "PHOTOS": str(tmp_path / "photos"),
            "WORK": str(tmp_path / "model"),
            "DIGEST": "of these",
            "NP": "2",
        }
        return run(checkout / "launch" / "model.sh", *flags, path=bare, **where | changed)

    assert [model().returncode, model().returncode] == [3, 3]
    for other in (model(DRAWN="3"), model(NP="4"), model("--seed", "1")):
        assert other.returncode == 1
        assert "another recipe" in other.stderr
        assert "prepared" not in other.stdout  # the store that is there was not replaced
    of_other_photos = model(DIGEST="of others")
    assert of_other_photos.returncode == 1
    assert "< store of these" in of_other_photos.stderr
    assert "remove head, head-all, crossval, all, trunk*" in of_other_photos.stderr
    assert model().returncode == 3


@pytest.mark.parametrize("broken", ["lint", "test", "none"])
def test_ci_runs_both_and_fails_if_either_does(checkout: Path, bare: Path, broken: str) -> None:
    stub(bare, "make", f'echo "$1 ran"; [ "$1" != {broken} ]')
    answer = run(checkout / ".ci" / "run", path=bare)
    assert "lint ran" in answer.stdout
    assert "test ran" in answer.stdout
    assert (answer.returncode == 0) == (broken == "none")


# ---- the set-up ----------------------------------------------------------------------------------------------


def test_a_second_set_up_answers_at_once() -> None:
    assert run(ROOT / "launch" / "setup.sh").returncode == 0
    start = time.monotonic()
    answer = run(ROOT / "launch" / "setup.sh")
    assert answer.stdout == "set-up: ready\n"
    assert time.monotonic() - start < 2


def test_an_ordinary_user_is_told_what_an_administrator_must_run(checkout: Path, bare: Path) -> None:
    stub(bare, "id", "echo 1000")
    stub(bare, "apt-get", "echo must not be called; touch called; exit 1")
    stub(bare, "apt-cache", "exit 0")
    answer = run(checkout / "launch" / "setup.sh", path=bare)
    assert answer.returncode == 1
    assert "neither root nor can use sudo" in answer.stderr
    packages = "build-essential cmake openmpi-bin libopenmpi-dev openssh-client"
    assert re.search(rf"apt-get install .*{packages}", answer.stderr)
    assert "HOROVOD_ASL_WITHOUT_HOROVOD=1" in answer.stderr
    assert not (checkout / "called").exists()


def test_a_failure_shows_its_reason_names_the_log_and_leaves_nothing_that_looks_complete(
    checkout: Path, bare: Path
) -> None:
    stub_venv(checkout)
    (checkout / ".venv" / ".ready").write_text("of an earlier set-up")
    stub(bare, "id", "echo 0")
    stub(bare, "apt-cache", "exit 0")
    stub(
        bare, "apt-get", 'echo "$*" >>asked; [ "$1" = update ] || { echo E: no room on the disk; exit 100; }'
    )
    for name in ("g++", "make", "cmake"):
        stub(bare, name, "exit 0")
    answer = run(checkout / "launch" / "setup.sh", path=bare)
    assert answer.returncode == 1
    assert "E: no room on the disk" in answer.stderr
    assert f"{checkout}/.setup-log.txt" in answer.stderr
    assert not (checkout / ".venv" / ".ready").exists()
    update, install = (checkout / "asked").read_text().splitlines()
    assert update == "update"
    assert "openmpi-bin" in install
    assert "cmake" not in install.split()


def test_a_gpu_without_the_cuda_toolkit_stops_and_says_how_to_go_on(checkout: Path, tmp_path: Path) -> None:
    stub_venv(checkout)
    stub(tmp_path / "stubs", "nvidia-smi", "echo GPU 0: a stand-in")
    path = f"{tmp_path / 'stubs'}:{os.environ['PATH']}"
    toolkit = str(tmp_path / "no-toolkit")
    answer = run(checkout / "launch" / "setup.sh", path=path, HOROVOD_CUDA_HOME=toolkit)
    assert answer.returncode == 1
    assert "the CUDA 13.0 toolkit" in answer.stderr
    assert toolkit in answer.stderr
    assert "HOROVOD_ASL_WITHOUT_HOROVOD=1 make train" in answer.stderr

    # Going on without Horovod works, is remembered, and does not pass for an environment with it.
    without = {"HOROVOD_CUDA_HOME": toolkit, "HOROVOD_ASL_WITHOUT_HOROVOD": "1"}
    assert run(checkout / "launch" / "setup.sh", path=path, **without).stdout.endswith("set-up: ready\n")
    assert run(checkout / "launch" / "setup.sh", path=path, **without).stdout == "set-up: ready\n"
    assert run(checkout / "launch" / "setup.sh", path=path, HOROVOD_CUDA_HOME=toolkit).returncode == 1


def speech_asked(checkout: Path, bare: Path, **variables: str) -> tuple[list[str], str]:
    """What a set-up on a machine without espeak-ng asks of apt-get for speech, and what it says."""
    stub_venv(checkout)
    (checkout / "asked").unlink(missing_ok=True)
    asked = {"HOROVOD_ASL_WITHOUT_HOROVOD": "1", "HOROVOD_ASL_WITHOUT_HANDS": "0"} | variables
    answer = run(checkout / "launch" / "setup.sh", path=bare, **asked)
    assert answer.returncode == 0, answer.stderr
    (checkout / ".venv" / ".ready").unlink()
    lines = (checkout / "asked").read_text().splitlines() if (checkout / "asked").exists() else []
    return [line for line in lines if "espeak" in line], answer.stdout


def test_speech_is_installed_where_it_can_be_and_never_stops_the_set_up(checkout: Path, bare: Path) -> None:
    stub(bare, "id", "echo 0")
    stub(bare, "getent", "exit 0")
    stub(bare, "apt-cache", "exit 0")
    stub(bare, "apt-get", 'echo "$*" >>asked')
    asked, said = speech_asked(checkout, bare)
    assert asked == ["install -y --no-install-recommends espeak-ng"]
    assert "speech: installed espeak-ng" in said
    assert re.search("installed with hands live export dev", said)

    stub(bare, "apt-get", 'case "$*" in *espeak*) exit 100 ;; esac')
    assert "only browsers speak (apt-get install espeak-ng)" in speech_asked(checkout, bare)[1]
    stub(bare, "espeak-ng", "")
    assert "speech" not in speech_asked(checkout, bare)[1]
    (bare / "espeak-ng").unlink()
    without, said = speech_asked(checkout, bare, HOROVOD_ASL_WITHOUT_HANDS="1")
    assert without == []
    assert re.search("installed with export dev", said)


def test_the_browser_of_the_tests_is_installed_where_it_can_be_and_never_stops_them(
    checkout: Path, bare: Path
) -> None:
    def set_up() -> str:
        answer = run(checkout / "launch" / "setup_browser.sh", path=bare)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    assert "no Debian or Ubuntu, so these tests are skipped" in set_up()
    stub(bare, "apt-get", 'echo "$*" >>asked')
    stub(bare, "id", "echo 1000")
    assert "neither root nor can use sudo, so these tests are skipped" in set_up()
    stub(bare, "id", "echo 0")
    assert "has no program of that name" in set_up()
    assert (checkout / "asked").read_text().splitlines()[-1].endswith("install -y --no-install-recommends chromium")
    stub(bare, "apt-get", f"echo '#!/bin/bash' >{bare}/chromium; chmod +x {bare}/chromium")
    assert "installed in" in set_up()
    assert set_up() == "set-up for browser tests: ready\n"


@pytest.mark.parametrize(
    "file", ["setup.cfg", "pyproject.toml", "launch/constraints.txt", "launch/build_horovod.sh"]
)
def test_a_changed_requirement_sets_up_again(checkout: Path, file: str) -> None:
    stub_venv(checkout)
    command = checkout / "launch" / "setup.sh"
    assert run(command, HOROVOD_ASL_WITHOUT_HOROVOD="1").returncode == 0
    with (checkout / file).open("a") as stream:
        stream.write("\n# changed\n")
    answer = run(command, HOROVOD_ASL_WITHOUT_HOROVOD="1")
    assert "set-up: horovod_asl: installed" in answer.stdout
    assert run(command, HOROVOD_ASL_WITHOUT_HOROVOD="1").stdout == "set-up: ready\n"


def test_two_set_ups_at_once_take_turns(checkout: Path) -> None:
    stub_venv(checkout)
    environment = os.environ | {"HOROVOD_ASL_WITHOUT_HOROVOD": "1", "HOROVOD_ASL_WITHOUT_HANDS": "1"}
    with (checkout / ".setup-log.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [str(checkout / "launch" / "setup.sh")]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert "waiting for another set-up" in process.stdout.readline()
        assert not (checkout / ".venv" / ".ready").exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        rest = process.communicate(timeout=60)[0]
    assert rest.endswith("set-up: ready\n")
    assert process.returncode == 0


# ---- which build of torch ------------------------------------------------------------------------------------


@contextmanager
def index_of_cpu_builds(checkout: Path, *, answers: bool = True) -> Iterator[str]:
    """An index that the set-up of the checkout takes for PyTorch's: an empty page for all, or silence for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        script = checkout / "launch" / "setup.sh"
        text, count = re.subn("(?m)^TORCH_CPU_INDEX=.*", f"TORCH_CPU_INDEX={address}", script.read_text())
        assert count == 1
        script.write_text(text)

        def answer() -> None:
            with suppress(OSError):  # closed
                while True:
                    connection = server.accept()[0]
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n ")
                    connection.close()

        if answers:
            threading.Thread(target=answer, daemon=True).start()
        yield address
        server.shutdown(socket.SHUT_RDWR)


def torch_from(checkout: Path, **variables: str) -> tuple[str, str]:
    """How pip was started for torch by a set-up that lacks it, and what the set-up said."""
    stub_venv(checkout, torch="none")
    variables = {"HOROVOD_ASL_WITHOUT_HOROVOD": "1", "no_proxy": "127.0.0.1"} | variables
    answer = run(checkout / "launch" / "setup.sh", **variables)
    assert answer.returncode == 0, answer.stderr
    log = (checkout / ".setup-log.txt").read_text()
    (started,) = re.findall(r"(?m)^pip got: (.*) torch torchvision$", log)
    return started, answer.stdout


needs_no_gpu = pytest.mark.skipif(
    subprocess.run(["grep", "-qsx", "0x10de", *Path("/sys/bus/pci/devices").glob("*/vendor")]).returncode == 0
    or Path("/proc/driver/nvidia").exists(),
    reason="an NVIDIA GPU is here",
)


@needs_no_gpu
def test_without_a_gpu_the_cpu_builds_are_among_those_that_pip_may_take(checkout: Path) -> None:
    with index_of_cpu_builds(checkout) as address:
        started, said = torch_from(checkout)
    assert started.endswith(f" --extra-index-url {address}")
    assert f"from {address}" in said
    assert "is here, a build for CPU" in said


@needs_no_gpu
def test_an_index_that_does_not_answer_is_left_out_and_not_waited_for(checkout: Path) -> None:
    with index_of_cpu_builds(checkout, answers=False):
        start = time.monotonic()
        started, _ = torch_from(checkout)
    assert time.monotonic() - start < 30  # three of them at the index
    assert "index-url" not in started


@pytest.mark.parametrize("why", ["a GPU", "Horovod for GPUs", "an index of one's own"])
def test_cpu_builds_are_not_looked_for(checkout: Path, tmp_path: Path, why: str) -> None:
    variables = {"path": os.environ["PATH"]}
    if why == "a GPU":
        stub(tmp_path / "stubs", "nvidia-smi", "echo GPU 0: a stand-in")
        variables["path"] = f"{tmp_path / 'stubs'}:{os.environ['PATH']}"
    elif why == "Horovod for GPUs":
        variables["HOROVOD_GPU_OPERATIONS"] = "NCCL"
    else:
        variables["TORCH_INDEX_URL"] = "https://example.org/own"
    with index_of_cpu_builds(checkout):
        started, _ = torch_from(checkout, **variables)
    assert "--extra-index-url" not in started
    assert started.endswith("--index-url https://example.org/own") == (why == "an index of one's own")


@pytest.mark.parametrize(("offered", "taken"), [("2.13.0+cpu", "2.13.0+cpu"), ("2.12.0+cpu", "2.13.0")])
def test_pip_takes_the_cpu_build_where_the_second_index_has_the_pinned_one(
    tmp_path: Path, offered: str, taken: str
) -> None:
    for index, version in (("plain", "2.13.0"), ("cpu", offered)):
        folder = tmp_path / index / "torch"
        folder.mkdir(parents=True)
        name = f"torch-{version}-py3-none-any.whl"
        with zipfile.ZipFile(folder / name, "w") as wheel:
            about = f"torch-{version}.dist-info"
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
        (folder / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')
    plain, cpu = ((tmp_path / index).as_uri() for index in ("plain", "cpu"))
    words = f"-m pip --isolated install --dry-run --quiet --ignore-installed --report - --index-url {plain}".split()
    words += ["--extra-index-url", cpu, "-c", str(ROOT / "launch" / "constraints.txt"), "torch"]
    report = run(sys.executable, *words, PIP_CONFIG_FILE=os.devnull)
    (torch,) = json.loads(report.stdout)["install"]
    assert torch["metadata"]["version"] == taken


# ---- Horovod's wheel -----------------------------------------------------------------------------------------


def key(checkout: Path, **variables: str) -> str:
    python = variables.pop("PYTHON", None) or str(checkout / ".venv" / "bin" / "python")
    answer = run(checkout / "launch" / "build_horovod.sh", "--key", PYTHON=python, **variables)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_the_wheel_s_key_holds_what_changes_the_binary(checkout: Path, tmp_path: Path) -> None:
    stub_venv(checkout, torch="2.13.0", cuda="none")
    first = key(checkout)
    assert key(checkout) == first
    assert key(checkout, HOROVOD_GPU_OPERATIONS="NCCL") != first

    stub(tmp_path / "mpi", "mpirun", "echo 'mpirun (Open MPI) 5.0.7'")
    assert key(checkout, path=f"{tmp_path / 'mpi'}:{os.environ['PATH']}") not in (first, "")

    script = checkout / "launch" / "build_horovod.sh"
    text = script.read_text()
    script.write_text(text + "\n# a comment\n")
    assert key(checkout) == first
    script.write_text(text.replace("set(CMAKE_CXX_STANDARD 20)", "set(CMAKE_CXX_STANDARD 23)"))
    assert key(checkout) != first
    script.write_text(text)

    stub_venv(checkout, torch="2.14.0", cuda="none")
    assert key(checkout) != first


def test_a_cached_wheel_is_not_built_again(checkout: Path, tmp_path: Path) -> None:
    python = stub_venv(checkout, cuda="none")
    (python.parent.parent / "include").mkdir()
    (python.parent.parent / "include" / "Python.h").touch()
    name = key(checkout)
    wheel = tmp_path / "cache" / "horovod_asl" / "wheels" / name / "horovod-0.28.1-stand-in.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    variables = {"PYTHON": str(python), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    answer = run(checkout / "launch" / "build_horovod.sh", **variables)
    assert answer.stdout.strip() == str(wheel), answer.stderr


def test_a_toolkit_of_another_major_version_is_refused(checkout: Path, tmp_path: Path) -> None:
    python = stub_venv(checkout, cuda="13.0")
    toolkit = tmp_path / "cuda"
    stub(toolkit / "bin", "nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.131'")
    (toolkit / "include").mkdir()
    (toolkit / "include" / "cuda_runtime.h").touch()
    variables = {"HOROVOD_GPU_OPERATIONS": "NCCL", "HOROVOD_CUDA_HOME": str(toolkit), "PYTHON": str(python)}
    answer = run(checkout / "launch" / "build_horovod.sh", "--check", **variables)
    assert answer.returncode == 3
    assert "a CUDA 13 toolkit" in answer.stderr
    assert "is 12.4" in answer.stderr
