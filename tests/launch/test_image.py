"""The image, built for real without Docker or a GPU: Dockerfile.gpu on plain Debian, every step of it; then used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.hosts import Host, Hosts
from tests.launch.images import Buildah, require_image_builder, vanishing_folder
from tests.launch.jobs import Job, running
from tests.launching import Finished, launch

# Horovod is compiled: seven minutes on two cores that have nothing else to do, and an hour is to do on busy ones.
pytestmark = [pytest.mark.launch, pytest.mark.long, pytest.mark.timeout(5400)]

USER_ID = 1000


@dataclass(frozen=True)
class Image:
    """The image as built, and a container of it."""

    buildah: Buildah
    name: str
    log: str
    container: str
    seconds: dict[str, int]

    def words(self, *command: str, volumes: tuple[str, ...] = (), **environment: str) -> list[str | Path]:
        """The words that run a command in the container, as its user."""
        options = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        options += [word for volume in volumes for word in ("--volume", volume)]
        return self.buildah.words("run", *options, self.container, "--", *command)

    def run(self, *command: str, timeout: float = 300, **environment: str) -> Finished:
        return launch(self.words(*command, **environment), timeout=timeout, **self.buildah.environment())

    def size(self) -> str:
        return str(json.loads(self.buildah.must("images", "--json", self.name))[0]["size"])


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    require_image_builder()
    with vanishing_folder() as folder:
        buildah, seconds, start = Buildah(folder), {}, time.monotonic()
        base = buildah.make_base()
        seconds["base"] = round(time.monotonic() - start)
        arguments = {"BASE_IMAGE": base, "RUNTIME_IMAGE": base, "HOROVOD_GPU_OPERATIONS": "cpu"}
        arguments |= {name: os.environ[name] for name in ("TORCH_INDEX_URL",) if name in os.environ}
        options = [word for item in arguments.items() for word in ("--build-arg", "=".join(item))]
        name, log = buildah.build(*options, timeout=4800)
        seconds["build"] = round(time.monotonic() - start) - seconds["base"]
        yield Image(buildah, name, log, buildah.container(name), seconds)


@pytest.fixture(scope="module")
def keys(image: Image) -> Path:
    """A folder with the pair of a job, and the pair of somebody else."""
    folder = image.buildah.folder / "keys"
    folder.mkdir()
    for name in ("id_ed25519", "stranger"):
        launch(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    for file in (folder, *folder.iterdir()):
        os.chown(file, USER_ID, USER_ID)
    return folder


def test_the_build_checks_what_it_made(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nimage: {image.size()}, seconds: {image.seconds}")
    assert "Horovod: building it for this torch" in image.log
    checks = image.log.rpartition("horovodrun --check-build")[2]
    for part in ("PyTorch", "MPI", "Gloo"):
        assert f"[X] {part}" in checks
    assert "[ ] NCCL" in checks
    assert "Training can run." in checks


def test_its_user_is_ordinary(image: Image) -> None:
    finished = image.run("sh", "-c", "id -u; id -un; pwd; touch runs/mine && touch /opt/horovod_asl/other")
    assert finished.output.split("\n")[:3] == [str(USER_ID), "asl", "/workspace"]
    assert finished.returncode != 0
    assert "/opt/horovod_asl/other': Permission denied" in finished.output


def test_it_holds_what_runs_and_nothing_that_was_needed_to_build(image: Image) -> None:
    for left in (
        "/etc/ssh/ssh_host_*",
        "/var/lib/apt/lists/*",
        "/var/cache/apt/*.bin",
        "/root/.cache",
        "/home/asl/.cache",
        "/opt/horovod_asl/.setup-log*",
        "/opt/horovod_asl/.git",
        "/opt/horovod_asl/tests",
        "/opt/horovod_asl/.venv/lib/python*/site-packages/mypy",
        "/usr/bin/g++",
        "/usr/bin/cmake",
    ):
        assert image.run("sh", "-c", f"ls -d {left}").returncode != 0, left
    imports = "import mpi4py.MPI, horovod_asl.models.torchvision_compat as c; c.torchvision_models()"
    finished = image.run("sh", "-c", f"python -c '{imports}' && command -v sshd")
    assert finished.returncode == 0, finished.output


def test_it_runs_what_make_train_runs(image: Image) -> None:
    finished = image.run("container.sh", "--epochs", "1", timeout=1200, NP="2")
    assert finished.returncode == 0, finished.output
    assert "train: horovodrun, 2 process(es)" in finished.output
    assert ", 2 ranks, " in finished.output
    assert "Read -1" not in finished.output  # Open MPI's complaint where it may not copy
    written = image.run("sh", "-c", "cat runs/*/result.json; ls stores")
    assert '"weights_digest"' in written.output
    assert "sample" in written.output


_DRAW = """
import pathlib
from PIL import Image
from horovod_asl.synthetic.render import SampleSpec, render_spec
for label in "VY":
    for index in range(2):
        file = pathlib.Path(f"runs/drawn/{label}/{index}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render_spec(SampleSpec(seed=3, label=label, recording=1, index=index), 256)).save(file)
"""


def test_it_reads_photos_and_prepares_hands(image: Image) -> None:
    assert image.run("python", "-c", _DRAW).returncode == 0
    read = image.run("container.sh", "horovod-asl", "predict", "runs/drawn/Y/0.png", "--json")
    assert read.returncode == 0, read.output
    (line,) = [line for line in read.output.splitlines() if line.startswith("{")]
    assert json.loads(line)["top"][0]["class"] == "Y"
    prepare = ["prepare", "runs/drawn", "runs/hands", "--hands", "--image-size", "32"]
    prepare += ["--split", "random", "--allow-missing"]
    prepared = image.run("container.sh", "horovod-asl", *prepare)
    assert prepared.returncode == 0, prepared.output
    found = "import numpy; print(int(numpy.load('runs/hands/hands.npy')['found'].sum()), 'found')"
    assert "4 found" in image.run("python", "-c", found).output


def test_sshd_lets_the_owner_of_the_key_in_and_nobody_else(image: Image, keys: Path) -> None:
    with ssh_service(image, keys, port := str(free_port())):
        answer = over_ssh(
            keys / "id_ed25519", port, "whoami; command -v horovodrun; env | grep -c ^OMPI_MCA_"
        )
        assert answer.stdout.split() == ["asl", "/opt/horovod_asl/.venv/bin/horovodrun", "1"], answer.stderr
        assert over_ssh(keys / "stranger", port, "true").returncode == 255

        volumes = (f"{keys}:/ssh:ro",)
        between = image.words("container.sh", "ssh", "127.0.0.1", "whoami", volumes=volumes, SSH_PORT=port)
        assert launch(between, **image.buildah.environment()).output.endswith("asl\n")


def test_containers_of_two_hosts_train_together(image: Image, keys: Path, hosts: Hosts) -> None:
    """As docs/launching.md has it: sshd waits on the second host, the first one starts the job on both."""
    run, both = f"runs/{free_port()}", {"NP": "2", "HOSTS": "alpha:1,beta:1", "INTERFACE": "eth0"}
    job = ["container.sh", "--epochs", "2", "--samples", "232", "--run-folder", run]
    with ssh_service(image, keys, "2222", on=hosts.beta) as waiting:
        words = [*hosts.alpha.words(), *image.words(*job, volumes=(f"{keys}:/ssh:ro",), **both)]
        finished = launch(words, timeout=600, **image.buildah.environment())
        assert finished.returncode == 0, finished.output
        assert "Accepted publickey for asl from 10.77.0.1" in waiting.output()
    assert ", 2 ranks, " in finished.output


def test_sshd_without_keys_says_what_to_mount(image: Image) -> None:
    finished = image.run("container.sh", "sshd")
    assert finished.returncode == 1
    assert "mount a folder with a key pair at /ssh" in finished.output


@contextmanager
def ssh_service(image: Image, keys: Path, port: str, on: Host | None = None) -> Iterator[Job]:
    """`sshd` in the container, on this machine or on a host of the tests."""
    waiting = image.words("container.sh", "sshd", volumes=(f"{keys}:/ssh:ro",), SSH_PORT=port)
    words = [*(on.words() if on else ()), *waiting]
    with running(words, image.buildah.folder / "storage", **image.buildah.environment()) as job:
        job.wait_for("Server listening")
        yield job


def over_ssh(key: Path, port: str, command: str) -> subprocess.CompletedProcess[str]:
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"]
    words = ["ssh", "-F", "none", "-p", port, "-i", str(key), *(f"-o{option}" for option in options)]
    return subprocess.run([*words, "asl@127.0.0.1", command], capture_output=True, text=True, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
