"""Configs of earlier versions: what they asked for is asked for in the words of this one, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from horovod_asl.command_line.cli import parse
from horovod_asl.command_line.config_upgrade import upgraded
from horovod_asl.config import RETIRED, TrainConfig
from horovod_asl.config_groups import TEMPORARY
from horovod_asl.errors import UserError
from horovod_asl.runs.bundled_model import BUNDLE
from horovod_asl.runs.run_folder import RunFolder
from tests.launching import ROOT


def run_of(tmp_path: Path, text: str) -> RunFolder:
    (tmp_path / "config.yaml").write_text(text)
    return RunFolder(tmp_path)


def test_the_bundled_model_was_trained_by_the_recipe_of_today() -> None:
    """Its config.yaml is of schema 1, and stays as the version wrote it that trained it."""
    text = (BUNDLE / "config.yaml").read_text()
    assert "schema" not in text
    assert "tuned_blocks: 10" in text
    old = RunFolder(BUNDLE).config(to_train=True)
    recipe = ROOT / "horovod_asl" / "recipes" / "tuned.yaml"
    words = ["--config", str(recipe), "--all-splits", "--pretrained", "head-all", "--weight-decay", "0.05"]
    assert parse(TrainConfig, words, prog="", description=None) == old
    assert (old.model.train, old.model.cache_features, old.epochs) == ("last-10", TEMPORARY, 0.65)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("freeze_backbone: true", {"train": "head"}),
        ("model: {freeze_backbone: true, tuned_blocks: 6}", {"model": {}, "train": "last-6"}),
        ("{freeze_backbone: false, tuned_blocks: 0, views: null, features_file: null}", {}),
        ("{freeze_backbone: true, views: 1}", {"train": "head", "cache_features": TEMPORARY}),
        ("{freeze_backbone: true, views: 1, features_file: f}", {"train": "head", "cache_features": "f"}),
        ("{freeze-backbone: true, keep-maps: 10}", {"train": "head"}),
        ("{epoch_share: 1.0, epochs: 3}", {"epochs": 3}),
        ("{epoch_share: 0.5, epochs: 1, warmup_epochs: 0.4}", {"epochs": 0.5, "warmup_epochs": 0.2}),
        ("{cycles: 1, mirror: 0.0, darken: 0, jpeg: 0.0, backgrounds: 0.0}", {}),
    ],
)
def test_an_old_word_has_its_new_one(old: str, new: dict[str, object]) -> None:
    content, gone = upgraded(yaml.safe_load(old))
    assert content == new
    assert gone == {}


@pytest.mark.parametrize(
    ("old", "flag"),
    [
        *((f"{name}: 0.5", f"--{name} 0.5") for name in RETIRED if name != "cycles"),
        ("cycles: 2", "--cycles 2"),
        ("{freeze_backbone: true, pretrained: w.pt, views: 3}", "--views 3"),
        ("{epoch_share: 0.5, epochs: 4}", "--epoch-share 0.5"),
    ],
)
def test_what_nothing_stands_for_is_refused_to_train_and_ignored_to_read(
    tmp_path: Path, old: str, flag: str
) -> None:
    run = run_of(tmp_path, old)
    with pytest.raises(UserError, match=f"asks for {flag}, which this version"):
        run.config(to_train=True)
    assert isinstance(run.config(), TrainConfig)
