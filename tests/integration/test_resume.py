"""Killed and resumed, a run ends with the weights of an uninterrupted one, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import psutil
import pytest

from horovod_asl.runs.checkpoint import load_newest
from tests.launching import BIN, ROOT, Finished, clean_environment, launch, launcher_words

# 58 or so training photos in batches of 12 over all ranks: 10 steps an epoch, the last one short.
TRAIN = ["--epochs", "3", "--save-every-steps", "3", "--ema-decay", "0.9", "--learning-rate", "0.02"]


def train_command(store: Path, run: Path, ranks: int, *extra: str) -> list[str | Path]:
    words = ["--store", str(store), "--run-folder", str(run), "--batch-size-per-replica", str(12 // ranks)]
    return [BIN / "python", ROOT / "train.py", *words, *TRAIN, *extra]


def resume_command(run: Path, *extra: str) -> list[str | Path]:
    return [BIN / "python", ROOT / "train.py", "--resume", run, *extra]


def ended(finished: Finished) -> None:
    assert finished.returncode == 0, finished.output[-4000:]


def digest(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_digest"])


def ranks_of(run: Path) -> list[psutil.Process]:
    """The processes whose command line names `run` and that are Python ranks, not their launchers."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if (
            str(run) in words
            and any("train.py" in word for word in words[:3])
            and "RANK" in " ".join(environment)
        ):
            found.append(process)
    return found


def kill_a_rank_when(path_exists: Path, command: list[str | Path], run: Path) -> int:
    """Start `command`, kill one rank with SIGKILL once `path_exists` is there, and return the job's exit code."""
    process = subprocess.Popen(
        [str(word) for word in command],
        env=clean_environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not path_exists.exists():
            assert process.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, f"{path_exists} never came"
            time.sleep(0.02)
        victims = ranks_of(run)
        assert len(victims) == 2
        victims[-1].kill()
        return process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def uninterrupted(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("whole") / "run"
    ended(launch([*launcher_words("mpirun", 2), *train_command(small_store, run, 2)]))
    return digest(run)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("config.yaml", marks=pytest.mark.launch),
        "checkpoints/step-000000003",
        pytest.param("checkpoints/step-000000020", marks=pytest.mark.launch),
    ],
)
def test_a_rank_killed_under_mpirun_then_resumed(
    moment: str, uninterrupted: str, small_store: Path, tmp_path: Path
) -> None:
    """Killed before the first checkpoint, within the first epoch, and within the last."""
    run = tmp_path / "run"
    command = [*launcher_words("mpirun", 2), *train_command(small_store, run, 2)]
    assert kill_a_rank_when(run / moment, command, run) != 0
    assert not (run / "result.json").exists()
    ended(launch([*launcher_words("mpirun", 2), *resume_command(run)]))
    assert digest(run) == uninterrupted
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert len({row["photos"] for row in rows}) == 1  # each epoch saw every photo once, the killed one too


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("launcher", "ranks", "extra"),
    [
        ("gloo", 2, []),
        pytest.param("torchrun", 2, [], marks=pytest.mark.launch),
        pytest.param("mpirun", 3, ["--deterministic"], marks=pytest.mark.launch),
    ],
)
def test_stopped_in_mid_epoch_and_resumed_under_other_launchers(
    launcher: str, ranks: int, extra: list[str], small_store: Path, tmp_path: Path
) -> None:
    """Two ranks' sums have one order; three ranks' have one where it is asked for."""
    words = launcher_words(launcher, ranks)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    ended(launch([*words, *train_command(small_store, whole, ranks, *extra)]))
    stopped = launch([*words, *train_command(small_store, parted, ranks, *extra, "--stop-after-steps", "14")])
    assert "stopped at step 14" in stopped.output, stopped.output[-3000:]
    ended(launch([*words, *resume_command(parted)]))
    assert digest(parted) == digest(whole)


@pytest.mark.launch
@pytest.mark.timeout(400)
def test_resumed_on_another_number_of_ranks(small_store: Path, tmp_path: Path) -> None:
    """2 → 3 → 1 ranks: the same global batch, and each photo once per epoch."""
    run = tmp_path / "run"
    launch([*launcher_words("mpirun", 2), *train_command(small_store, run, 2, "--stop-after-steps", "7")])
    launch([*launcher_words("mpirun", 3), *resume_command(run, "--stop-after-steps", "17")])
    ended(launch(resume_command(run)))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [rows[0]["step"] * k for k in (1, 2, 3)]
    assert {row["photos"] for row in rows} == {116}
    assert json.loads((run / "run.json").read_text())["settings"]["global_batch"] == 12


def test_a_damaged_newest_checkpoint_falls_back_loudly(small_store: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    ended(launch(train_command(small_store, whole, 1)))
    launch(train_command(small_store, run, 1, "--stop-after-steps", "14"))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    with (newest / "state.pt").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    resumed = launch(resume_command(run))
    ended(resumed)
    assert "is damaged" in resumed.output
    assert "state.pt" in resumed.output
    assert digest(run) == digest(whole)


def test_a_finished_run_is_left_as_it_is(small_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended(launch(train_command(small_store, run, 1, "--epochs", "1")))
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    small_store.rename(tmp_path / "away")  # not needed to say so
    try:
        resumed = launch(resume_command(run))
    finally:
        (tmp_path / "away").rename(small_store)
    ended(resumed)
    assert "is finished (1 epochs, " in resumed.output
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------

FOR_EVER = ["--epochs", "100000"]


def at_a_terminal(command: list[str | Path], presses: int, moment: Path, **extra: str) -> Finished:
    """Start `command` and press Ctrl-C so often, half a second apart, once `moment` is there.

    As a terminal does: every process of the group in the foreground gets the signal.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=clean_environment(**extra),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 100
            while not moment.exists():
                assert process.poll() is None, "it ended before Ctrl-C"
                assert time.monotonic() < deadline, f"{moment} never came"
                time.sleep(0.02)
            for _ in range(presses):
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.5 if presses > 1 else 0)
            code = process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        return Finished(code, log.read())


def newest_step(run: Path) -> int:
    """That of the newest checkpoint, which must be whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = load_newest(run / "checkpoints")
    assert state is not None
    return int(state["position"]["step"])


def test_ctrl_c_saves_and_says_how_to_go_on(small_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = train_command(small_store, run, 1, *FOR_EVER)
    finished = at_a_terminal(command, 1, run / "checkpoints" / "step-000000003")
    assert finished.returncode == 130, finished.output[-3000:]
    (line,) = [line for line in finished.output.splitlines() if "resume with: " in line]
    step = int(line.partition("stopped by Ctrl-C at step ")[2].partition(";")[0])
    assert line.endswith(f"horovod-asl train --resume {run}")
    assert "Traceback" not in finished.output
    assert newest_step(run) == step
    resumed = launch(resume_command(run, "--stop-after-steps", str(step + 1)))
    assert resumed.returncode == 3, resumed.output[-3000:]
    assert f"from step {step} of" in resumed.output


@pytest.mark.parametrize(
    ("script", "options"),
    [
        pytest.param("horovodrun.sh", {"HOROVODRUN": "--mpi"}, id="mpi"),
        pytest.param("torchrun.sh", {}, id="torchrun"),
        pytest.param("horovodrun.sh", {"HOROVODRUN": "--gloo"}, id="gloo", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_under_a_launcher_has_all_ranks_save(
    script: str, options: dict[str, str], small_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = train_command(small_store, run, 2, *FOR_EVER)[2:]
    finished = at_a_terminal(
        [ROOT / "launch" / script, *words], 1, run / "checkpoints" / "step-000000003", NP="2", **options
    )
    assert finished.returncode == 130, finished.output[-3000:]
    assert "the ranks save and stop; press it again" in finished.output
    (line,) = [line for line in finished.output.splitlines() if "stopped by Ctrl-C at step " in line]
    assert f"train --resume {run} (on 2 ranks" in line
    assert "Traceback" not in finished.output
    assert f"stopped by Ctrl-C at step {newest_step(run)};" in line


def test_a_second_ctrl_c_ends_all_ranks_at_once(small_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = train_command(small_store, run, 2, *FOR_EVER, "--save-every-steps", "1")[2:]
    command = [ROOT / "launch" / "horovodrun.sh", *words]
    finished = at_a_terminal(command, 2, run / "checkpoints" / "step-000000003", NP="2")
    assert finished.returncode == 130, finished.output[-3000:]
    assert "Traceback" not in finished.output
    deadline = time.monotonic() + 10
    while ranks_of(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert newest_step(run) >= 3
