"""Locks that outlive no holder and let in no second one, and what a full disk is called."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from horovod_asl.system import locks
from horovod_asl.system.files import full_disk, is_full
from horovod_asl.system.locks import Lock, locked
from tests.launching import ROOT, clean_environment


@contextmanager
def process(program: str, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Python program, running; killed at the end."""
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


HOLD = """
    import sys, time
    from pathlib import Path
    from horovod_asl.system.locks import Lock
    assert Lock(Path(sys.argv[1])).take() is None
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """The lock, held by another process."""
    with process(HOLD, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder


def rewrite(path: Path, *, age_s: float = 0.0, **changes: Any) -> None:
    """Change what a lock says of its holder, and when it was last renewed."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    os.utime(path, (time.time() - age_s, time.time() - age_s))


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def leave(path: Path, **changes: Any) -> None:
    """The lock of a process that was killed, changed to be another's."""
    with held_elsewhere(path) as holder:
        holder.kill()
        holder.wait()
    rewrite(path, **changes)


def test_a_lock_names_its_holder_and_goes_with_it(lock: Path) -> None:
    with held_elsewhere(lock) as holder:
        found = Lock(lock).take()
        assert found is not None
        assert found.is_alive
        assert re.fullmatch(
            rf"pid {holder.pid} on {re.escape(os.uname().nodename)}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d",
            str(found),
        )
        assert list(lock.parent.iterdir()) == [lock]
        lines: list[str] = []
        holder.kill()
        holder.wait()
        mine = Lock(lock, lines.append)
        assert mine.take() is None
        assert lines == [f"the lock {lock} of {found} is stale: taken over"]
    with held_elsewhere_refused(lock):
        mine.release()
    assert list(lock.parent.iterdir()) == []
    mine.release()


@contextmanager
def held_elsewhere_refused(path: Path) -> Iterator[None]:
    with process(HOLD, path) as other:
        assert other.wait(20) == 1
        yield


def test_a_suspended_holder_is_not_robbed_on_its_own_machine(lock: Path) -> None:
    with held_elsewhere(lock):
        rewrite(lock, age_s=3600)
        found = Lock(lock).take()
        assert found is not None
        assert found.is_alive


def test_a_pid_that_another_process_has_now_is_no_holder(lock: Path) -> None:
    with held_elsewhere(lock):
        rewrite(lock, began=json.loads(lock.read_text())["began"] - 1)
        mine = Lock(lock)
        assert mine.take() is None
        mine.release()


@pytest.mark.parametrize(
    "elsewhere", [{"host": "another"}, {"machine": "this boot, but another container"}, {"machine": ""}]
)
def test_a_holder_elsewhere_is_judged_by_when_it_renewed_the_file(elsewhere: dict[str, str], lock: Path) -> None:
    leave(lock, **elsewhere)
    mine = Lock(lock)
    found = mine.take()
    assert found is not None
    assert not found.is_alive
    time.sleep(0.02)
    os.utime(lock)
    found = mine.take()
    assert found is not None
    assert found.is_alive
    rewrite(lock, age_s=locks.STALE_AFTER_S + 5)
    assert mine.take() is None
    mine.release()


@pytest.mark.parametrize(
    ("job", "restarts", "is_stale"), [("17", "1", True), ("17", "0", False), ("18", "1", False)]
)
def test_a_requeued_job_takes_over_from_its_earlier_start(
    job: str, restarts: str, is_stale: bool, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(lock, host="another", job="17", restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    mine = Lock(lock)
    assert (mine.take() is None) == is_stale
    mine.release()


@pytest.mark.parametrize("text", ["", "[]", '{"host": "x"}', "no JSON"])
def test_a_torn_lock_is_somebodys_until_it_is_old(text: str, lock: Path) -> None:
    lock.write_text(text)
    mine = Lock(lock)
    assert str(mine.take()) == "an unknown process"
    os.utime(lock, (time.time() - 100, time.time() - 100))
    assert mine.take() is None
    mine.release()


def test_who_knows_better_takes_it_whoever_holds_it(lock: Path) -> None:
    mine = Lock(lock)
    with held_elsewhere(lock):
        assert mine.take(force=True) is None
    mine.release()


def test_a_copy_of_a_locked_folder_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with held_elsewhere(tmp_path / "run" / "lock"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        copied = Lock(tmp_path / "copy" / "lock")
        assert copied.take() is None
        copied.release()
        (tmp_path / "link").symlink_to("run")  # the same folder by another path
        assert Lock(tmp_path / "link" / "lock").take() is not None


def test_a_file_system_without_links_has_locks_too(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    mine, other = Lock(lock), Lock(lock)
    assert mine.take() is None
    assert str(other.take()).startswith(f"pid {os.getpid()} ")
    mine.release()
    assert other.take() is None
    other.release()
    assert list(lock.parent.iterdir()) == []


def test_a_holder_renews_its_lock_and_ends_when_it_was_given_up(lock: Path) -> None:
    quick = f"import horovod_asl.system.locks as locks\nlocks._RENEW_EVERY_S = 0.05\n{textwrap.dedent(HOLD)}"
    with process(quick, lock) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        holder.stdout.readline()
        before = lock.stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while lock.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        mine = Lock(lock)
        assert mine.take(force=True) is None
        assert holder.wait(10) == 1
        assert f"the lock {lock} was taken over by pid {os.getpid()} on " in holder.stderr.read()
        mine.release()


# Each attempt is a fork that kills itself at one line of system/locks.py, the next attempt at the next line.
KILLED_EVERYWHERE = """
    import os, signal, sys, time
    from pathlib import Path
    from horovod_asl.system import locks

    path, first = Path(sys.argv[1]) / "lock", sys.argv[2] == "stale"

    def die_at(line):
        count = 0
        def trace(frame, event, argument):
            nonlocal count
            if frame.f_code.co_filename != locks.__file__:
                return None
            count += event == "line"
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)

    def child(body):
        pid = os.fork()
        if pid == 0:
            body()
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    def take_and_release(line):
        lock = locks.Lock(path)
        die_at(line)
        assert lock.take() is None
        lock.release()

    line = 0
    while True:
        line += 1
        if first:
            child(lambda: locks.Lock(path).take())
        killed = child(lambda: take_and_release(line)) == signal.SIGKILL
        lock, began = locks.Lock(path), time.monotonic()
        assert lock.take() is None, line
        assert time.monotonic() - began < 1, line
        lock.release()
        assert not path.exists(), line
        if not killed:
            break
    print(line)
"""


@pytest.mark.parametrize(("case", "least"), [("free", 40), ("stale", 100)])
def test_a_holder_killed_at_any_line_keeps_nobody_waiting(case: str, least: int, tmp_path: Path) -> None:
    with process(KILLED_EVERYWHERE, tmp_path, case) as attempts:
        output, errors = attempts.communicate(timeout=100)
    assert attempts.returncode == 0, errors
    assert int(output) > least


# Holders come and go, some of them killed; whoever enters finds nobody inside who lives.
ONE_AT_A_TIME = """
    import os, random, signal, sys, time
    from pathlib import Path
    from horovod_asl.system.locks import Lock

    folder = Path(sys.argv[1])
    inside, entered = folder / "inside", folder / "entered"

    def lives(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def worker(seed):
        chance = random.Random(seed)
        for _ in range(10):
            lock = Lock(folder / "lock")
            while lock.take() is not None:
                time.sleep(chance.random() / 50)
            if inside.exists() and lives(int(inside.read_text())):
                (folder / "two").touch()
            inside.write_text(str(os.getpid()))
            with entered.open("a") as file:
                file.write("x")
            if chance.random() < 0.3:
                os.kill(os.getpid(), signal.SIGKILL)
            inside.unlink()
            lock.release()

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are gone at once
    for seed in range(16):
        if os.fork() == 0:
            worker(seed)
            os._exit(0)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
"""


def test_who_finds_a_lock_stale_late_does_not_break_the_one_that_replaced_it(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(lock)
    first, second = Lock(lock), Lock(lock)
    judge = locks._is_stale

    def judge_and_be_overtaken(*words: Any) -> bool:
        judgement = judge(*words)
        monkeypatch.setattr(locks, "_is_stale", judge)
        assert first.take() is None
        return judgement

    monkeypatch.setattr(locks, "_is_stale", judge_and_be_overtaken)
    assert second.take() is not None
    found = second.take()
    assert found is not None
    assert found.token == first.token
    assert list(lock.parent.iterdir()) == [lock]
    first.release()


def test_of_many_one_at_a_time_gets_it(tmp_path: Path) -> None:
    with process(ONE_AT_A_TIME, tmp_path) as crowd:
        _, errors = crowd.communicate(timeout=100)
    assert crowd.returncode == 0, errors
    assert not (tmp_path / "two").exists()
    assert len((tmp_path / "entered").read_text()) > 30


def test_waiting_says_for_whom_and_for_how_long(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(locks, "_REPORT_EVERY_S", 0.2)
    lines: list[str] = []
    with held_elsewhere(lock) as holder:

        def log(line: str) -> None:
            lines.append(line)
            if len(lines) == 2:
                holder.kill()
                holder.wait()

        with locked(lock, "somebody is at work", log=log):
            assert lock.exists()
    assert not lock.exists()
    assert lines[0].startswith(f"somebody is at work (pid {holder.pid} on ")
    assert lines[0].endswith("; waiting for it")
    assert lines[1].endswith("; waiting for it, 0 min so far")
    assert "is stale: taken over" in lines[2]


def test_a_full_disk_is_found_behind_other_errors(tmp_path: Path) -> None:
    def raised(first: BaseException) -> BaseException:
        try:
            try:
                raise first
            except BaseException:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
        except RuntimeError as error:
            return error

    assert is_full(OSError(errno.EDQUOT, "quota"))
    assert is_full(raised(OSError(errno.ENOSPC, "full")))
    assert is_full(ValueError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(raised(OSError(errno.EACCES, "denied")))
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    line = str(full_disk(tmp_path / "not" / "there", "free some room"))
    said = re.search(r"there is full, or your quota is used up \((\d+\.\d) GB free\): free some room", line)
    assert said is not None
    assert abs(float(said[1]) - free / 1e9) < 2
