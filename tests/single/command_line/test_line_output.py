"""A line of output is one write, and idle threads sleep: what the entry points do before anything else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.launching import BIN, ROOT, clean_environment, launch

PROGRAM = """
from horovod_asl.system import streams
from horovod_asl.command_line.progress import Progress
streams.make_usable()
print("one line")
print("two", "words", flush=True)
print("one more\\nand its end")
Progress("").log("two lines\\nat once")
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
    lines = [
        b"one line\n",
        b"two words\n",
        b"one more\n",
        b"and its end\n",
        b"two lines\nat once\n",
        b"an error\n",
    ]
    assert writes == lines


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


# -- the rank before each line, which launch/horovodrun.sh removes from rank 0's ------------------------------------

TAGGED = {
    "[1,0]<stdout>:over MPI": "over MPI",
    "[0]<stdout>:over Gloo": "over Gloo",
    "[1,0]<stdout>:": "",
    "[1,0]<stdout>:  indented \u2192 [1,0]<stdout>:": "  indented \u2192 [1,0]<stdout>:",
    "[1,1]<stdout>:another rank's": "[1,1]<stdout>:another rank's",
    "[10]<stdout>:another's": "[10]<stdout>:another's",
    "mpirun's own": "mpirun's own",
}


def without_tag(program: str, *words: str, **streams: int) -> subprocess.Popen[str]:
    """A shell that runs `program` as horovodrun.sh runs horovodrun."""
    shell = f'. {ROOT}/launch/lib.sh; without_tag bash -c "$@"'
    return subprocess.Popen(
        ["bash", "-c", shell, "bash", program, "bash", *words],
        text=True,
        env=clean_environment(NP="1"),
        **streams,
    )


def test_rank_0_has_no_rank_before_its_lines_and_the_exit_code_stays() -> None:
    program = 'printf "%s\\n" "$@"; printf "[1,0]<stderr>:%s" "an end" >&2; exit 7'
    with without_tag(program, *TAGGED, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shell:
        output, errors = shell.communicate(timeout=30)
    assert output.splitlines() == list(TAGGED.values())
    assert (errors, shell.returncode) == ("an end", 7)


def test_lines_pass_as_they_come_and_what_is_left_behind_holds_nothing_up() -> None:
    program = 'echo "[1,0]<stdout>:first"; read -r < "$1"; setsid sleep 60 & echo $!'
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "gate")
        os.mkfifo(gate)
        with without_tag(program, str(gate), stdout=subprocess.PIPE) as shell:
            assert shell.stdout is not None
            assert shell.stdout.readline() == "first\n"  # before the program goes on
            gate.write_text("\n")
            left_behind = int(shell.stdout.readline())
            try:
                assert shell.wait(20) == 0
            finally:
                os.kill(left_behind, signal.SIGKILL)
