"""The network on pixels and landmarks: its trunk against TensorFlow Lite, its view of the crop against geometry."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from PIL import Image

from horovod_asl.config import TrainConfig, refuse_without_effect
from horovod_asl.config_groups import TEMPORARY, AugmentConfig, ModelConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.distributed.dp import DataParallel
from horovod_asl.engine import features
from horovod_asl.engine.dataset import Dataset
from horovod_asl.errors import UserError
from horovod_asl.hands.bundle import find_bundle
from horovod_asl.hands.record import (
    ARRAY_ROWS,
    CROP_SIDE,
    HAND_SIDE,
    MATRIX_ROWS,
    VIEW_ROW,
    crop,
    hand,
    no_hand,
    readings,
)
from horovod_asl.inputs.augment_hands import augment_hands
from horovod_asl.inputs.pixels import draws, normalise, to_input, to_tensors
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models.hand_net import HandHead, HandNet, TunedTail
from horovod_asl.models.hand_trunk import HandTrunk, _Depthwise
from horovod_asl.models.hand_view import _view_grid, points_in_view, unrotated
from horovod_asl.models.registry import build_model, classifier, freeze_backbone
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.training.trainer import Trainer

torch.set_num_threads(1)
PHOTOS = 12


@pytest.fixture(scope="module")
def trunk() -> HandTrunk:
    loaded = HandTrunk().eval()
    loaded.load_bundle(find_bundle())
    return loaded


@pytest.fixture(scope="module")
def photos() -> Dataset:
    """Dots where the landmarks are, on photos of noise; every third a left hand, the last two without one."""
    generator = np.random.default_rng(0)
    records, crops = [], []
    for index in range(PHOTOS):
        photo = generator.integers(0, 256, (96, 96, 3), np.uint8)
        image, world = generator.normal(0.5, 0.1, (2, 21, 3)).astype(np.float32)
        record = hand(image, world, right=index % 3 > 0, score=0.9, attempt=0) if index < 10 else no_hand()
        records.append(record)
        crops.append(crop(photo, record["box"], 64))
    whole = readings(np.stack(crops), np.stack(records))
    return Dataset(whole.__getitem__, generator.integers(0, 29, PHOTOS))


def test_the_trunk_is_mediapipes(trunk: HandTrunk, tmp_path: Path) -> None:
    """TensorFlow Lite's own interpreter runs the same model; its heads on our features give its landmarks."""
    with zipfile.ZipFile(find_bundle()) as bundle:
        bundle.extract("hand_landmarks_detector.tflite", tmp_path)
    reference = Interpreter(
        str(tmp_path / "hand_landmarks_detector.tflite"),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    reference.allocate_tensors()
    picture = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    reference.set_tensor(reference.get_input_details()[0]["index"], picture)
    reference.invoke()

    def nearest(ours: np.ndarray) -> float:
        """Distance to the nearest tensor of this shape that it computed or holds."""
        alike = [t["index"] for t in reference.get_tensor_details() if tuple(t["shape"]) == ours.shape]
        return min(float(np.abs(reference.get_tensor(index) - ours).max()) for index in alike)

    local, pooled = _run(trunk, torch.from_numpy(picture).permute(0, 3, 1, 2))
    assert pooled.max() > 1
    assert nearest(pooled.numpy()) < 1e-3
    assert nearest(local.permute(0, 2, 3, 1).numpy()) < 1e-3


def _run(trunk: HandTrunk, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        result: tuple[torch.Tensor, torch.Tensor] = trunk(images)
    return result


def test_another_network_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.task", "w") as bundle, zipfile.ZipFile(find_bundle()) as whole:
        bundle.writestr("hand_landmarks_detector.tflite", whole.read("hand_detector.tflite"))
    with pytest.raises(UserError, match="does not hold the hand landmark network that is known here"):
        HandTrunk().load_bundle(tmp_path / "other.task")


def test_landmarks_lie_in_the_view_where_they_lie_in_the_photo() -> None:
    """A dot on the photo is found in the view where `points_in_view` says, in every augmented view."""
    rng, checked = np.random.default_rng(1), 0
    for right in (True, False):
        image = rng.uniform(0.35, 0.65, (21, 3)).astype(np.float32)
        record = hand(image, image, right=right, score=1.0, attempt=0)
        for joint in (0, 8, 17):
            photo = np.zeros((400, 400, 3), np.uint8)
            x, y = np.rint(image[joint, :2] * 400 - 0.5).astype(int)
            photo[y - 3 : y + 4, x - 3 : x + 4] = 255
            reading = readings(crop(photo, record["box"], 192)[None], record[None])
            crops, hands = to_tensors(reading)
            for step in range(4):
                config = AugmentConfig(rotation_degrees=20 * (step > 0), translation=0.1, scale=0.15)
                view = augment_hands(hands, draws(0, step, np.arange(1), 1), config) if step else hands
                view = unrotated(view) if step % 2 else view
                seen = torch.nn.functional.grid_sample(
                    crops.permute(0, 3, 1, 2).float(), _view_grid(view), align_corners=False
                )[0, 0]
                if seen.sum() < 255 * 20:
                    continue  # out of sight
                checked += 1
                rows, columns = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
                centre = torch.stack([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
                there = (points_in_view(view)[0, joint] + 1) * 112 - 0.5
                assert (centre - there).norm() < 3.0, (right, joint, step)
    assert checked >= 20  # of 24


@pytest.mark.parametrize("right", [True, False])
def test_a_hand_as_it_is_held_is_seen_as_the_photo_shows_it(right: bool) -> None:
    """Against Pillow's crop that was never turned; a left hand mirrored."""
    rng = np.random.default_rng(3)
    photo = rng.integers(0, 256, (10, 10, 3), np.uint8)
    photo = np.asarray(Image.fromarray(photo).resize((400, 400), Image.Resampling.BICUBIC))
    image = rng.uniform(0.4, 0.6, (21, 3)).astype(np.float32)
    record = hand(image, image, right=right, score=1.0, attempt=0)
    x, y, side, turn = record["box"]
    assert abs(turn) > 0.3
    crops, hands = to_tensors(readings(crop(photo, record["box"], 192)[None], record[None]))
    grid = _view_grid(unrotated(hands))
    seen = torch.nn.functional.grid_sample(crops.permute(0, 3, 1, 2).float(), grid, align_corners=False)[0]
    expected = crop(photo, (x, y, side * HAND_SIDE / CROP_SIDE, 0.0), 224).astype(np.float32)
    expected = expected if right else expected[:, ::-1]
    rows, columns = np.mgrid[0:224, 0:224] - 111.5
    inside = np.hypot(rows, columns) < 110  # the corners lie beyond the turned crop
    assert np.abs(seen.permute(1, 2, 0).numpy() - expected)[inside].mean() < 2.0


def test_in_training_positions_take_turns_and_their_mean_is_the_answer() -> None:
    head = HandHead(5, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 2, 2, 1152 + 21 * 112, generator=generator)
    hands = torch.randn(5, ARRAY_ROWS, 3, generator=generator)
    with torch.no_grad():
        turned, held = (branch(features[:, :, index], hands) for index, branch in enumerate(head.branches))
        assert (turned - held).abs().max() > 0.1
        answers = head.eval()((features, hands))
        taught = head.train()((features, hands))
    assert torch.allclose(answers, (turned + held) / 2, atol=1e-5)
    assert torch.allclose(taught[0::2], turned[0::2], atol=1e-5)
    assert torch.allclose(taught[1::2], held[1::2], atol=1e-5)


def test_a_mirrored_photo_is_read_alike_whatever_side_the_hand_was_taken_for(trunk: HandTrunk) -> None:
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (16, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    image, world = rng.uniform(0.3, 0.7, (2, 21, 3)).astype(np.float32)
    mirrored = image * np.float32([-1, 1, 1]) + np.float32([1, 0, 0])
    network = HandNet(29).eval()
    network.trunk = trunk

    def read(picture: np.ndarray, joints: np.ndarray, in_space: np.ndarray, *, right: bool) -> torch.Tensor:
        record = hand(joints, in_space, right=right, score=1.0, attempt=0)
        reading = to_tensors(readings(crop(picture, record["box"], 192)[None], record[None]))
        with torch.no_grad():
            logits: torch.Tensor = network(to_input(reading))
        return logits

    one = read(photo, image, world, right=True)
    assert one.std() > 0.02
    assert torch.allclose(one, read(photo, image, world, right=False), atol=1e-5)
    flipped = np.ascontiguousarray(photo[:, ::-1])
    for right in (True, False):
        other = read(flipped, mirrored, world * np.float32([-1, 1, 1]), right=right)
        assert torch.allclose(one, other, atol=0.1 * float(one.std()))


def config_for(folder: Path, **model: Any) -> TrainConfig:
    """Of a head by default, on features that are computed once, while landmarks are augmented in every step."""
    options = {"input": "both", "pretrained": "hands", "train": "head", "cache_features": TEMPORARY}
    return TrainConfig(
        model=ModelConfig(**options | model), epochs=2, batch_size_per_replica=8, run_folder=folder
    )


def extracted(photos: Dataset, config: TrainConfig, *, half_precision: bool = True) -> Dataset:
    network = build_model("hand_net", num_classes=NUM_CLASSES, pretrained=config.model.pretrained)
    freeze_backbone(network, tuned_blocks=config.model.tuned_blocks)
    with pytest.MonkeyPatch.context() as patch:
        if not half_precision:
            patch.setattr(features, "_halved", lambda maps: maps)
        made = features.extracted(network.eval(), photos, Serial(torch.device("cpu")), StopSignal())
    assert made is not None
    return made


def test_features_are_what_the_network_sees(photos: Dataset, tmp_path: Path) -> None:
    config = config_for(tmp_path)
    assert config.trains_on_features
    kept, rows = extracted(photos, config), np.arange(PHOTOS)
    assert kept.labels.tolist() == photos.labels.tolist()
    records = kept.gather(rows)
    model = build_model("hand_net", num_classes=NUM_CLASSES, pretrained="hands").eval()
    batch = to_input(photos.batch(rows, torch.device("cpu"))[0])
    with torch.no_grad():
        seen, hands = model.extract_features(batch)  # type: ignore[operator]
        freeze_backbone(model, tuned_blocks=10)
        maps, _ = model.extract_features(batch)  # type: ignore[operator]
        through_half, _ = TunedTail(model).extract_features((maps.half(), hands))  # type: ignore[arg-type]
    np.testing.assert_allclose(records["features"], through_half.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(records["features"], seen.numpy(), atol=0.05)
    exact = extracted(photos, config, half_precision=False).gather(rows)
    np.testing.assert_allclose(exact["features"], seen.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(records["hand"], hands.numpy(), atol=1e-6)
    assert np.abs(records["hand"][:, VIEW_ROW]).max() == 0.0  # the photo as it is
    assert (records["features"][10:, :, 1152:] == 0).all()  # no hand, no joints


@pytest.fixture(scope="module")
def head_features(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return extracted(photos, config_for(tmp_path_factory.mktemp("none")))


def trainer_for(
    config: TrainConfig, train: Dataset, validation: Dataset | None, backend: type[Serial] = Serial
) -> Trainer:
    assert config.run_folder is not None
    folder = RunFolder(config.run_folder)
    folder.create(config)
    return Trainer(config, backend(torch.device("cpu")), folder, train, validation)


def test_the_head_learns_from_features_what_it_learns_with_the_trunk_in_every_step(
    photos: Dataset, tmp_path: Path
) -> None:
    """Without augmentation, and without dropout, whose draws are the same but for other tensors.

    And without the rounding of maps to half precision, which no step with the trunk has.
    """
    weights = []
    for name in ("features", "whole"):
        config = config_for(tmp_path / name, cache_features=None)
        if name == "features":
            config = dataclasses.replace(config, augment=AugmentConfig(augment=False))
            shown = extracted(photos, config, half_precision=False)
        else:  # augmentation that changes nothing, so that the trunk is passed in every step
            still = AugmentConfig(
                rotation_degrees=0, scale=0, translation=0, perspective=0, colour=0, blur=0, cutout=0
            )
            config, shown = dataclasses.replace(config, augment=still), photos
        trainer = trainer_for(config, shown, None)
        for module in trainer.train_state.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.run()
        weights.append(trainer.train_state.model.tail.state_dict())  # type: ignore[union-attr]
    for key in weights[0]:
        assert torch.allclose(weights[0][key], weights[1][key], atol=2e-4), key


def test_landmarks_are_augmented_in_every_step_where_the_features_of_pixels_are_kept(
    head_features: Dataset, tmp_path: Path
) -> None:
    """The head is given them: in no two steps the same, and without augmentation those of the photos."""
    seen: dict[bool, list[torch.Tensor]] = {}
    for augment in (True, False):
        config = config_for(tmp_path / str(augment))
        config = dataclasses.replace(
            config, augment=AugmentConfig(augment=augment), batch_size_per_replica=PHOTOS
        )
        trainer = trainer_for(config, head_features, None)
        steps = seen.setdefault(augment, [])
        trainer.train_state.module.register_forward_pre_hook(
            lambda module, inputs, steps=steps: steps.append(inputs[0][1][:, MATRIX_ROWS].clone())
        )
        trainer.run()
    upright = torch.eye(3).expand(PHOTOS, 3, 3)
    assert [torch.equal(step, upright) for step in seen[False]] == [True, True]
    assert all((step - upright).abs().amax((1, 2)).min() > 0.01 for step in seen[True])
    assert not torch.equal(*seen[True])


def test_data_parallel_takes_crops_and_hands(photos: Dataset, head_features: Dataset, tmp_path: Path) -> None:
    weights = []
    for name, backend in (("serial", Serial), ("dp", DataParallel)):
        trainer = trainer_for(config_for(tmp_path / name), head_features, photos, backend)
        trainer.run()
        weights.append(trainer.train_state.model.state_dict())
    assert all(torch.equal(weights[1][key], tensor) for key, tensor in weights[0].items())


def test_small_sources_come_oftener_and_features_with_them(
    photos: Dataset, head_features: Dataset, tmp_path: Path
) -> None:
    times = np.array([1] * 9 + [3] * 3)
    config = config_for(tmp_path / "run")
    shown = extracted(dataclasses.replace(photos, times=times), config)
    trainer = trainer_for(config, shown, head_features)
    trainer.run()
    assert trainer.plan.photos_in(0) == times.sum()
    assert np.bincount(trainer.train.order(), minlength=PHOTOS).tolist() == times.tolist()
    assert trainer.score(photos).n == PHOTOS  # whole photos and features of them are scored alike
    np.testing.assert_array_equal(trainer.score(photos).confusion, trainer.score(head_features).confusion)


def test_pixels_are_normalised_once() -> None:
    """The trunk takes [0, 1]; what reaches the network is normalised as for any other."""
    unit = torch.rand(2, 3, 8, 8)
    from horovod_asl.inputs.pixels import to_unit_again

    assert torch.allclose(to_unit_again(normalise(unit)), unit, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model": "resnet18", "input": "both"}, "--model resnet18 cannot read --input both"),
        ({"model": "hand_net", "input": "pixels"}, "--model hand_net cannot read --input pixels"),
        ({"model": "resnet18", "pretrained": "hands"}, "--pretrained hands is for --model hand_net"),
        ({"cache_features": TEMPORARY}, "of frozen layers: add --train head"),
        ({"model": "hand_net", "train": "last-4"}, "--train last-4: it must be all, head, or last-5"),
        ({"model": "hand_net", "train": "last-17"}, "--train last-17: .*, or last-5 to last-16"),
        ({"model": "hand_net", "train": "tail"}, "--train tail: it must be all, head, or last-5 to last-16"),
    ],
)
def test_what_does_not_go_together_is_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model": "vgg19", "pretrained": "x"}, "vgg19 has dropout among its frozen layers"),
        ({"model": "resnet18", "pretrained": "x"}, "--mixup-alpha 0.2 has no effect with --cache-features"),
    ],
)
def test_what_a_run_cannot_use_is_refused(model: dict[str, Any], message: str) -> None:
    config = TrainConfig(
        model=ModelConfig(train="head", cache_features=TEMPORARY, **model),
        augment=AugmentConfig(mixup_alpha=0.2 * (model["model"] == "resnet18")),
    )
    with pytest.raises(UserError, match=message):
        refuse_without_effect(config)


def test_input_chooses_the_model() -> None:
    chosen = {
        input_type: ModelConfig(input=input_type).model
        for input_type in (None, "pixels", "landmarks", "both")
    }  # type: ignore[arg-type]
    assert chosen == {
        None: "small_cnn",
        "pixels": "small_cnn",
        "landmarks": "landmark_mlp",
        "both": "hand_net",
    }
    assert ModelConfig(model="hand_net").input == "both"


# ---- tuned blocks --------------------------------------------------------------------------------------------------


def test_a_frozen_depthwise_convolution_passes_the_gradients_of_torchs_own() -> None:
    for kernel, stride in ((3, 1), (5, 1), (3, 2), (5, 2)):
        torch.manual_seed(kernel + stride)
        padding = kernel // 2 if stride == 1 else 0
        layer = _Depthwise(6, 6, kernel, stride=stride, padding=padding, groups=6).double()
        gradients = []
        for trained in (True, False):  # one whose weights are trained goes torch's own way
            layer.requires_grad_(trained)
            torch.manual_seed(1)
            maps = torch.rand(2, 6, 13, 14, dtype=torch.double, requires_grad=True)
            (layer(maps).sin().sum()).backward()
            gradients.append(maps.grad)
        assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("tuned", [5, 6, 10, 16])
def test_kept_maps_and_the_tuned_tail_are_the_whole_network(photos: Dataset, tuned: int) -> None:
    model = build_model("hand_net", num_classes=NUM_CLASSES, pretrained="hands").eval()
    batch = to_input(photos.batch(np.arange(PHOTOS), torch.device("cpu"))[0])
    with torch.no_grad():
        whole = model(batch)
        freeze_backbone(model, tuned_blocks=tuned)
        assert torch.equal(model(batch), whole)
        assert torch.allclose(classifier(model)(model.extract_features(batch)), whole, atol=1e-4)  # type: ignore[operator]


class _StoreOfPhotos:
    """What `features_of_store` takes of a store, beside its photos."""

    digest = "of these photos"

    def __len__(self) -> int:
        return PHOTOS


def test_a_file_of_features_serves_runs_of_the_head_and_of_the_last_blocks(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file and without, features are the same to the bit."""
    gathered: list[int] = []

    def gather(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        gathered.extend(rows)
        return photos.gather(rows)

    monkeypatch.setattr(features, "photos_of", lambda store, rows, input_type: Dataset(gather, photos.labels))

    def features_for(file: Path | None, train: str = "head", pretrained: str = "hands") -> Dataset:
        """`gathered` then holds the photos that passed the trunk for them."""
        gathered.clear()
        kept_in = TEMPORARY if file is None else str(file)
        config = config_for(tmp_path / "run", train=train, cache_features=kept_in, pretrained=pretrained)
        backend, store = Serial(torch.device("cpu")), _StoreOfPhotos()
        made = features.features_of_store(config, store, backend, StopSignal())  # type: ignore[arg-type]
        assert made is not None
        return made.photos

    rows, trunk = np.arange(PHOTOS), tmp_path / "trunk"
    without_file = features_for(None).gather(rows)
    maps_without_file = features_for(None, "last-10").gather(rows)
    np.testing.assert_array_equal(features_for(trunk).gather(rows), without_file)
    assert set(gathered) == set(range(PHOTOS))
    assert trunk.is_file()
    maps = features_for(trunk, "last-10")
    assert set(gathered) == {0}  # whose record's shape is needed
    np.testing.assert_array_equal(maps.gather(rows), maps_without_file)
    np.testing.assert_array_equal(features_for(trunk).gather(rows), without_file)
    assert set(gathered) == {0}
    trunk.unlink()  # the maps are enough to make it again
    np.testing.assert_array_equal(features_for(trunk).gather(rows), without_file)
    assert set(gathered) == {0}
    features_for(trunk, "last-6")  # of another width: beside the others
    assert set(gathered) == set(range(PHOTOS))
    assert {path.name for path in tmp_path.glob("trunk*")} == {
        f"trunk{part}{note}" for part in ("", ".last-10", ".last-6") for note in ("", ".json")
    }

    model = build_model("hand_net", num_classes=NUM_CLASSES, pretrained="hands").eval()
    freeze_backbone(model, tuned_blocks=10)
    seen, _ = classifier(model).extract_features(to_tensors(maps.gather(rows)))  # type: ignore[operator]
    np.testing.assert_allclose(seen.detach().numpy(), without_file["features"], atol=1e-4)
    with torch.no_grad():
        next(model.trunk.parameters()).mul_(2)  # type: ignore[union-attr]
    torch.save(model.state_dict(), tmp_path / "other.pt")
    for train in ("head", "last-10"):
        with pytest.raises(UserError, match="holds features of other photos"):
            features_for(trunk, train, str(tmp_path / "other.pt"))


def test_the_last_blocks_are_tuned_and_the_others_stay(photos: Dataset, tmp_path: Path) -> None:
    config = config_for(tmp_path / "run", train="last-10")
    kept = extracted(photos, config)
    trainer = trainer_for(config, kept, kept)
    before = {name: tensor.clone() for name, tensor in trainer.train_state.model.state_dict().items()}
    assert trainer.run() is Outcome.FINISHED
    changed = {
        name
        for name, tensor in trainer.train_state.model.state_dict().items()
        if not torch.equal(tensor, before[name]) and name.startswith("trunk")
    }
    assert changed
    assert all(int(name.split(".")[2]) >= 6 and "depthwise" not in name for name in changed)
    tuned = {f"trunk.blocks.{block}.expand.weight" for block in range(6, 16)}
    assert tuned <= changed
    np.testing.assert_array_equal(  # half precision moves no answer
        trainer.score(photos).confusion, trainer.score(kept).confusion
    )


def test_tuned_blocks_are_of_hand_net_alone() -> None:
    with pytest.raises(UserError, match="--train last-6 counts the blocks of hand_net"):
        ModelConfig(model="resnet18", train="last-6")
    assert ModelConfig(model="hand_net", train="last-6").tuned_blocks == 6
    assert ModelConfig(model="hand_net", train="head").tuned_blocks == 0
