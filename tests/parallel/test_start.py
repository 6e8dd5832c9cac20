"""Ranks that nobody's launcher started: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, one process per rank."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from horovod_asl.distributed.threads import usable_threads
from tests.launching import BIN, ROOT, clean_environment, launch, launcher_words, ok

TRAIN = [BIN / "python", ROOT / "train.py", "--epochs", "1", "--batch-size-per-replica", "8"]


@contextmanager
def ranks(port: int, which: list[int], world_size: int, *words: str | Path) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each of the ranks `which`; all end with the block."""
    started = []
    try:
        for rank in which:
            variables = {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
            variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
            started.append(
                subprocess.Popen(
                    [str(word) for word in (*TRAIN, *words)],
                    env=clean_environment(**variables),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listening() -> socket.socket:
    """Something that listens on a port of its own and never answers."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen(8)
    return taken


def free_port() -> int:
    with closing(listening()) as taken:
        port: int = taken.getsockname()[1]
        return port


def test_two_ranks_of_one_machine_share_its_cores(small_store: Path, tmp_path: Path) -> None:
    """Nothing says that they do; each would otherwise count itself as the only one here."""
    words = ("--store", small_store, "--run-folder", tmp_path / "run")
    with ranks(free_port(), [0, 1], 2, *words) as started:
        said = [process.communicate(timeout=100)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (settings["backend"], settings["world_size"]) == ("ddp", 2)
    assert settings["threads_per_rank"] == usable_threads(2)


def test_a_torchrun_per_node_under_mpirun(small_store: Path, tmp_path: Path) -> None:
    """`mpirun -np NODES torchrun …`; the two nodes are one machine here, whose cores the two torchruns share."""
    torchrun = ["torchrun", "--nnodes", "2", "--nproc-per-node", "1", "--local-addr", "127.0.0.1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    words = [*TRAIN[1:], "--store", small_store, "--run-folder", tmp_path / "run"]
    ok(launch([*launcher_words("mpirun", 2), *torchrun, *words], timeout=120))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (settings["backend"], settings["world_size"]) == ("ddp", 2)
    assert settings["threads_per_rank"] == usable_threads(2)


def test_a_port_that_is_taken_ends_all_ranks_with_a_line_each(small_store: Path, tmp_path: Path) -> None:
    with closing(listening()) as taken:
        port = taken.getsockname()[1]
        words = ("--store", small_store, "--run-folder", tmp_path / "run")
        with ranks(port, [0, 1], 2, *words) as started:
            said = [process.communicate(timeout=90)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [2, 1], said
    assert [len(lines) for lines in said] == [1, 1], said
    assert f"cannot listen on port {port} of" in said[0][0]
    assert "another program listens there): set MASTER_PORT to a free port" in said[0][0]
    assert f"what listens at localhost:{port} is not rank 0 of this job: set MASTER_PORT" in said[1][0]


def test_ranks_that_wait_say_for_whom_within_30_s(small_store: Path, tmp_path: Path) -> None:
    """Rank 0 of one world and rank 2 of another, each alone."""
    began = time.monotonic()
    words = ("--store", small_store, "--run-folder", tmp_path / "run")
    with ranks(free_port(), [0], 3, *words) as [first], ranks(free_port(), [2], 3, *words) as [third]:
        lines = [process.stdout.readline() for process in (first, third) if process.stdout is not None]
    assert re.match(r"rank 0: since \d+ s waiting for rank 1, 2 of 3 \(rank 0 listens on", lines[0]), lines
    assert re.match(r"rank 2: since \d+ s waiting for rank 0 at localhost:\d+ \(", lines[1]), lines
    assert time.monotonic() - began < 30
