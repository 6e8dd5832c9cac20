"""Grad-CAM against maps that are computed without its gradients: class activation maps, and one by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horovod_asl.data.hands import CROP_SIDE, HAND_SIDE, hand, hand_arrays
from horovod_asl.gradcam import grad_cam
from horovod_asl.labels import NUM_CLASSES
from horovod_asl.models import build_model, freeze_backbone, head_of

torch.set_num_threads(1)
SIDE, CLASSES = 96, 5


def network(name: str) -> nn.Module:
    """Weights and statistics of BatchNorm as training would leave them."""
    torch.manual_seed(1)
    model = build_model(name, num_classes=CLASSES).train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, SIDE, SIDE))
    nn.init.normal_(head_of(model).weight)
    return model.eval()


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def class_activation_maps(features: Tensor, head: nn.Linear, classes: list[int]) -> npt.NDArray[np.float32]:
    """Zhou et al.: the feature maps (n, k, h, w) that are pooled, weighed by the head's row; ReLU, size, scale."""
    maps = torch.einsum("nkhw,nk->nhw", features, head.weight[classes]).relu()
    maps = F.interpolate(maps[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    scaled: npt.NDArray[np.float32] = (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-9)).numpy()
    return scaled


@torch.no_grad()
def pooled_maps(name: str, model: nn.Module, images: Tensor) -> Tensor:
    """What the network pools, layer by layer as its authors write it down."""
    if name == "small_cnn":
        return model.features(images)
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
@pytest.mark.parametrize("frozen", [False, True])
def test_before_pooling_and_a_linear_layer_it_is_the_class_activation_map(name: str, frozen: bool) -> None:
    model, images = network(name), pictures()
    with torch.no_grad():
        classes = model(images).argmax(1).tolist()
    if frozen:
        freeze_backbone(model)
        head_of(model).requires_grad_(False)
    expected = class_activation_maps(pooled_maps(name, model, images), head_of(model), classes)
    assert (expected.max((1, 2)) == 1).all()
    with torch.no_grad():  # as those who ask for predictions are
        heat = grad_cam(model, images, classes)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, expected, atol=2e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


class Flat(nn.Module):
    """Two channels of 2 × 2 places and a head that weighs places unlike: Grad-CAM takes their mean."""

    def __init__(self, head: list[float]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0])[:, None, None, None]
        self.head = nn.Linear(8, 1, bias=False)
        self.head.weight.data = torch.tensor([head]).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).flatten(1))


def test_a_map_computed_by_hand() -> None:
    """Channels x and −x, mean gradients 2 and −1: 2x + x = 3x; the negative place falls away, the largest is 1."""
    model = Flat([1, 2, 3, 2, -4, 0, 0, 0]).eval()
    images = torch.tensor([[[[1.0, -2.0], [4.0, 0.0]]]])
    np.testing.assert_allclose(grad_cam(model, images, [0])[0], [[0.25, 0], [1, 0]], atol=1e-6)


def test_where_nothing_speaks_for_the_class_there_is_no_heat() -> None:
    model = Flat([-1] * 4 + [0] * 4).eval()
    assert (grad_cam(model, torch.rand(1, 1, 2, 2) + 0.1, [0]) == 0).all()


class TwoInputs(nn.Module):
    """Hands (n, 4, 3) and pictures: the hand's answer is added after pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = network("small_cnn")
        self.hand = nn.Linear(12, CLASSES)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        crops, hands = inputs
        return self.pixels(crops) + self.hand(hands.flatten(1))


def test_a_tuple_s_map_is_that_of_its_pictures() -> None:
    model, images = TwoInputs().eval(), pictures(2)
    heat = grad_cam(model, (images, torch.randn(2, 4, 3)), [1, 2])
    np.testing.assert_allclose(heat, grad_cam(model.pixels, images, [1, 2]), atol=1e-6)


class Turned(nn.Module):
    """Sees the left half of its picture, mirrored, as a picture of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = network("small_cnn")

    def view(self, images: Tensor) -> Tensor:
        return images[..., : SIDE // 2].flip(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.pixels(self.view(images) * 0.5 + 1)


def test_what_was_seen_turned_lies_where_it_was_in_the_picture() -> None:
    model, images = Turned().eval(), pictures(2)
    of_view = grad_cam(model.pixels, model.view(images) * 0.5 + 1, [1, 2])
    heat = grad_cam(model, images, [1, 2])
    np.testing.assert_allclose(heat[..., : SIDE // 2], of_view[..., ::-1], atol=1e-6)
    assert (heat[..., SIDE // 2 :] == 0).all()


class BothHalves(Turned):
    """Sees each half of its picture, the right one mirrored."""

    def forward(self, images: Tensor) -> Tensor:
        return self.pixels(images[..., : SIDE // 2] * 0.5 + 1) + self.pixels(images[..., SIDE // 2 :].flip(3))


def test_every_look_lies_where_it_was_in_the_picture() -> None:
    model, images = BothHalves().eval(), pictures(1).expand(CLASSES, -1, -1, -1)
    halves = images[..., : SIDE // 2] * 0.5 + 1, images[..., SIDE // 2 :].flip(3)
    heat = grad_cam(model, images, range(CLASSES))
    for seen, there in zip(halves, (heat[..., : SIDE // 2], heat[..., SIDE // 2 :][..., ::-1]), strict=True):
        alone = grad_cam(model.pixels, seen, range(CLASSES))
        assert alone.max() == 1
        scale = there.max((1, 2), keepdims=True)
        np.testing.assert_allclose(there / np.where(scale > 0, scale, 1), alone, atol=1e-4)
    assert np.isin(heat.max((1, 2)), [0, 1]).all()


def test_a_named_layer_s_maps_are_taken() -> None:
    model, images = network("small_cnn"), pictures(2)
    last = grad_cam(model, images, [1, 2])
    np.testing.assert_array_equal(grad_cam(model, images, [1, 2], layer=model.features[-1]), last)
    assert np.abs(grad_cam(model, images, [1, 2], layer=model.features[2]) - last).max() > 0.1


def test_the_photos_of_a_batch_do_not_touch_each_other() -> None:
    model, images = network("small_cnn"), pictures(3)
    together = grad_cam(model, images, np.array([2, 0, 1]))
    for row, label in enumerate([2, 0, 1]):
        alone = grad_cam(model, images[row : row + 1], [label])[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "googlenet", "efficientnet_b0"])
def test_networks_of_other_builds_have_maps_too(name: str) -> None:
    heat = grad_cam(network(name), pictures(1).expand(CLASSES, -1, -1, -1), range(CLASSES))
    assert heat.shape == (CLASSES, SIDE, SIDE)
    assert heat.min() >= 0
    assert np.isin(heat.max((1, 2)), [0, 1]).all()
    assert heat.max() == 1


def test_a_network_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="pictures"):
        grad_cam(build_model("landmark_mlp", num_classes=3).eval(), torch.zeros(1, 43, 3), [0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(ValueError, match="no layer with height"):
        grad_cam(model, torch.zeros(1, 3, 2, 2), [0])


def test_the_hand_network_s_heat_lies_in_what_it_looked_at() -> None:
    """Both views of a hand that is not turned are the crop's middle: beyond it no network can find its answer."""
    generator = np.random.default_rng(0)
    records = []
    for _ in range(3):
        image, world = generator.normal(0.5, 0.1, (2, 21, 3)).astype(np.float32)
        record = hand(image, world, right=True, score=0.9, attempt=0)
        record["box"][3] = 0.0
        records.append(record)
    torch.manual_seed(0)
    model = build_model("hand_net", num_classes=NUM_CLASSES).eval()
    crops = torch.randn(3, 3, 96, 96)
    inputs = crops, torch.from_numpy(hand_arrays(np.stack(records)))
    heat = grad_cam(model, inputs, [1, 2, 3], layer=model.grad_cam_layer)  # type: ignore[arg-type]
    assert heat.shape == (3, 96, 96)
    margin = int(96 * (1 - HAND_SIDE / CROP_SIDE) / 2) - 1
    beyond = np.ones((96, 96), bool)
    beyond[margin:-margin, margin:-margin] = False
    assert beyond.any()
    assert (heat[:, beyond] == 0).all()
    assert (heat.max((1, 2)) == 1).all()
    for photo in range(3):  # what is changed beyond the views changes nothing, what is changed in them does
        changed = crops.clone()
        changed[photo, :, torch.from_numpy(beyond)] += 1.0
        assert torch.equal(model((changed, inputs[1])), model(inputs))
