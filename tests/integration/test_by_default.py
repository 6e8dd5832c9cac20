"""`train` on a store with hands, without a word of the network: by hands, in one stage or two, on one rank or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from horovod_asl.runs.bundled_model import BUNDLE, Bundle
from horovod_asl.runs.checkpoint import weights_digest
from horovod_asl.runs.run_folder import FEATURES, HEAD, RunFolder
from tests.launching import BIN, Finished, launch, launcher_words, ok

pytestmark = pytest.mark.timeout(240)
ASL = BIN / "horovod-asl"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn hands: 58 photos to train on, 29 to validate, 29 to test."""
    path = tmp_path_factory.mktemp("stores") / "hands"
    ok(launch([ASL, "prepare", "synthetic", path, "--synthetic-photos", "1", "--hands"]))
    return path


def train(store: Path, run: Path, *words: Any, launcher: list[Any] | None = None) -> Finished:
    return launch([*(launcher or []), ASL, "train", "--store", store, "--run-folder", run, *words], timeout=200)


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    ok(train(store, folder))
    return folder


def test_a_small_store_goes_on_from_the_bundled_model(run: Path) -> None:
    result, facts = RunFolder(run).result(), RunFolder(run).facts()
    assert result["scores"]["test"]["top1"] > 0.9  # of hands that were drawn with another seed than the model's
    assert facts["initialized_from"]["run"] == "default"
    assert result["held_out_in_training"] == {}
    bundled, trained = Bundle(BUNDLE).best_weights()[1], RunFolder(run).best_weights()[1]
    moved = {name.split(".")[0] for name in bundled if not torch.equal(bundled[name], trained[name])}
    assert moved == {"tail"}


def test_two_ranks_take_its_steps(run: Path, store: Path, tmp_path: Path) -> None:
    ok(train(store, tmp_path / "two", launcher=launcher_words("mpi", 2)))
    one, two = (RunFolder(folder).facts()["settings"] for folder in (run, tmp_path / "two"))
    assert two["world_size"] == 2
    assert (one["global_batch"], one["steps"]) == (two["global_batch"], two["steps"]) == (128, 4)
    assert one["peak_learning_rate"] == two["peak_learning_rate"]


def test_whole_photos_are_one_flag_away_and_say_why_they_read_little(store: Path, tmp_path: Path) -> None:
    said = ok(train(store, tmp_path / "run", "--input", "photos", "--epochs", "1"))
    assert RunFolder(tmp_path / "run").facts()["model"] == "small_cnn"
    assert "this network reads whole photos" in said
    assert "leave out --input photos" in said


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs") / "two-stages"
    said = ok(train(store, folder, "--pretrained", "hands", "--epochs", "2"))
    assert "stage 1 of 2" in said
    assert "stage 2 of 2" in said
    return RunFolder(folder)


def test_two_stages_are_one_run(undisturbed: RunFolder) -> None:
    head = RunFolder(undisturbed.path / HEAD)
    first, second = head.best_weights()[1], undisturbed.best_weights()[1]
    assert undisturbed.facts()["initialized_from"]["run"] == str(head.path)
    assert undisturbed.facts()["trained_on"] == head.facts()["trained_on"]
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"tail", "trunk"}
    assert not list(undisturbed.path.glob(f"*{FEATURES}*"))


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_stages_that_are_stopped_go_on_to_the_same_weights(
    steps: int, store: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    """Stopped in the first epoch of a stage, and at its end; begun anew, it is refused."""
    folder, flags = tmp_path / "run", ["--pretrained", "hands", "--epochs", "2"]
    stopped = train(store, folder, *flags, "--stop-after-steps", steps)
    assert steps == 2 or f"train --resume {folder}\n" in stopped.output
    refused = train(store, folder, *flags)
    assert refused.returncode == 2
    assert "already holds a run" in refused.output
    ok(launch([ASL, "train", "--resume", folder, *flags], timeout=200))  # as a job that is requeued says it
    assert "nothing to do" in ok(launch([ASL, "train", "--resume", folder, *flags], timeout=200))
    _, weights = RunFolder(folder).best_weights()
    assert weights_digest(dict(weights)) == weights_digest(dict(undisturbed.best_weights()[1]))


def test_crossval_takes_hands_too(store: Path, tmp_path: Path) -> None:
    words = ["--by", "signer", "--signers", "synthetic", "--only", "synthetic/r3", "--out", tmp_path / "out"]
    ok(launch([ASL, "crossval", store, *words, "--epochs", "1"], timeout=200))
    (row,) = json.loads((tmp_path / "out" / "crossval.json").read_text())
    assert RunFolder(tmp_path / "out" / row["folder"]).facts()["model"] == "hand_net"
