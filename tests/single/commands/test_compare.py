"""`compare` refuses at once what would fail late, and its table holds whatever finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from horovod_asl.commands import compare
from horovod_asl.errors import UserError
from horovod_asl.runs import checkpoint


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every launcher is here, there is no GPU, and a run that would start fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda program, path=None: program)
    monkeypatch.setattr(compare, "_gpu_count", lambda: 0)
    monkeypatch.setattr(compare, "_run", lambda *given, **named: pytest.fail("a run was started"))


def refused(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        compare.main(words)
    assert not Path("runs").exists()
    return str(caught.value)


def test_a_launcher_that_is_not_here_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shutil, "which", lambda program, path=None: None if program == "horovodrun" else program
    )
    line = refused()
    assert "horovod needs horovodrun" in line
    assert "make setup" in line
    assert "--backends serial dp ddp" in line


@pytest.mark.parametrize(
    ("gpus", "words", "fitting"),
    [
        (3, "--ranks 3", "63 or 66"),  # dp has a replica per GPU
        (6, "--ranks 4", "60 or 72"),
        (0, "--ranks 3", "63 or 66"),
        (8, "--ranks 8 --global-batch 4", "use --global-batch 8"),
        (0, "--backends ddp --ranks 8 --global-batch 4", "use --global-batch 8"),
    ],
)
def test_a_batch_that_not_all_can_cut_is_refused_with_those_that_fit(
    gpus: int, words: str, fitting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_gpu_count", lambda: gpus)
    assert fitting in refused(*words.split())


def test_more_ranks_than_gpus_are_refused_unless_they_are_to_run_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare, "_gpu_count", lambda: 1)
    line = refused("--ranks", "2")
    assert "--ranks 1" in line
    assert "-- --device cpu" in line
    started: list[tuple[str, int]] = []
    monkeypatch.setattr(compare, "_run", lambda kind, *rest, gpus: started.append((kind, gpus)))
    assert compare.main(["--ranks", "2", "--", "--device", "cpu"]) == 1
    assert started == [("serial", 0), ("dp", 0), ("ddp", 0), ("horovod", 0)]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--ranks 0", "--ranks"),
        ("--global-batch 0", "--global-batch must be at least 1"),
        ("--backends serial serial", "none twice"),
        ("-- --epoch 3", "did you mean --epochs?"),
        ("-- --batch-size-per-replica 8", "--batch-size-per-replica itself"),
        ("-- --learning-rate-scaling linear", "--learning-rate-scaling itself"),
        ("-- --run-folder x", "--run-folder itself"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(words: str, part: str) -> None:
    assert part in refused(*words.split())


def fake_run(out: Path, kind: str, final: float) -> dict[str, Any]:
    """A run folder whose last weights are `final`, its best ones all the same; its row of the table."""
    for step, value in ((1, 0.0), (2, final)):
        folder = out / kind / "checkpoints" / f"step-{step:09d}"
        checkpoint.save(folder, weights={"w": torch.full((4,), value)}, facts={})
    checkpoint.save(
        out / kind / "best" / "epoch-00001",
        weights={"w": torch.ones(4)},
        facts={"epoch": 1, "validation_top1": 1.0},
    )
    speed = {"photos_per_second": 10.0 * final, "train_seconds": 1.0, "final_loss": 1.0}
    return {"backend": kind, "ranks": 1, "replicas": 1, "scored_split": "test", "top1": 0.5} | speed


def test_the_last_weights_are_compared_with_serial_s_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finals = {"ddp": 3.0, "serial": 2.0, "dp": 2.0}
    monkeypatch.setattr(
        compare, "_run", lambda kind, config, *_, **__: fake_run(config.out, kind, finals[kind])
    )
    assert compare.main(["--out", "out", "--backends", *finals]) == 0
    rows = {row["backend"]: row for row in json.loads(Path("out/compare.json").read_text())}
    assert {kind: row["weight_difference"] for kind, row in rows.items()} == {
        "ddp": 0.5,
        "serial": 0,
        "dp": 0,
    }
    assert {kind: row["speed_up"] for kind, row in rows.items()} == {"ddp": 1.5, "serial": 1, "dp": 1}


@pytest.mark.parametrize("failing", ["serial", "ddp"])
def test_a_run_that_fails_costs_its_row_and_the_exit_code_but_not_the_table(
    failing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        compare,
        "_run",
        lambda kind, config, *_, **__: None if kind == failing else fake_run(config.out, kind, 2.0),
    )
    assert compare.main(["--out", "out", "--backends", "serial", "dp", "ddp"]) == 1
    rows = json.loads(Path("out/compare.json").read_text())
    assert [row["backend"] for row in rows] == [kind for kind in ("serial", "dp", "ddp") if kind != failing]
    shown = capsys.readouterr()
    assert "weight difference" in shown.out
    assert f"runs under {failing} failed" in shown.err


def test_a_program_s_exit_code_makes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(compare, "_launcher", lambda kind, ranks: ["false"])
    assert compare._run("serial", compare.CompareConfig(), (), gpus=0) is None
