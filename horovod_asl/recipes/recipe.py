"""How `train` trains where neither the network nor its first weights are named: by hands, where the store has them.

    bundled       a small store: the bundled model's head goes on learning, from these photos
    head, tuned   a large store: a new head on MediaPipe's frozen trunk, then the head with the trunk's last blocks;
                  so the bundled model was made (launch/model.sh)

A recipe is a file of train's flags under recipes/. The user's flags stand to the right of it, and win. The batch that
it names is that of all ranks together, so that any number of ranks takes the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from horovod_asl.command_line.cli import named_flags
from horovod_asl.config import TrainConfig
from horovod_asl.store.store import Store
from horovod_asl.training.datasets import recording_names

BUNDLED: tuple[str, ...] = ("bundled",)
TWO_STAGES: tuple[str, ...] = ("head", "tuned")
SMALL_STORE_PHOTOS, SMALL_STORE_RECORDINGS = 10_000, 20
"""A store is small up to so many photos, or below so many recordings, to train on: what is trained on them alone
reads strangers worse than the bundled model, which has seen more people. The public ASL Alphabet set is 87,000 photos
of one person."""

_STEPS = {"bundled": 0, "head": 1_600, "tuned": 500}
_FOLDER = Path(__file__).parent
_OWN_WAY = {"train", "cache-features"}


def recipe_of(
    argv: Sequence[str], store: Store, config_class: type[TrainConfig] = TrainConfig
) -> tuple[str, ...]:
    """The stages of the recipe that these flags leave to us; empty where they say how to train.

    Args:
        argv: the words after the command, whose flags are those of `config_class`.

    Raises:
        UserError: as `cli.parse`, of a config file.
    """
    named = named_flags(config_class, argv)
    pretrained = named.get("pretrained")
    by_hands = named.get("model", "hand_net") == "hand_net" and named.get("input", "both") == "both"
    if store.hand_settings is None or not by_hands or named.keys() & _OWN_WAY or pretrained == "none":
        return ()
    if pretrained is not None:
        return TWO_STAGES if pretrained == "hands" else BUNDLED
    is_small = (
        _photos_of_training(named, store) <= SMALL_STORE_PHOTOS
        or len(recording_names(store, store.training_rows)) < SMALL_STORE_RECORDINGS
    )
    return BUNDLED if is_small else TWO_STAGES


def flags_of(
    stage: str,
    argv: Sequence[str],
    store: Store,
    world_size: int,
    config_class: type[TrainConfig] = TrainConfig,
) -> list[str]:
    """The flags of a stage, with the user's at their right.

    A fresh head takes at least as many steps as the bundled model's did, however few photos there are.
    """
    file = _FOLDER / f"{stage}.yaml"
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    batch = recipe["batch_size_per_replica"]
    photos = max(1, _photos_of_training(named_flags(config_class, argv), store))
    epochs, needed = recipe["epochs"], _STEPS[stage] * batch / photos
    epochs = epochs if needed <= epochs else math.ceil(needed)
    words: dict[str, object] = {
        "batch-size-per-replica": max(1, batch // world_size),
        "learning-rate-scaling": "none",
        "epochs": epochs,
        "precision": "fp32",  # in bf16, as the bundled model was tuned, a CPU that lacks it takes many times as long
    }
    return ["--config", str(file), *(f"--{name}={value}" for name, value in words.items()), *argv]


def _photos_of_training(named: Mapping[str, str], store: Store) -> int:
    """Photos and their copies that an epoch shows; those of `--samples` where that names fewer."""
    rows = len(store) if "all-splits" in named else len(store.training_rows)
    return min(rows, int(named.get("samples", rows)))


def in_words(stages: Sequence[str]) -> tuple[str, str]:
    """What the recipe does, in two lines."""
    how = (
        "the bundled model's head goes on learning from them"
        if stages == BUNDLED
        else "a new head on MediaPipe's hand network, then both"
    )
    return (
        f"the store has hands, so hand_net reads them: {how}",
        "(--input photos trains on whole photos instead)",
    )
