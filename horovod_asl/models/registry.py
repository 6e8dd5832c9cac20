"""Networks by name: torchvision's with a new head, and a small one of our own for 64 px."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from torch import nn

from horovod_asl.errors import UserError
from horovod_asl.hands.bundle import find_bundle
from horovod_asl.models.hand_net import HandNet, TunedTail
from horovod_asl.models.landmark_mlp import LandmarkMLP
from horovod_asl.models.torchvision_compat import torchvision_models
from horovod_asl.networks import NETWORKS, Network, NetworkName
from horovod_asl.runs.bundled_model import names_run_folder, open_run
from horovod_asl.system.files import file_digest

TUNED_RATE = 0.4
"""The learning rate of tuned blocks ÷ that of the head."""
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "model_ema", "ema")
"""Where training programs keep a state_dict in what they save; an average of weights is the last choice."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What wrappers put before every name of a state_dict."""
_AUXILIARY = {name for network in NETWORKS.values() for name in network.auxiliary}


def build_model(name: str, *, num_classes: int, pretrained: str | None = None) -> nn.Module:
    """A classifier to logits (n, num_classes) from float (n, 3, H, W), or from hands (`hands.record`).

    Args:
        name: one of `networks.NETWORKS`.
        num_classes: the width of the new head.
        pretrained: None, `imagenet` (torchvision's hub), `hands` (hand_net's trunk from the hand finder's bundle), or
            a file of weights whose head may differ, or the folder of a run or bundle (or `default`, the one that
            ships), whose best weights are taken.

    Raises:
        UserError: unknown name, weights that cannot be fetched, read or matched.
    """
    network = _network(name)
    if not network.from_torchvision:
        if pretrained == "imagenet":
            raise UserError(f"{name} has no ImageNet weights; choose a torchvision model, or a local file")
        own = {"small_cnn": SmallCNN, "landmark_mlp": LandmarkMLP, "hand_net": HandNet}
        model: nn.Module = own[name](num_classes)
    else:
        model = _torchvision_model(name, imagenet=pretrained == "imagenet")
        replace_head(model, num_classes)
    if pretrained == "hands":
        assert isinstance(model, HandNet)
        model.trunk.load_bundle(find_bundle())
    elif pretrained not in (None, "imagenet"):
        _load_matching(model, Path(str(pretrained)))
    return model


def _network(name: str) -> Network:
    if name not in NETWORKS:
        raise UserError(f"no model {name!r}; there are: {', '.join(NETWORKS)}")
    return NETWORKS[cast(NetworkName, name)]


def smallest_input_px(name: str) -> int:
    """The smallest side that a network takes, in pixels; 0 for any."""
    return _network(name).smallest_input_px


def is_imagenet_file(name: str, path: Path) -> bool:
    """Whether `path` is a file that torchvision publishes for the network `name`, whatever it is called here.

    All of those for our networks were trained on ImageNet; their published names end with the first digits of their
    SHA-256.
    """
    if not _network(name).from_torchvision:
        return False
    published = [weights.url for weights in torchvision_models().get_model_weights(name)]
    return file_digest(path).startswith(
        tuple(url.rpartition("-")[2].removesuffix(".pth") for url in published)
    )


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer: the part that transfer learning trains."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def layers_of_classifier(model: nn.Module) -> list[nn.Module]:
    """The head, and the dropout before it where there is one.

    What enters the first of them is, with a frozen backbone, a function of the photo alone.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    head = leaves.index(head_of(model))
    return leaves[head - 1 : head + 1] if isinstance(leaves[head - 1], nn.Dropout) else [leaves[head]]


def classifier(model: nn.Module) -> nn.Module:
    """The part behind a frozen backbone, from its features to logits; it shares the model's weights."""
    if isinstance(model, HandNet):
        return TunedTail(model) if model.tuned_blocks else model.tail
    *before, last = layers_of_classifier(model)
    return nn.Sequential(*before, nn.Flatten(1), last)


def replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a fresh linear layer of `num_classes` in place of the last one."""
    old = head_of(model)
    name = next(name for name, module in model.named_modules() if module is old)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Linear(old.in_features, num_classes))


def freeze_backbone(model: nn.Module, *, tuned_blocks: int = 0) -> None:
    """Freeze all but the head, and of hand_net but that many of its last blocks.

    Pair it with `set_train_mode`, which keeps BatchNorm's statistics.
    """
    model.requires_grad_(False)
    if isinstance(model, HandNet):
        model.tail.requires_grad_(True)
        model.tuned_blocks = tuned_blocks
        for parameter in model.trunk.tuned(tuned_blocks):
            parameter.requires_grad_(True)
    else:
        head_of(model).requires_grad_(True)


def set_train_mode(model: nn.Module) -> None:
    """Training mode, except for blocks of frozen layers: their BatchNorm and dropout stay as in evaluation."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups that exclude biases and normalisation layers (He et al. 2019, arXiv:1812.01187).

    The tuned blocks of a trunk, which has learned already, get none either, and `TUNED_RATE` of the learning rate.
    """
    tuned = list(model.trunk.tuned(model.tuned_blocks)) if isinstance(model, HandNet) else []
    known = {id(parameter) for parameter in tuned}
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, object]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [*groups, {"params": tuned, "weight_decay": 0.0, "rate": TUNED_RATE}] if tuned else groups


def _torchvision_model(name: str, *, imagenet: bool) -> nn.Module:
    network = _network(name)
    options = {**network.options, **({} if imagenet else network.options_without_weights)}
    try:
        model: nn.Module = torchvision_models().get_model(
            name, weights="DEFAULT" if imagenet else None, **options
        )
    except OSError as error:  # URLError among them
        raise UserError(
            f"cannot fetch the ImageNet weights of {name} ({error}); on a machine without network, copy the file "
            "from one that has it (~/.cache/torch/hub/checkpoints) and name it with --pretrained FILE"
        ) from error
    _drop_auxiliary_classifiers(model, network.auxiliary)
    return model


def _drop_auxiliary_classifiers(model: nn.Module, names: Iterable[str]) -> None:
    """They help only long ImageNet training; without them every model returns plain logits."""
    for name in names:
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]


def _load_matching(model: nn.Module, path: Path) -> None:
    """Load a file's tensors into `model`; only the head may be of another width, and then stays fresh.

    As torchvision does, auxiliary classifiers are passed over, and files from before BatchNorm counted its
    batches are taken.
    """
    own = model.state_dict()
    state = {key: value for key, value in _read_weights(path).items() if key.split(".")[0] not in _AUXILIARY}
    head = next(name for name, module in model.named_modules() if module is head_of(model))
    of_head = (f"{head}.weight", f"{head}.bias")
    if any(own[key].shape != state[key].shape for key in of_head if key in state):
        state = {key: value for key, value in state.items() if key not in of_head}
    optional = {*of_head, *(key for key in own if key.endswith("num_batches_tracked"))}
    absent = [key for key in own if key not in state and key not in optional]
    foreign = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    if absent or foreign:
        fault = f"lacks {absent[0]}" if absent else f"holds {foreign[0]} {tuple(state[foreign[0]].shape)}"
        raise UserError(f"the weights in {path} are of another network than this one: the file {fault}")
    model.load_state_dict(state, strict=False)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if names_run_folder(path):
        return dict(open_run(path).best_weights()[1])
    if not path.is_file():
        raise UserError(f"no file of weights and no run at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(path.read_bytes())
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options beside the weights
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "Unsupported global" in str(error) or "TorchScript" in str(error):
            raise UserError(
                f"{path} is a whole model, or holds other objects beside weights, and is not loaded, since that "
                "could run code: where it was trained, torch.save(model.state_dict(), FILE), and name that file"
            ) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"cannot read weights from {path}, which torch.save or safetensors must have written ({reason})"
        ) from error
    weights = _unwrapped(state)
    if not weights:
        raise UserError(f"{path} holds no weights: save a model's state_dict(), and name that file")
    return weights


def _unwrapped(state: object) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, out of the dicts in which training programs put it, under their plain names.

    DataParallel puts `module.` before each name, torch.compile `_orig_mod.`, a LightningModule `model.`.
    """
    tensors = state if isinstance(state, dict) else {}
    while inner := next((tensors[key] for key in _WRAPPERS if isinstance(tensors.get(key), dict)), None):
        tensors = inner
    weights = {str(key): value for key, value in tensors.items() if isinstance(value, torch.Tensor)}
    while prefix := next(
        (one for one in _PREFIXES if weights and all(key.startswith(one) for key in weights)), ""
    ):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


class SmallCNN(nn.Module):
    """Seven 3×3 convolutions for 64 px photos: small enough to train on two cores in minutes.

    Wide early layers see edges at full resolution once; three strides then leave 8×8, where most of the
    work is done. Global average pooling makes it take other sizes too. There is no dropout, whose draws would
    depend on the number of ranks.
    """

    def __init__(self, num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _stage(3, width, stride=2),
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 2 * width),
            _stage(2 * width, 4 * width, stride=2),
            _stage(4 * width, 4 * width),
            _stage(4 * width, 8 * width, stride=2),
            _stage(8 * width, 8 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, num_classes) of normalised float photos (n, 3, H, W)."""
        pooled = self.pool(self.features(images)).flatten(1)
        logits: torch.Tensor = self.head(pooled)
        return logits


def _stage(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
