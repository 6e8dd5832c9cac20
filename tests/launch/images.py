"""Build and run the image without Docker: buildah, on a base made by debootstrap, in a folder that vanishes.

buildah runs in namespaces of its own: what it mounts no one else sees, and its processes end with the one that runs
the tests. The folder is removed by a guard that waits for the end of that process, whichever way it ends.

This machine's way to its packages (pip's settings, a CA bundle, folders of wheels) reaches the build as mounts.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launching import BIN, ROOT, Finished, launch

SUITE = "bookworm"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Everything below dies with the process that started it, and so do its mounts.
_INSIDE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
_INSIDE += ["--mount-proc", "--propagation", "private"]

# Removes the folder when its standard input ends. What still runs there is about to die, and may write until then.
_GUARD = 'read -r _; until rm -rf "$1" && [ ! -e "$1" ]; do sleep 0.2; done; shift; rm -f "$@"; '
_GUARD += 'for file; do rmdir -p "${file%/*}"; done 2>/dev/null'
# Of root's images it remembers here which layer is where, with no option to choose the place.
_NOTES = Path("/var/lib/containers/cache/blob-info-cache-v1.boltdb")


def require_image_builder() -> None:
    """Fail where something is to be installed."""
    tools = ("buildah", "debootstrap", "unshare", "setpriv", "ssh")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [tool for tool in tools if not shutil.which(tool, path=path)]
    if missing:
        pytest.fail(f"no {', '.join(missing)}: run `make setup-launch`", pytrace=False)
    if os.geteuid() != 0:
        pytest.fail("debootstrap needs root: run `sudo make test-long`", pytrace=False)


@contextmanager
def vanishing_folder() -> Iterator[Path]:
    """A folder on disk (images are too large for a /tmp in memory) that is removed even if the tests are killed."""
    folder = Path(tempfile.mkdtemp(prefix="horovod_asl-image.", dir="/var/tmp"))
    vanishing = [folder] if _NOTES.exists() else [folder, _NOTES]
    guard = subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", *vanishing], stdin=subprocess.PIPE, start_new_session=True
    )
    assert guard.stdin is not None
    try:
        yield folder
    finally:
        guard.stdin.close()
        guard.wait()


@dataclass(frozen=True)
class Buildah:
    """buildah with its images, containers and temporary files in `folder`."""

    folder: Path

    def words(self, *arguments: str | Path) -> list[str | Path]:
        storage = ["--root", self.folder / "storage", "--runroot", self.folder / "run"]
        return [*_INSIDE, "buildah", *storage, "--storage-driver", "vfs", *arguments]

    def environment(self) -> dict[str, str]:
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(temporary)}

    def __call__(self, *arguments: str | Path, timeout: float = 300) -> Finished:
        """Run buildah to its end."""
        return launch(self.words(*arguments), timeout=timeout, **self.environment())

    def must(self, *arguments: str | Path, timeout: float = 300) -> str:
        """The same for what has to succeed: its output."""
        finished = self(*arguments, timeout=timeout)
        assert finished.returncode == 0, f"buildah {arguments[0]}:\n{finished.output[-6000:]}"
        return finished.output

    def make_base(self) -> str:
        """The name of a base image: the smallest Debian that apt can install packages on."""
        system = self.folder / "base"
        made = launch([*_INSIDE, "debootstrap", "--variant=minbase", SUITE, system], timeout=900)
        assert made.returncode == 0, made.output[-3000:]
        container = self.must("from", "scratch").strip().splitlines()[-1]
        self.must("add", "--quiet", container, system, "/")
        self.must("config", "--env", f"PATH={_PATH}", container)  # as Debian's own image has it
        self.must("commit", "--quiet", "--rm", container, "localhost/base")
        shutil.rmtree(system)
        return "localhost/base"

    def build(self, *options: str | Path, timeout: float) -> tuple[str, str]:
        """The image's name and the build's log, with this machine's way to its packages."""
        words = ["--pull-never", "--file", ROOT / "Dockerfile.gpu", "--tag", "localhost/horovod_asl"]
        log = self.must("build", *words, *self._packages(), *options, ROOT, timeout=timeout)
        return "localhost/horovod_asl", log

    def container(self, image: str, *options: str) -> str:
        """A container of the image, not yet running anything."""
        return self.must("from", "--pull-never", *options, image).strip().splitlines()[-1]

    def _packages(self) -> list[str]:
        settings = {}
        for line in launch([BIN / "python", "-m", "pip", "config", "list"]).output.splitlines():
            name, _, value = line.partition("=")
            settings[name.split(".")[-1]] = str(ast.literal_eval(value))
        volumes = [
            _mounted(place) for name, value in settings.items() if name != "cert" for place in value.split()
        ]
        if "cert" in settings:  # at a place of its own: over the image's certificates dpkg would stumble
            volumes.append(f"{settings['cert']}:/mnt/pip-cert.pem:ro")
            settings["cert"] = "/mnt/pip-cert.pem"
        file = self.folder / "pip.conf"
        file.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items())]))
        volumes.append(f"{file}:/etc/pip.conf:ro")
        return [word for volume in volumes if volume for word in ("--volume", volume)]


def _mounted(place: str) -> str:
    """The volume for a file, a folder of packages, or an index (its `simple`), where the place is on this machine."""
    path = Path(place.removeprefix("file://"))
    if not (path.is_absolute() and path.exists()):
        return ""
    path = path.parent if path.name == "simple" else path
    return f"{path}:{path}:ro"
