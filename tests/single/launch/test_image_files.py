"""The Dockerfile, its ignore file, the command that runs it and what the container starts, without an engine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: name and the rest, comments left out and lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def stub(folder: Path, name: str, script: str) -> Path:
    """An executable stand-in."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


# ---- Dockerfile.gpu and .dockerignore ------------------------------------------------------------------------


def test_both_stages_stand_on_an_image_that_an_argument_names() -> None:
    names = [name for name, _ in instructions()]
    before = {rest.split("=")[0] for _, rest in instructions()[: names.index("FROM")]}
    assert before == {"BASE_IMAGE", "RUNTIME_IMAGE"}
    bases = [rest for name, rest in instructions() if name == "FROM"]
    assert bases == ["${BASE_IMAGE} AS build", "${RUNTIME_IMAGE}"]


def test_what_a_gpu_adds_are_values_of_arguments() -> None:
    code = "\n".join(rest for name, rest in instructions() if name != "ARG")
    assert not re.search(r"cuda|nvidia|nccl", code, re.IGNORECASE)
    arguments = dict(rest.partition("=")[::2] for name, rest in instructions() if name == "ARG")
    assert arguments["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert arguments["TORCH_INDEX_URL"] == ""
    build, runtime = (re.split(r"[:-]", arguments[name]) for name in ("BASE_IMAGE", "RUNTIME_IMAGE"))
    assert (build[1], build[-1]) == (runtime[1], runtime[-1])  # one CUDA release, one distribution


def test_the_container_runs_as_an_ordinary_user_with_the_checks_done_as_that_user() -> None:
    steps = [f"{name} {rest}" for name, rest in instructions()]
    user = steps.index("USER asl")
    checks = next(number for number, step in enumerate(steps) if "horovodrun --check-build" in step)
    assert user < checks
    assert "horovod-asl doctor" in steps[checks]
    assert not [step for step in steps[user + 1 :] if step.startswith("USER")]


def test_the_image_gets_what_is_named_and_nothing_else() -> None:
    first, *others = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert first == "*"
    assert others.pop() == "**/__pycache__"
    allowed = {line.removeprefix("!") for line in others}
    assert all(line.startswith("!") for line in others)
    assert all((ROOT / name).exists() for name in allowed)
    assert not allowed & {".git", ".venv", "runs", "stores", "tests", "docs"}
    copied = [rest for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    for source in (word for rest in copied for word in rest.split()[:-1] if word != "."):
        assert (ROOT / source).exists()
        assert source.split("/")[0] in allowed, source


# ---- launch/docker.sh ----------------------------------------------------------------------------------------


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, str]:
    """An environment in which docker and podman say how they were called."""
    for name in ("docker", "podman"):
        stub(tmp_path / "bin", name, f'echo "{name} $*"')
    stub(tmp_path / "bin", "nvidia-smi", "echo GPU 0: stand-in")
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def docker(cwd: Path, environment: dict[str, str], *words: str, **more: str) -> list[str]:
    answer = run(ROOT / "launch" / "docker.sh", *words, cwd=cwd, **environment | more)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_docker_trains_on_all_gpus_with_room_to_talk(tmp_path: Path, engines: dict[str, str]) -> None:
    (line,) = docker(tmp_path, engines, "--epochs", "3", "--model", "resnet18", NP="4")
    assert line.startswith("docker run --rm --init --shm-size=8g --ulimit memlock=-1")
    assert line.endswith(" horovod_asl --epochs 3 --model resnet18")
    for option in ("--gpus all", "-e NP=4", *(f"-v {tmp_path}/{name}:/workspace/{name}" for name in FOLDERS)):
        assert f" {option} " in line
    assert all((tmp_path / name).is_dir() for name in FOLDERS)
    assert "--network" not in line
    assert "-it" not in line


FOLDERS = ("stores", "runs")


def test_docker_without_gpus_asks_for_none(tmp_path: Path, engines: dict[str, str]) -> None:
    assert "--gpus" not in docker(tmp_path, engines, GPUS="none")[0]
    stub(tmp_path / "bin", "nvidia-smi", "exit 9")
    assert "--gpus" not in docker(tmp_path, engines)[0]


def test_podman_takes_the_same_in_its_own_words(tmp_path: Path, engines: dict[str, str]) -> None:
    (line,) = docker(tmp_path, engines, ENGINE="podman")
    assert line.startswith("podman run ")
    assert " --device nvidia.com/gpu=all " in line
    assert " --userns keep-id " in line


def test_docker_builds_where_asked_with_the_arguments_that_are_set(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    asked = {"BUILD": "1", "BASE_IMAGE": "plain", "HOROVOD_GPU_OPERATIONS": "cpu", "IMAGE": "mine"}
    build, started = docker(tmp_path, engines, "horovod-asl", "doctor", **asked)
    assert build.startswith(f"docker build -f {ROOT}/Dockerfile.gpu -t mine ")
    assert " --build-arg BASE_IMAGE=plain --build-arg HOROVOD_GPU_OPERATIONS=cpu " in build
    assert "RUNTIME_IMAGE" not in build
    assert ("USER_ID" in build) == (os.geteuid() != 0)
    assert build.endswith(f" {ROOT}")
    assert started.endswith(" mine horovod-asl doctor")


def test_docker_joins_machines_over_the_host_network_with_keys(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    (tmp_path / "job-keys").mkdir()
    (tmp_path / "photos").mkdir()
    places = {"SSH_KEYS": "job-keys", "DATA": "photos", "HOSTS": "alpha:8,beta:8", "INTERFACE": "eth0"}
    (line,) = docker(tmp_path, engines, **places)
    assert f" --network host -v {tmp_path}/job-keys:/ssh:ro " in line
    assert f" -v {tmp_path}/photos:/workspace/data:ro " in line
    assert " -e HOSTS=alpha:8,beta:8 -e INTERFACE=eth0 " in line


def test_a_missing_engine_is_named(tmp_path: Path, engines: dict[str, str]) -> None:
    answer = run(ROOT / "launch" / "docker.sh", cwd=tmp_path, **engines | {"ENGINE": "no-such-engine"})
    assert answer.returncode == 1
    assert "no-such-engine is missing" in answer.stderr


# ---- launch/container.sh -------------------------------------------------------------------------------------


@pytest.fixture
def container(tmp_path: Path) -> dict[str, str]:
    """An environment as in a container: a home, and the script beside a train.sh that says how it was called."""
    launch = tmp_path / "launch"
    launch.mkdir()
    shutil.copy(ROOT / "launch" / "container.sh", launch)
    stub(launch, "train.sh", 'echo "train.sh $*"')
    return {
        "PATH": f"{launch}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SSH_KEYS": str(tmp_path / "keys"),
    }


def test_options_train_and_other_words_are_a_command(tmp_path: Path, container: dict[str, str]) -> None:
    assert run("container.sh", cwd=tmp_path, **container).stdout == "train.sh \n"
    assert run("container.sh", "--epochs", "3", cwd=tmp_path, **container).stdout == "train.sh --epochs 3\n"
    assert run("container.sh", "echo", "-n", "two words", cwd=tmp_path, **container).stdout == "two words"
    assert not (tmp_path / ".ssh").exists()


def test_mounted_keys_become_the_users_own(tmp_path: Path, container: dict[str, str]) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("id_ed25519", "id_ed25519.pub"):
        (keys / name).write_text(name)
        (keys / name).chmod(0o644)
    answer = run("container.sh", "true", cwd=tmp_path, **container | {"SSH_PORT": "2345"})
    assert answer.returncode == 0, answer.stderr
    ssh = tmp_path / ".ssh"
    assert stat.S_IMODE(ssh.stat().st_mode) == 0o700
    assert stat.S_IMODE((ssh / "id_ed25519").stat().st_mode) == 0o600
    assert (ssh / "authorized_keys").read_text() == "id_ed25519.pub"
    assert "Port 2345" in (ssh / "config").read_text()


def test_keys_that_cannot_be_read_are_said_with_the_cure(tmp_path: Path, container: dict[str, str]) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id_rsa").touch()
    answer = run("container.sh", "true", cwd=tmp_path, **container)
    assert answer.returncode == 1
    assert "--build-arg USER_ID=" in answer.stderr


@pytest.mark.parametrize("mounted", [False, True])
def test_sshd_needs_keys(mounted: bool, tmp_path: Path, container: dict[str, str]) -> None:
    if mounted:
        (tmp_path / "keys").mkdir()
    answer = run("container.sh", "sshd", cwd=tmp_path, **container)
    assert answer.returncode == 1
    assert "mount a folder with a key pair" in answer.stderr
