"""Every network by name: its shape, its head, what freezing leaves alone, and weights from files."""

from __future__ import annotations

import copy
import hashlib
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from horovod_asl import models
from horovod_asl.data.transforms import normalise
from horovod_asl.errors import UserError
from horovod_asl.networks import NETWORKS
from horovod_asl.torchvision_compat import torchvision_models

torchvision = torchvision_models()
CLASSES = 29
torch.set_num_threads(
    1
)  # the cores are shared with other tests; two threads that wait for each other are slower
WITH_TRANSFORM = ("googlenet", "inception_v3")


@pytest.fixture(scope="module", params=[name for name, network in NETWORKS.items() if network.input_type == "pixels"])
def named(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, models.build_model(request.param, num_classes=CLASSES)


def photos(name: str, count: int = 2, px: int = 64) -> torch.Tensor:
    px = max(px, models.smallest_input_px(name))
    return torch.rand(count, 3, px, px, generator=torch.Generator().manual_seed(1))


def test_logits_come_out_in_training_and_in_evaluation(named: tuple[str, nn.Module]) -> None:
    name, model = named
    for training in (True, False):
        logits = model.train(training)(photos(name))
        assert isinstance(logits, torch.Tensor)
        assert logits.shape == (2, CLASSES)
        assert logits.isfinite().all()


def test_the_head_is_the_last_layer_and_of_the_right_width(named: tuple[str, nn.Module]) -> None:
    name, model = named
    head = models.head_of(model)
    assert head.out_features == CLASSES
    seen: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model.eval()(photos(name))
    handle.remove()
    assert torch.equal(seen[0], logits)


def test_a_step_with_a_frozen_backbone_changes_the_head_alone(named: tuple[str, nn.Module]) -> None:
    name, model = named[0], copy.deepcopy(named[1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    models.freeze_backbone(model)
    models.set_train_mode(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(photos(name, 4)).square().sum().backward()
    optimizer.step()
    head = next(key for key, module in model.named_modules() if module is models.head_of(model))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{head}.weight", f"{head}.bias"}  # and no BatchNorm statistic


def test_frozen_blocks_see_photos_as_in_evaluation(named: tuple[str, nn.Module]) -> None:
    """No dropout, stochastic depth or batch statistic in them; what shares a block with the head may drop."""
    model = copy.deepcopy(named[1])
    models.freeze_backbone(model)
    models.set_train_mode(model)
    frozen = [
        m
        for m in model.children()
        if not any(p.requires_grad for p in m.parameters()) and list(m.parameters())
    ]
    assert frozen
    assert not any(part.training for block in frozen for part in block.modules())
    assert models.head_of(model).training


def test_without_freezing_all_is_in_training_mode(named: tuple[str, nn.Module]) -> None:
    model = named[1].eval()
    models.set_train_mode(model)
    assert all(module.training for module in model.modules())


def test_weight_decay_spares_biases_and_normalisation(named: tuple[str, nn.Module]) -> None:
    decayed, spared = models.weight_decay_groups(named[1], 0.1)
    expected = {
        id(module.weight) for module in named[1].modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    assert {id(p) for p in decayed["params"]} == expected  # type: ignore[attr-defined]
    everything = len(list(named[1].parameters()))
    assert len(decayed["params"]) + len(spared["params"]) == everything  # type: ignore[arg-type]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", *WITH_TRANSFORM])
def test_a_network_reads_photos_as_torchvision_s_own_with_its_weights_does(name: str, tmp_path: Path) -> None:
    """ImageNet's file brings another head, auxiliary classifiers, and no count of batches, as old files do."""
    torch.manual_seed(2)
    options = {"transform_input": False, "init_weights": False} if name in WITH_TRANSFORM else {}
    theirs = torchvision.get_model(name, **options).eval()
    file = tmp_path / f"{name}.pth"
    torch.save({k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}, file)
    ours = models.build_model(name, num_classes=CLASSES, pretrained=str(file)).eval()
    models.head_of(ours).load_state_dict(
        {"weight": torch.eye(CLASSES, models.head_of(ours).in_features), "bias": torch.zeros(CLASSES)}
    )
    theirs_head = models.head_of(theirs)
    theirs_head.weight.data, theirs_head.bias.data = (
        models.head_of(ours).weight.data,
        models.head_of(ours).bias.data,
    )
    unit = photos(name, px=96)
    # GoogLeNet's and Inception's published weights were trained on photos in [-1, 1], the others on normalised ones.
    expected = theirs(unit * 2 - 1 if name in WITH_TRANSFORM else normalise(unit))
    torch.testing.assert_close(ours(normalise(unit)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "efficientnet_b0", *WITH_TRANSFORM])
def test_imagenet_weights_load_as_torchvision_s_hub_gives_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is replaced by weights made here: what it would download has the same names and shapes."""
    weights = torchvision.get_model_weights(name).DEFAULT
    options = {"init_weights": False} if name in WITH_TRANSFORM else {}
    published = torchvision.get_model(name, **options).state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **options: published)
    model = models.build_model(name, num_classes=CLASSES, pretrained="imagenet")
    assert model.train()(photos(name)).shape == (2, CLASSES)
    fresh = models.build_model(name, num_classes=CLASSES)
    assert fresh.load_state_dict(model.state_dict())  # what is saved is what evaluation and resume build
    assert torch.equal(fresh.eval()(photos(name)), model.eval()(photos(name)))


def test_a_file_that_torchvision_publishes_is_known_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called on a machine to which somebody copied it."""
    file = tmp_path / "theirs.pth"
    save_file({"w": torch.zeros(1)}, file)
    assert not models.is_imagenet_file("resnet18", file)
    assert not models.is_imagenet_file("small_cnn", file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    published = [SimpleNamespace(url=f"https://there/resnet18-{digest}.pth") for digest in ("0" * 8, digits)]
    hub = SimpleNamespace(get_model_weights=lambda name: {"resnet18": published}[name])
    monkeypatch.setattr(models, "torchvision_models", lambda: hub)
    assert models.is_imagenet_file("resnet18", file)


def test_imagenet_weights_without_a_network_fail_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot fetch the ImageNet weights of resnet18 .*--pretrained FILE"):
        models.build_model("resnet18", num_classes=CLASSES, pretrained="imagenet")


def _no_network(*args: object, **options: object) -> None:
    """What `download_url_to_file` does on these machines, without the seconds that the name server takes."""
    from urllib.error import URLError

    raise URLError("[Errno -2] Name or service not known")


# -- weights from a file --------------------------------------------------------------------------------------


def save(weights: dict[str, torch.Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if path.suffix == ".pt" else weights, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("width", [7, CLASSES])
def test_a_file_gives_all_but_a_head_of_another_width(suffix: str, width: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = models.build_model("small_cnn", num_classes=width).state_dict()
    loaded = models.build_model(
        "small_cnn", num_classes=CLASSES, pretrained=save(source, tmp_path / f"weights{suffix}")
    ).state_dict()
    for name, tensor in source.items():
        same = loaded[name].shape == tensor.shape and torch.equal(loaded[name], tensor)
        assert same == (width == CLASSES or not name.startswith("head."))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = save(models.build_model("small_cnn", num_classes=5).state_dict(), tmp_path / "small.pth")
    with pytest.raises(UserError, match="another network"):
        models.build_model("resnet18", num_classes=CLASSES, pretrained=file)


def test_a_file_with_one_tensor_too_few_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    whole = models.build_model("small_cnn", num_classes=CLASSES).state_dict()
    name = "features.0.0.weight"
    lacking = save({key: value for key, value in whole.items() if key != name}, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match=f"lacks {name}"):
        models.build_model("small_cnn", num_classes=CLASSES, pretrained=lacking)
    reshaped = save(whole | {name: whole[name][:1].clone()}, tmp_path / "reshaped.pth")
    with pytest.raises(UserError, match=f"holds {name} \\(1, 3, 3, 3\\)"):
        models.build_model("small_cnn", num_classes=CLASSES, pretrained=reshaped)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 torn"])
def test_a_file_that_holds_no_weights_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot read weights"):
        models.build_model("small_cnn", num_classes=CLASSES, pretrained=str(file))


@pytest.mark.parametrize("value", [{"epoch": 3, "model": {"weight": torch.zeros(1)}}, [torch.zeros(1)], 5])
def test_a_file_of_something_else_is_refused(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"another network|holds no weights"):
        models.build_model("small_cnn", num_classes=CLASSES, pretrained=str(tmp_path / "odd.pth"))


def test_names_and_files_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match=r"no model 'resnet19'.*resnet18"):
        models.build_model("resnet19", num_classes=CLASSES)
    with pytest.raises(UserError, match=r"no file of weights and no run at /none\.pth"):
        models.build_model("small_cnn", num_classes=CLASSES, pretrained="/none.pth")
    with pytest.raises(UserError, match="no ImageNet weights"):
        models.build_model("small_cnn", num_classes=CLASSES, pretrained="imagenet")


@pytest.mark.parametrize("px", [16, 33, 64, 100])
def test_the_small_network_takes_photos_of_any_size(px: int) -> None:
    assert models.SmallCNN(CLASSES).eval()(torch.rand(1, 3, px, px)).shape == (1, CLASSES)


def test_the_same_seed_builds_the_same_network() -> None:
    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return models.build_model("small_cnn", num_classes=CLASSES).head.weight  # type: ignore[union-attr,return-value]

    assert torch.equal(build(1), build(1))
    assert not torch.equal(build(1), build(2))


def wrapped(form: str, state: dict[str, torch.Tensor]) -> object:
    """What programs save in place of a plain state_dict."""
    forms = {
        "DataParallel": {f"module.{key}": value for key, value in state.items()},
        "torch.compile": {f"_orig_mod.{key}": value for key, value in state.items()},
        "both": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "Lightning": {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3},
        "ema alone": {"ema": {"module": state}},
        "options beside": {"args": Namespace(lr=0.1), "ema": {}, "model": state, "acc": torch.tensor(0.9)},
        "model_state_dict": {"model_state_dict": state, "loss": torch.tensor(1.0)},
        "net": {"net": state, "optimizer": {"step": 4}},
    }
    return forms[form]


@pytest.mark.parametrize(
    "form",
    ["DataParallel", "torch.compile", "both", "Lightning", "ema alone", "options beside", "model_state_dict", "net"],
)
def test_weights_are_taken_out_of_what_they_are_wrapped_in(tmp_path, form):
    state = models.build_model("small_cnn", num_classes=29).state_dict()
    torch.save(wrapped(form, state), tmp_path / "w.pt")
    loaded = models.build_model("small_cnn", num_classes=29, pretrained=str(tmp_path / "w.pt")).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_what_is_no_file_of_weights_says_how_to_make_one(tmp_path):
    model = models.build_model("small_cnn", num_classes=29)
    torch.save(model, tmp_path / "whole.pt")
    torch.save({"model": model}, tmp_path / "inside.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name, fault in [
        ("whole.pt", r"is a whole model.*torch\.save\(model\.state_dict\(\), FILE\)"),
        ("inside.pt", "is a whole model, or holds other objects"),
        ("empty.pt", r"holds no weights: save a model's state_dict\(\)"),
    ]:
        with pytest.raises(UserError, match=fault):
            models.build_model("small_cnn", num_classes=29, pretrained=str(tmp_path / name))
