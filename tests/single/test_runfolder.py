"""What a run folder may be made of, what it says of the photos of training, and which weights are which."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from horovod_asl import checkpoint
from horovod_asl.config import TrainConfig
from horovod_asl.errors import UserError
from horovod_asl.runfolder import RunFolder

CONFIG = TrainConfig()


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(UserError, match=r"other files \(store.json\).*--run-folder"):
        RunFolder(tmp_path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_an_empty_folder_and_what_a_failed_start_left_may_be_used(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim()
    folder.write_facts({})
    folder.write_training_photos(["0" * 64])
    folder.write_metrics([])
    (tmp_path / ".config.yaml.partial").write_text("torn")
    folder.claim()
    folder.create(CONFIG)
    assert folder.config() == CONFIG
    with pytest.raises(UserError, match=r"already holds a run; continue it with: .*train --resume"):
        folder.claim()


def test_a_ledger_that_another_rank_began_meanwhile_does_not_hinder_the_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim()
    folder.write_ledger({"step": 0})
    folder.create(CONFIG)
    assert folder.holds_run()


def test_checkpoints_without_a_config_are_nobody_s_leftovers(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoints" / "step-000000001", weights={}, facts={})
    with pytest.raises(UserError, match="checkpoints"):
        RunFolder(tmp_path).claim()


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_file_in_the_place_of_the_folder_is_refused_with_the_remedy(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made a run folder .*name another with --run-folder"):
        RunFolder(tmp_path / path).claim()


def test_photos_of_training_are_known_by_their_digest(tmp_path: Path) -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]
    folder = RunFolder(tmp_path)
    assert folder.were_in_training(digests) is None
    folder.write_training_photos(digests[:600] + digests[:10])
    assert folder.were_in_training(digests) == [True] * 600 + [False] * 400
    assert (tmp_path / "trained_on.sha256").stat().st_size == 600 * 17


def test_the_final_weights_are_the_newest_and_not_the_best(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        folder.final_weights()
    for step in (9, 10):
        weights = {"w": torch.tensor([float(step)])}
        checkpoint.save(folder.checkpoints / f"step-{step:09d}", weights=weights, facts={"step": step})
    folder.save_best(1, 0.9, {"w": torch.tensor([9.0])}, keep=3)
    assert folder.final_weights()["w"].item() == 10
    assert folder.best_weights()[1]["w"].item() == 9


def test_a_saved_config_goes_into_another_run_only_with_another_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "first")
    first.create(replace(CONFIG, run_folder=first.path))
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(first.config().run_folder or tmp_path).claim()
