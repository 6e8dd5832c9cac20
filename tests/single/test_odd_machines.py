"""Machines as they really are: long TMPDIR, other systems, streams, users and file systems than the developers'."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from horovod_asl.data import executor
from horovod_asl.errors import UserError
from tests.launching import ROOT, clean_environment


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` to its end."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def folder_of_length(parent: Path, length: int) -> Path:
    """A new folder whose path has so many characters."""
    folder = parent / ("t" * (length - len(str(parent)) - 1))
    folder.mkdir()
    assert len(str(folder)) == length
    return folder


# -- TMPDIR ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "where"), [(71, "TMPDIR"), (72, "/tmp"), (200, "/tmp")])
def test_workers_start_however_long_the_path_of_tmpdir_is(length: int, where: str) -> None:
    program = (
        "import multiprocessing.util, os\nfrom horovod_asl.data.executor import process_pool\n"
        "for _ in range(2):\n"
        "    with process_pool(1) as pool:\n        assert pool.submit(os.getpid).result() != os.getpid()\n"
        "print(multiprocessing.util.get_temp_dir())"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = folder_of_length(Path(short), length)
        done = run("-c", program, TMPDIR=str(folder))
        assert done.returncode == 0, done.stderr
        made = Path(done.stdout.strip())
        assert made.parent == (folder if where == "TMPDIR" else Path("/tmp"))
        assert done.stderr.count("note: the path of TMPDIR is too long for sockets") == (where == "/tmp")
        assert not made.exists()


def test_no_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gettempdir` is a mock that finds none, as in a container whose every disk is read-only."""

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    executor._make_socket_folder.cache_clear()
    with pytest.raises(UserError, match="name a folder with a short path in TMPDIR"):
        executor.process_pool(1)
