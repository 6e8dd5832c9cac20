"""Hands as arrays, their augmentation, and the network that reads them: held against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from horovod_asl.config import AugmentConfig, ModelConfig, TrainConfig
from horovod_asl.data.hands import HAND_DTYPE, MATRIX_ROWS, SEEN_ROW, VIEW_ROW, hand, hand_arrays, no_hand
from horovod_asl.data.landmarks import augment_hands
from horovod_asl.data.transforms import draws
from horovod_asl.errors import UserError
from horovod_asl.landmark_network import LandmarkMLP
from horovod_asl.models import build_model

STILL = AugmentConfig(rotation_degrees=0, scale=0, perspective=0)


@pytest.fixture
def hands() -> torch.Tensor:
    """Sixteen hands, every fourth a left one, the last not found."""
    generator = np.random.default_rng(0)
    records = np.zeros(16, HAND_DTYPE)
    for row in range(15):
        image, world = generator.normal(0.5, 0.1, (2, 21, 3)).astype(np.float32)
        records[row] = hand(image, world, right=row % 4 > 0, score=0.9, attempt=0)
    records[15] = no_hand()
    return torch.from_numpy(hand_arrays(records))


@pytest.fixture
def network() -> LandmarkMLP:
    torch.manual_seed(0)
    return LandmarkMLP(29).eval()


def uniform(n: int) -> torch.Tensor:
    return draws(0, 3, np.arange(n), n)


def distances(points: torch.Tensor) -> torch.Tensor:
    return torch.cdist(points, points)


def as_changed(hands: torch.Tensor) -> torch.Tensor:
    """The landmarks (n, 42, 3) with what augmentation wrote into the array done to them."""
    return torch.stack([hand[:42] @ hand[MATRIX_ROWS].T for hand in hands])


def test_arrays_hold_the_records(hands: torch.Tensor) -> None:
    assert hands.shape == (16, 50, 3)
    assert hands[:, SEEN_ROW, 0].tolist() == [1.0] * 15 + [0.0]
    assert hands[:, SEEN_ROW, 1].tolist() == [-1.0, 1.0, 1.0, 1.0] * 3 + [-1.0, 1.0, 1.0, 0.0]
    assert (hands[15, :42] == 0).all()
    assert torch.equal(as_changed(hands), hands[:, :42])
    doubtful = hand(*np.ones((2, 21, 3), np.float32), right=True, score=0.5, attempt=2, doubtful=True)
    assert not doubtful["found"]
    assert hand_arrays(doubtful[None])[0, SEEN_ROW].tolist() == [1.0, 1.0, 1.0]


def test_a_hand_reads_the_same_wherever_and_however_large_it_is(
    hands: torch.Tensor, network: LandmarkMLP
) -> None:
    moved = hands.clone()
    moved[:, :21] = moved[:, :21] * 0.3 + torch.tensor([0.2, -0.4, 0.1])
    moved[:, 21:42] = moved[:, 21:42] * 1.2
    assert torch.allclose(network(hands)[:15], network(moved)[:15], atol=1e-4)


def test_a_mirrored_hand_of_the_other_side_reads_the_same(hands: torch.Tensor, network: LandmarkMLP) -> None:
    other = hands.clone()
    other[:, :42, 0] *= -1
    misread = network(other)
    other[:, SEEN_ROW, 1] *= -1
    assert torch.allclose(network(hands), network(other), atol=1e-4)
    assert not torch.allclose(network(hands)[:15], misread[:15], atol=1e-2)


def test_a_turned_hand_does_not(hands: torch.Tensor, network: LandmarkMLP) -> None:
    turned = hands.clone()
    turned[:, :42, :2] = turned[:, :42, [1, 0]] * torch.tensor([-1.0, 1.0])  # by 90°: U becomes H
    assert (network(hands)[:15] - network(turned)[:15]).abs().max(1).values.min() > 1e-2


def test_without_a_hand_it_has_one_answer_and_learns_it(hands: torch.Tensor, network: LandmarkMLP) -> None:
    none = hands[15:].repeat(3, 1, 1)
    logits = network(none)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits[0], logits[2])
    network(hands).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())  # type: ignore[arg-type]


def test_augmentation_turns_hands_and_keeps_their_shape(hands: torch.Tensor) -> None:
    still = augment_hands(hands, uniform(16), STILL)
    assert torch.allclose(as_changed(still), hands[:, :42], atol=1e-6)
    turning = AugmentConfig(rotation_degrees=20, scale=0, perspective=0.25)
    changed = augment_hands(hands, uniform(16), turning)
    turned = as_changed(changed)
    assert not torch.allclose(turned, hands[:, :42], atol=1e-2)
    for points in (slice(0, 21), slice(21, 42)):
        assert torch.allclose(distances(turned[:, points]), distances(hands[:, points]), atol=1e-4)
    assert torch.equal(changed[:, :45], hands[:, :45])  # the landmarks themselves stay: pixels are read there


def test_the_turn_in_the_picture_is_within_its_bounds(hands: torch.Tensor) -> None:
    config = AugmentConfig(rotation_degrees=10, scale=0, perspective=0)
    changed = augment_hands(hands, uniform(16), config)[:15]
    before, after = (
        torch.atan2(*(array[:, 5, :2] - array[:, 0, :2]).flip(1).unbind(1))
        for array in (hands[:15], as_changed(changed))
    )
    angle = torch.remainder(after - before + math.pi, 2 * math.pi) - math.pi
    view = changed[:, VIEW_ROW, 0]
    for turns in (angle, view):
        assert turns.abs().max() <= math.radians(10) + 1e-4
        assert turns.abs().max() > math.radians(4)
    assert not torch.allclose(angle, view, atol=1e-2)  # an error of the alignment is not a turn of the hand


def test_stretching_does_what_it_says(hands: torch.Tensor) -> None:
    config = AugmentConfig(rotation_degrees=0, scale=0.3, translation=0.2, perspective=0)
    changed = augment_hands(hands, uniform(16), config)
    stretched = as_changed(changed)
    ratio = (stretched[:15, :, 0] / hands[:15, :42, 0]).mean(1)
    assert torch.allclose(stretched[:, :, 1:], hands[:, :42, 1:], atol=1e-6)
    assert 0.9 - 1e-4 <= ratio.min() < ratio.max() <= 1 / 0.9 + 1e-4
    zoom, shift = changed[:, VIEW_ROW, 1].exp(), changed[:, VIEW_ROW + 1, :2]
    assert 0.7 - 1e-4 <= zoom.min() < 0.9 < 1.1 < zoom.max() <= 1 / 0.7 + 1e-4
    assert 0.1 < shift.abs().max() <= 0.2


def test_photos_are_augmented_alike_in_any_company(hands: torch.Tensor) -> None:
    """What a photo gets depends on its place in the global batch, not on the rank that holds it."""
    config = AugmentConfig()
    whole = augment_hands(hands, uniform(16), config)
    part = augment_hands(hands[4:9], draws(0, 3, np.arange(4, 9), 16), config)
    assert torch.allclose(whole[4:9], part, atol=1e-6)


def test_what_does_not_go_with_landmarks_is_refused() -> None:
    with pytest.raises(UserError, match="mixup and cutmix mix pixels"):
        TrainConfig(model=ModelConfig(model="landmark_mlp"), augment=AugmentConfig(mixup_alpha=0.2))
    with pytest.raises(UserError, match="landmark_mlp has no ImageNet weights"):
        build_model("landmark_mlp", num_classes=29, pretrained="imagenet")
