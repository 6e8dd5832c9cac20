"""What a run folder may be made of, what it says of the photos of training, and which weights are which."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from horovod_asl.command_line.cli import parse
from horovod_asl.command_line.config_file import to_yaml
from horovod_asl.config import RETIRED, SCHEMA, TrainConfig
from horovod_asl.config_groups import ModelConfig
from horovod_asl.errors import UserError
from horovod_asl.runs import checkpoint
from horovod_asl.runs.run_folder import RunFolder

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


@pytest.mark.parametrize(
    ("facts", "pretrained", "unknown"),
    [
        ({"unknown_weights": None}, "theirs.pt", None),  # a file that was found to be a run's, or torchvision's
        ({"unknown_weights": "theirs.pt"}, None, "theirs.pt"),  # of the run that this one began with
        # Runs of versions that did not note it.
        ({"initialized_from": None}, "theirs.pt", "theirs.pt"),
        ({}, "/there/weights.safetensors", "/there/weights.safetensors"),
        ({}, "imagenet", None),
        ({}, "hands", None),
        ({}, None, None),
        ({"initialized_from": ModelConfig(pretrained="imagenet")}, "/there/first", None),
        ({"initialized_from": ModelConfig(pretrained="theirs.pt")}, "/there/second", "theirs.pt"),
        ({"initialized_from": ModelConfig(pretrained="first")}, "/there/second", None),
    ],
)
def test_whether_a_run_began_with_weights_of_which_nothing_is_known(
    facts: dict[str, Any], pretrained: str | None, unknown: str | None, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    begun = facts.get("initialized_from")
    if begun is not None:
        config = to_yaml(TrainConfig(model=replace(begun, model="resnet18")))
        facts = {"initialized_from": {"run": "first", "trained_on": ["a/1"], "config": config}}
    folder.write_facts(facts)
    folder.create(TrainConfig(model=ModelConfig(model="hand_net", pretrained=pretrained)))
    assert folder.unknown_weights() == unknown


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


# -- versions -------------------------------------------------------------------------------------------------------


def saved_by_an_older_version(path: Path, **gone: object) -> RunFolder:
    """A run whose config has these keys more, under `augment`, and no schema; it was trained by version 0.9.1."""
    folder = RunFolder(path)
    folder.claim()
    folder.write_facts({"versions": {"horovod_asl": "0.9.1"}})
    folder.create(CONFIG)
    content = yaml.safe_load((path / "config.yaml").read_text())
    del content["schema"]
    content["augment"] |= gone
    (path / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_an_option_that_is_gone_is_no_hindrance_at_its_old_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_by_an_older_version(tmp_path, sparkle=0.0)
    with pytest.raises(UserError, match="unknown key 'sparkle'"):
        folder.config()
    monkeypatch.setitem(RETIRED, "sparkle", 0.0)
    assert folder.config() == folder.config(to_train=True) == CONFIG
    words = ["--config", str(tmp_path / "config.yaml")]
    assert parse(TrainConfig, words, prog="p", description=None) == CONFIG


def test_an_option_that_is_gone_hinders_a_training_and_no_use_of_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RETIRED, "sparkle", 0.0)
    folder = saved_by_an_older_version(tmp_path, sparkle=0.3)
    assert folder.config() == CONFIG
    with pytest.raises(UserError, match=r"--sparkle 0\.3, which this .* no longer has: train with version 0\.9\.1"):
        folder.config(to_train=True)
    with pytest.raises(UserError, match=r"--sparkle 0\.3, which this .* no longer has: train with the version"):
        parse(TrainConfig, ["--config", str(tmp_path / "config.yaml")], prog="p", description=None)


def test_a_key_that_was_never_ours_is_refused_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RETIRED, "sparkle", 0.0)
    with pytest.raises(UserError, match="unknown key 'sprinkle'"):
        saved_by_an_older_version(tmp_path, sprinkle=0.0).config()


def test_what_a_newer_version_wrote_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim()
    folder.write_facts({"model": "small_cnn"})
    folder.create(CONFIG)
    checkpoint.save(folder.checkpoints / "step-000000001", weights={"w": torch.zeros(1)}, facts={"step": 1})
    newer = {"schema": SCHEMA + 1}
    checkpoint.save(folder.checkpoints / "step-000000002", weights={"w": torch.zeros(1)}, facts={"step": 2} | newer)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["schema"] == SCHEMA
    assert folder.facts()["schema"] == SCHEMA
    assert checkpoint.read_manifest(folder.checkpoints / "step-000000001")["schema"] == SCHEMA
    with pytest.raises(UserError, match=r"manifest.json was written by a newer version"):
        folder.best_weights()  # and not taken for damaged, which would fall back to the one before
    for name, read in (("config.yaml", folder.config), ("run.json", folder.facts)):
        file = tmp_path / name
        file.write_text(file.read_text().replace(f"{SCHEMA}", f"{SCHEMA + 1}", 1))
        with pytest.raises(UserError, match=f"{name} was written by a newer version .*use that version"):
            read()


def test_a_finished_run_that_is_extended_keeps_what_it_came_to(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.set_result_aside()  # of one that is not finished
    assert list(tmp_path.iterdir()) == []
    folder.write_metrics([{"epoch": 1}, {"epoch": 2}])
    folder.write_result({"epochs": 2})
    folder.set_result_aside()
    assert not (tmp_path / "result.json").exists()
    assert json.loads((tmp_path / "result.epoch-2.json").read_text()) == {"epochs": 2}


def test_the_names_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """run.json and the predictions as schema 1 wrote them."""
    run = RunFolder(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"begun_with": {"run": "first"}, "box": {"epoch": 3}}))
    assert run.facts() == {"initialized_from": {"run": "first"}, "bundle": {"epoch": 3}}
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "answers.npz", test_logits=logits)
    assert np.array_equal(run.predictions()["test_logits"], logits)
