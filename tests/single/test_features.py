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

from horovod_asl import features, models
from horovod_asl.backends import Serial
from horovod_asl.config import AugmentConfig, ModelConfig, OptimizerConfig, TrainConfig
from horovod_asl.engine import Photos
from horovod_asl.errors import UserError
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.runfolder import RunFolder
from horovod_asl.stopping import Outcome, StopSignal
from horovod_asl.trainer import Trainer

torch.set_num_threads(1)
PHOTOS, EPOCHS = 22, 2


def config_for(model: str, folder: Path) -> TrainConfig:
    """Two epochs of a frozen network whose weights are a file: random ones, their statistics not the initial."""
    torch.manual_seed(1)
    network = models.build_model(model, num_classes=NUM_CLASSES).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # so that what the layers give is neither nothing nor all alike
    with torch.no_grad():
        network(torch.randn(16, 3, 32, 32))
    torch.save(network.state_dict(), folder / "weights.pt")
    return TrainConfig(
        model=ModelConfig(model, pretrained=str(folder / "weights.pt"), freeze_backbone=True),  # type: ignore[arg-type]
        augment=AugmentConfig(augment=False),
        optimizer=OptimizerConfig(optimizer="sgd", learning_rate=0.1),
        epochs=EPOCHS,
        batch_size_per_replica=8,
        seed=3,
    )


def photos(count: int, seed: int, gathered: Counter[int] | None = None) -> Photos:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    def gather(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        if gathered is not None:
            gathered.update(rows.tolist())
        return images[rows]

    return Photos(gather, generator.integers(0, NUM_CLASSES, count))


def trained(config: TrainConfig, path: Path, gathered: Counter[int] | None = None) -> Trainer:
    folder = RunFolder(path)
    folder.create(config)
    backend = Serial(torch.device("cpu"))
    trainer = Trainer(config, backend, folder, photos(PHOTOS, 0, gathered), photos(9, 1))
    trainer.run()
    return trainer


def head_name(trainer: Trainer) -> str:
    model = trainer.learner.model
    weight = models.head_of(model).weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


@pytest.mark.parametrize("model", ["small_cnn", "mobilenet_v3_small"])
def test_the_head_learns_what_it_learns_with_the_whole_network(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mobilenet has a dropout before its head: the draws must be those that the whole network makes."""
    config = config_for(model, tmp_path)
    once = trained(config, tmp_path / "once")
    monkeypatch.setattr(TrainConfig, "trains_on_features", property(lambda config: False))
    every_epoch = trained(config, tmp_path / "every_epoch")
    assert once.train.are_features
    assert not every_epoch.train.are_features
    mine, reference = (models.head_of(trainer.learner.model).weight for trainer in (once, every_epoch))
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
    whole = dataclasses.replace(frozen.model, freeze_backbone=False)
    assert not dataclasses.replace(frozen, model=whole).trains_on_features
    assert not dataclasses.replace(frozen, augment=AugmentConfig()).trains_on_features
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


def test_asked_to_stop_while_the_backbone_is_passed_it_saves_and_goes_on_later(tmp_path: Path) -> None:
    config = config_for("small_cnn", tmp_path)
    whole = trained(config, tmp_path / "whole")
    stop = StopSignal()
    stop.received = True
    folder = RunFolder(tmp_path / "run")
    folder.create(config)
    backend = Serial(torch.device("cpu"))
    stopped = Trainer(config, backend, folder, photos(PHOTOS, 0), photos(9, 1), stop=stop)
    assert stopped.run() is Outcome.PREEMPTED
    again = dataclasses.replace(config, resume=folder.path)
    resumed = Trainer(again, backend, folder, photos(PHOTOS, 0), photos(9, 1))
    assert resumed.run() is Outcome.FINISHED
    assert resumed.position.history == whole.position.history


def test_features_stay_in_a_file_and_an_interrupted_pass_goes_on(tmp_path: Path) -> None:
    config = config_for("small_cnn", tmp_path)
    model = models.build_model(
        "small_cnn", num_classes=NUM_CLASSES, pretrained=config.model.pretrained
    ).eval()
    backend, about = Serial(torch.device("cpu")), {"of": "these"}
    whole = features.of_photos(model, backend, photos(PHOTOS, 0), config, StopSignal())
    kept = features.Kept(tmp_path / "kept", about)
    first = features.of_photos(model, backend, photos(PHOTOS, 0), config, StopSignal(), kept=kept)
    assert whole is not None
    assert first is not None
    rows = np.arange(PHOTOS)
    np.testing.assert_array_equal(first.gather(rows), whole.gather(rows))

    gathered: Counter[int] = Counter()
    again = features.of_photos(model, backend, photos(PHOTOS, 0, gathered), config, StopSignal(), kept=kept)
    assert again is not None
    np.testing.assert_array_equal(again.gather(rows), whole.gather(rows))
    assert set(gathered) == {0}  # one photo, to know the width

    note = tmp_path / "kept.json"
    content = json.loads(note.read_text())
    note.write_text(json.dumps(content | {"rows": 10}))  # as a pass leaves it that was interrupted there
    gathered.clear()
    features.of_photos(model, backend, photos(PHOTOS, 0, gathered), config, StopSignal(), kept=kept)
    assert set(gathered) == {0, *range(10, PHOTOS)}

    about_others = content["about"] | {"of": "others"}, content["about"] | {"row": "of another width"}
    for others in about_others:
        note.write_text(json.dumps(content | {"about": others}))
        with pytest.raises(UserError, match="holds features of other photos, views or weights"):
            features.of_photos(model, backend, photos(PHOTOS, 0), config, StopSignal(), kept=kept)
    (tmp_path / "kept").unlink()  # the note alone is left, as of a file that was removed
    made_again = features.of_photos(model, backend, photos(PHOTOS, 0), config, StopSignal(), kept=kept)
    assert made_again is not None
    np.testing.assert_array_equal(made_again.gather(rows), whole.gather(rows))

    with (tmp_path / "kept").open("r+b") as file:
        file.truncate(100)
    made_again = features.of_photos(model, backend, photos(PHOTOS, 0), config, StopSignal(), kept=kept)
    assert made_again is not None
    np.testing.assert_array_equal(made_again.gather(rows), whole.gather(rows))

    other = features.Kept(tmp_path / "kept", {"of": "others"})
    with pytest.raises(UserError, match="holds features of other photos, views or weights"):
        features.of_photos(model, backend, photos(PHOTOS, 0), config, StopSignal(), kept=other)
    assert (tmp_path / "kept").is_file()


@pytest.mark.parametrize("note", [None, "{}", "[1]", "no JSON"])
def test_a_file_that_holds_no_features_is_left_alone(tmp_path: Path, note: str | None) -> None:
    config = config_for("small_cnn", tmp_path)
    model = models.build_model("small_cnn", num_classes=NUM_CLASSES).eval()
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("ten years of work")
    if note is not None:
        (tmp_path / "thesis.txt.json").write_text(note)
    kept = features.Kept(thesis, {"of": "these"})
    with pytest.raises(UserError, match="is there and is none of ours"):
        features.of_photos(
            model, Serial(torch.device("cpu")), photos(PHOTOS, 0), config, StopSignal(), kept=kept
        )
    assert thesis.read_text() == "ten years of work"


def test_features_are_fp32_whatever_the_steps_are_in(tmp_path: Path) -> None:
    config = config_for("small_cnn", tmp_path)
    halved = dataclasses.replace(config, execution=dataclasses.replace(config.execution, precision="bf16"))
    model = models.build_model(
        "small_cnn", num_classes=NUM_CLASSES, pretrained=config.model.pretrained
    ).eval()
    kept = []
    for one in (config, halved):
        made = features.of_photos(model, Serial(torch.device("cpu")), photos(9, 1), one, StopSignal())
        assert made is not None
        kept.append(made.gather(np.arange(9)))
    np.testing.assert_array_equal(*kept)
