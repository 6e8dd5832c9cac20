"""A line of output is one write, and idle threads sleep: what the entry points do before anything else."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import BIN, ROOT, clean_environment, launch

PROGRAM = """
from horovod_asl import streams
from horovod_asl.progress import Progress
streams.make_usable()
print("one line")
print("two", "words", flush=True)
Progress("").say("two lines\\nat once")
raise SystemExit("an error")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_each_line_is_one_write(unbuffered: str) -> None:
    """A socket that keeps writes apart; horovodrun sets PYTHONUNBUFFERED."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        environment = clean_environment(PYTHONUNBUFFERED=unbuffered)
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=ROOT,
            check=False,
            timeout=60,
        )
        theirs.close()
        writes = list(iter(lambda: ours.recv(65536), b""))
    assert writes == [b"one line\n", b"two words\n", b"two lines\nat once\n", b"an error\n"]


@pytest.mark.parametrize(("own", "effective"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
@pytest.mark.parametrize("entry", [["-m", "horovod_asl", "train"], ["train.py"]])
def test_idle_threads_sleep_but_where_the_user_wants_otherwise(
    entry: list[str], own: str | None, effective: str, small_store: Path, tmp_path: Path
) -> None:
    """libgomp says itself what it goes by."""
    extra = {"OMP_DISPLAY_ENV": "TRUE"} | ({} if own is None else {"OMP_WAIT_POLICY": own})
    words = ["--store", small_store, "--run-folder", tmp_path / "run", "--stop-after-steps", "1"]
    finished = launch([BIN / "python", *entry, *words], **extra)
    assert finished.returncode == 3, finished.output
    assert f"OMP_WAIT_POLICY = '{effective}'" in finished.output
