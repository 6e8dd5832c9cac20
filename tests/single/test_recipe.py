"""Which recipe `train` takes, and what it makes of the user's flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from horovod_asl.cli import parse
from horovod_asl.config import TrainConfig, refuse_without_effect
from horovod_asl.data.store import Store
from horovod_asl.recipe import (
    BUNDLED,
    SMALL_STORE_PHOTOS,
    SMALL_STORE_RECORDINGS,
    TWO_STAGES,
    flags_of,
    recipe_of,
)


class FakeStore:
    """What of a store decides the recipe."""

    def __init__(self, photos: int, *, hands: bool = True, recordings: int = SMALL_STORE_RECORDINGS) -> None:
        self.training_rows = np.arange(photos)
        self.sources = np.full(photos, "all")
        self.recordings = np.arange(photos) % recordings
        self.hand_settings = {"crop_size": 192} if hands else None

    def __len__(self) -> int:
        return 2 * len(self.training_rows)


def store(photos: int = 100, **traits: Any) -> Store:
    return cast(Store, FakeStore(photos, **traits))


def config_of(words: list[str]) -> TrainConfig:
    config = parse(TrainConfig, words, prog="horovod-asl train", description=None)
    refuse_without_effect(config)
    return config


@pytest.mark.parametrize(
    ("words", "photos", "stages"),
    [
        ("", SMALL_STORE_PHOTOS, BUNDLED),
        ("", SMALL_STORE_PHOTOS + 1, TWO_STAGES),
        ("--all-splits", SMALL_STORE_PHOTOS, TWO_STAGES),
        ("--samples 500", SMALL_STORE_PHOTOS + 1, BUNDLED),
        ("--input both", 100, BUNDLED),
        ("--model=hand_net", 100, BUNDLED),
        ("--pretrained hands", 100, TWO_STAGES),
        ("--pretrained default", SMALL_STORE_PHOTOS + 1, BUNDLED),
        ("--pretrained runs/mine", 100, BUNDLED),
        ("--pretrained none", 100, ()),
        ("--input photos", 100, ()),
        ("--input landmarks", 100, ()),
        ("--model resnet18", 100, ()),
        ("--model hand_net --pretrained hands --train head", 100, ()),
        ("--model hand_net --pretrained hands --train=last-10", 100, ()),
    ],
)
def test_the_recipe_is_for_what_the_flags_leave_open(
    words: str, photos: int, stages: tuple[str, ...]
) -> None:
    assert recipe_of(words.split(), store(photos)) == stages


def test_many_photos_of_few_people_are_a_small_store() -> None:
    assert recipe_of([], store(50_000, recordings=SMALL_STORE_RECORDINGS - 1)) == BUNDLED


def test_a_store_without_hands_has_no_recipe() -> None:
    assert recipe_of([], store(hands=False)) == ()


def test_a_network_that_a_config_file_names_is_kept(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model: {model: resnet18}\n")
    assert recipe_of(["--config", str(tmp_path / "my.yaml")], store()) == ()


@pytest.mark.parametrize("stage", [*BUNDLED, *TWO_STAGES])
@pytest.mark.parametrize("ranks", [1, 4])
def test_any_number_of_ranks_takes_the_same_steps(stage: str, ranks: int) -> None:
    config = config_of(flags_of(stage, [], store(5_000), ranks))
    assert config.model.name == "hand_net"
    assert config.model.train == ("last-10" if stage == "tuned" else "head")
    assert config.batch_size_per_replica * ranks == (64 if stage == "tuned" else 128)
    assert config.optimizer.learning_rate_scaling == "none"


def test_the_user_s_flags_win() -> None:
    words = ["--epochs", "7", "--learning-rate", "0.5", "--pretrained", "runs/mine"]
    config = config_of(flags_of("bundled", words, store(), 1))
    assert (config.epochs, config.optimizer.learning_rate, config.model.pretrained) == (7, 0.5, "runs/mine")


@pytest.mark.parametrize(("photos", "epochs"), [(1_280, 160), (12_800, 16), (1_000_000, 4)])
def test_a_new_head_takes_enough_steps_on_few_photos(photos: int, epochs: int) -> None:
    assert config_of(flags_of("head", [], store(photos), 1)).epochs == epochs


def test_random_weights_are_taken_where_they_are_asked_for() -> None:
    model: Any = config_of(["--input", "both", "--pretrained", "none"]).model
    assert (model.name, model.pretrained) == ("hand_net", None)


def test_whole_photos_are_an_input_of_their_own() -> None:
    assert config_of(["--input", "photos"]).model.name == "small_cnn"
    assert config_of(["--input", "photos", "--model", "resnet18"]).model.input is None
