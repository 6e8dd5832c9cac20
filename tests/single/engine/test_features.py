"""Features of a frozen backbone, computed once: the same training as with the whole network in every step."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import TEMPORARY, AugmentConfig, ModelConfig, OptimizerConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.engine import features
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.feature_cache import FeatureCache
from horovod_asl.errors import UserError
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models import registry
from horovod_asl.networks import NetworkName
from horovod_asl.runs.preemption import StopSignal
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.training.trainer import Trainer

torch.set_num_threads(1)
CPU = torch.device("cpu")
PHOTOS, EPOCHS = 22, 2
ROWS = np.array([1, 2, 3, 5, 8, 13, 21])
OF_OTHERS = "holds features of other photos"


def config_for(model: NetworkName, folder: Path) -> TrainConfig:
    """Two epochs of a frozen network whose weights are a file: random ones, their statistics not the initial."""
    torch.manual_seed(1)
    network = registry.build_model(model, num_classes=NUM_CLASSES).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # so that what the layers give is neither nothing nor all alike
    with torch.no_grad():
        network(torch.randn(16, 3, 32, 32))
    torch.save(network.state_dict(), folder / "weights.pt")
    return TrainConfig(
        model=ModelConfig(model, pretrained=str(folder / "weights.pt"), train="head"),
        augment=AugmentConfig(augment=False),
        optimizer=OptimizerConfig(optimizer="sgd", learning_rate=0.1),
        epochs=EPOCHS,
        batch_size_per_replica=8,
        seed=3,
    )


def photos(count: int, seed: int, gathered: Counter[int] | None = None) -> Dataset:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    def gather(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        if gathered is not None:
            gathered.update(rows.tolist())
        return images[rows]

    return Dataset(gather, generator.integers(0, NUM_CLASSES, count))


def frozen_network(config: TrainConfig) -> nn.Module:
    network = registry.build_model(
        config.model.name, num_classes=NUM_CLASSES, pretrained=config.model.pretrained
    )
    registry.freeze_backbone(network)
    return network.eval()


def extracted(
    config: TrainConfig, of: Dataset, *, cache: FeatureCache | None = None, stop: StopSignal | None = None
) -> Dataset | None:
    network, backend = frozen_network(config), Serial(CPU)
    smallest_px = registry.smallest_input_px(config.model.name)
    return features.extracted(
        network, of, backend, stop or StopSignal(), smallest_px=smallest_px, cache=cache
    )


def trained(config: TrainConfig, path: Path, gathered: Counter[int] | None = None) -> Trainer:
    folder = RunFolder(path)
    folder.create(config)
    splits = [photos(PHOTOS, 0, gathered), photos(9, 1)]
    if config.trains_on_features:
        made = [extracted(config, split) for split in splits]
        splits = [one for one in made if one is not None]
    trainer = Trainer(config, Serial(CPU), folder, *splits)
    trainer.run()
    return trainer


def head_name(trainer: Trainer) -> str:
    model = trainer.train_state.model
    weight = registry.head_of(model).weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


@pytest.mark.parametrize("model", ["small_cnn", "mobilenet_v3_large"])
def test_the_head_learns_what_it_learns_with_the_whole_network(
    model: NetworkName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mobilenet has a dropout before its head: the draws must be those that the whole network makes."""
    config = config_for(model, tmp_path)
    once = trained(config, tmp_path / "once")
    monkeypatch.setattr(TrainConfig, "trains_on_features", property(lambda config: False))
    every_epoch = trained(config, tmp_path / "every_epoch")
    assert once.train.are_features
    assert not every_epoch.train.are_features
    mine, reference = (registry.head_of(trainer.train_state.model).weight for trainer in (once, every_epoch))
    began = torch.load(tmp_path / "weights.pt")[head_name(every_epoch)]
    assert (reference - began).norm() > 0.01 * began.norm()  # the head did learn
    assert (mine - reference).norm() < 1e-4 * (reference - began).norm()
    for row, expected in zip(once.position.history, every_epoch.position.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def test_each_photo_passes_the_backbone_once(tmp_path: Path) -> None:
    gathered: Counter[int] = Counter()
    before = set(Path(tempfile.gettempdir()).glob("horovod_asl-features-*"))
    trained(config_for("small_cnn", tmp_path), tmp_path / "run", gathered)
    gathered[0] -= 1  # one look at the width
    assert gathered == Counter(range(PHOTOS))
    assert set(Path(tempfile.gettempdir()).glob("horovod_asl-features-*")) == before


def test_what_changes_from_epoch_to_epoch_is_not_kept(tmp_path: Path) -> None:
    frozen = config_for("small_cnn", tmp_path)
    assert frozen.trains_on_features
    whole = dataclasses.replace(frozen.model, train="all")
    assert not dataclasses.replace(frozen, model=whole).trains_on_features
    augmented = dataclasses.replace(frozen, augment=AugmentConfig())
    assert not augmented.trains_on_features
    cached = dataclasses.replace(frozen.model, cache_features=TEMPORARY)  # whose photos are not augmented
    assert dataclasses.replace(augmented, model=cached).trains_on_features
    with_dropout_within = dataclasses.replace(frozen.model, model="vgg19")
    assert not dataclasses.replace(frozen, model=with_dropout_within).trains_on_features


def test_no_room_for_the_features_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set(Path(tempfile.gettempdir()).glob("horovod_asl-features-*"))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"no room for the features.*No space left.*TMPDIR"):
        trained(config_for("small_cnn", tmp_path), tmp_path / "run")
    assert set(Path(tempfile.gettempdir()).glob("horovod_asl-features-*")) == before


def test_asked_to_stop_while_the_backbone_is_passed_it_begins_again_or_goes_on_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_PHOTOS_PER_PASS", 4)
    monkeypatch.setattr(features, "_PASSES_PER_NOTE", 1)
    config, rows = config_for("small_cnn", tmp_path), np.arange(PHOTOS)
    whole = extracted(config, photos(PHOTOS, 0))
    assert whole is not None
    before = set(Path(tempfile.gettempdir()).glob("horovod_asl-features-*"))
    for cache, first in ((None, 0), (FeatureCache(tmp_path / "kept", {"of": "these"}), 8)):
        stop, gathered = StopSignal(), Counter[int]()
        of = photos(PHOTOS, 0, gathered)

        def until_the_second_pass(
            rows: npt.NDArray[np.int64], of: Dataset = of, stop: StopSignal = stop
        ) -> npt.NDArray[np.generic]:
            stop.received = stop.received or 7 in rows
            return of.gather(rows)

        stopping = dataclasses.replace(of, gather=until_the_second_pass)
        assert extracted(config, stopping, cache=cache, stop=stop) is None
        assert set(gathered) == set(range(8))
        gathered.clear()
        again = extracted(config, of, cache=cache)
        assert again is not None
        assert set(gathered) == {0, *range(first, PHOTOS)}  # one photo, to know the width
        np.testing.assert_array_equal(again.gather(rows), whole.gather(rows))
    assert set(Path(tempfile.gettempdir()).glob("horovod_asl-features-*")) == before


def test_features_stay_in_a_file_and_an_interrupted_pass_goes_on(tmp_path: Path) -> None:
    config = config_for("small_cnn", tmp_path)
    whole = extracted(config, photos(PHOTOS, 0))
    kept = FeatureCache(tmp_path / "kept", {"of": "these"})
    first = extracted(config, photos(PHOTOS, 0), cache=kept)
    assert whole is not None
    assert first is not None
    rows = np.arange(PHOTOS)
    np.testing.assert_array_equal(first.gather(rows), whole.gather(rows))

    gathered: Counter[int] = Counter()
    again = extracted(config, photos(PHOTOS, 0, gathered), cache=kept)
    assert again is not None
    np.testing.assert_array_equal(again.gather(rows), whole.gather(rows))
    assert set(gathered) == {0}  # one photo, to know the width

    note = tmp_path / "kept.json"
    content = json.loads(note.read_text())
    note.write_text(json.dumps(content | {"rows": 10}))  # as a pass leaves it that was interrupted there
    gathered.clear()
    extracted(config, photos(PHOTOS, 0, gathered), cache=kept)
    assert set(gathered) == {0, *range(10, PHOTOS)}

    about_others = content["about"] | {"of": "others"}, content["about"] | {"row": "of another width"}
    for others in about_others:
        note.write_text(json.dumps(content | {"about": others}))
        with pytest.raises(UserError, match=OF_OTHERS):
            extracted(config, photos(PHOTOS, 0), cache=kept)
    (tmp_path / "kept").unlink()  # the note alone is left, as of a file that was removed
    made_again = extracted(config, photos(PHOTOS, 0), cache=kept)
    assert made_again is not None
    np.testing.assert_array_equal(made_again.gather(rows), whole.gather(rows))

    with (tmp_path / "kept").open("r+b") as file:
        file.truncate(100)
    made_again = extracted(config, photos(PHOTOS, 0), cache=kept)
    assert made_again is not None
    np.testing.assert_array_equal(made_again.gather(rows), whole.gather(rows))

    with pytest.raises(UserError, match=OF_OTHERS):
        extracted(config, photos(PHOTOS, 0), cache=FeatureCache(tmp_path / "kept", {"of": "others"}))
    assert (tmp_path / "kept").is_file()


class StoreOfPhotos:
    """What `features_of_store` takes of a store, beside its photos."""

    def __init__(self, count: int, digest: str = "of these photos") -> None:
        self.count, self.digest = count, digest

    def __len__(self) -> int:
        return self.count


def test_a_file_serves_runs_of_the_same_store_input_and_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole store, whatever rows a run needs; without a file those rows alone are computed."""
    gathered: Counter[int] = Counter()

    def photos_of(store: StoreOfPhotos, rows: npt.NDArray[np.int64], input_type: str | None) -> Dataset:
        return photos(store.count, 0, gathered).select(rows)

    monkeypatch.setattr(features, "photos_of", photos_of)
    config = config_for("small_cnn", tmp_path)
    in_file = dataclasses.replace(config.model, cache_features=str(tmp_path / "kept"))

    def passed(model: ModelConfig, digest: str = "of these photos") -> npt.NDArray[np.generic]:
        """The features of some rows; what `gathered` holds then is what had to be computed for them."""
        gathered.clear()
        own, store, rows = dataclasses.replace(config, model=model), StoreOfPhotos(PHOTOS, digest), ROWS
        made = features.features_of_store(own, store, Serial(CPU), StopSignal(), rows=rows)  # type: ignore[arg-type]
        assert made is not None
        return made.of(rows).gather(np.arange(len(rows)))

    without = passed(config.model)
    assert set(gathered) == set(ROWS.tolist())
    np.testing.assert_array_equal(passed(in_file), without)
    assert set(gathered) == set(range(PHOTOS))
    np.testing.assert_array_equal(passed(in_file), without)
    assert set(gathered) == {0}  # to know the width

    network = registry.build_model("small_cnn", num_classes=NUM_CLASSES, pretrained=config.model.pretrained)
    with torch.no_grad():
        registry.head_of(network).weight.mul_(2)
    torch.save(network.state_dict(), tmp_path / "head.pt")  # of a run whose frozen layers are the same
    passed(dataclasses.replace(in_file, pretrained=str(tmp_path / "head.pt")))
    assert set(gathered) == {0}
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    torch.save(network.state_dict(), tmp_path / "other.pt")
    others = dataclasses.replace(in_file, pretrained=str(tmp_path / "other.pt"))
    for model, digest in ((others, "of these photos"), (in_file, "of other photos")):
        with pytest.raises(UserError, match=OF_OTHERS):
            passed(model, digest)
    np.testing.assert_array_equal(passed(in_file), without)


@pytest.mark.parametrize("note", [None, "{}", "[1]", "no JSON"])
def test_a_file_that_holds_no_features_is_left_alone(tmp_path: Path, note: str | None) -> None:
    config = config_for("small_cnn", tmp_path)
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("ten years of work")
    if note is not None:
        (tmp_path / "thesis.txt.json").write_text(note)
    with pytest.raises(UserError, match="is there and is none of ours"):
        extracted(config, photos(PHOTOS, 0), cache=FeatureCache(thesis, {"of": "these"}))
    assert thesis.read_text() == "ten years of work"


def test_features_are_fp32_whatever_the_steps_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for("small_cnn", tmp_path)
    halved = dataclasses.replace(config, execution=dataclasses.replace(config.execution, precision="bf16"))
    monkeypatch.setattr(
        features, "photos_of", lambda store, rows, input_type: photos(store.count, 1).select(rows)
    )
    kept = []
    for one in (config, halved):
        made = features.features_of_store(one, StoreOfPhotos(9), Serial(CPU), StopSignal())  # type: ignore[arg-type]
        assert made is not None
        kept.append(made.photos.gather(np.arange(9)))
    assert kept[0].dtype == np.float32
    np.testing.assert_array_equal(*kept)
