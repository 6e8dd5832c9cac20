"""The networks by name, and in what each of them differs from the others. No torch here: `--help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NetworkName = Literal[
    "hand_net",
    "landmark_mlp",
    "small_cnn",
    "resnet18",
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "alexnet",
    "vgg19",
    "googlenet",
    "inception_v3",
]


@dataclass(frozen=True)
class Network:
    """What is special about a network.

    Attributes:
        input_type: what it reads: `pixels`, a hand's `landmarks`, or `both`.
        from_torchvision: whether torchvision builds it and publishes ImageNet weights for it.
        smallest_input_px: the smallest side that its strides leave something of; smaller photos are enlarged on the
            device. 0: any.
        frozen_dropout: it has dropout before its last layer but one, so its frozen layers give other features in each
            epoch.
        options: arguments of torchvision's builder.
        options_without_weights: further ones where no published weights are loaded.
        auxiliary: classifiers that help long ImageNet training alone; they are dropped, and passed over in files.
    """

    input_type: Literal["pixels", "landmarks", "both"] = "pixels"
    from_torchvision: bool = True
    smallest_input_px: int = 0
    frozen_dropout: bool = False
    options: Mapping[str, bool] = field(default_factory=dict)
    options_without_weights: Mapping[str, bool] = field(default_factory=dict)
    auxiliary: tuple[str, ...] = ()


# The weights of googlenet and inception_v3 are of photos in [−1, 1]: with this they convert ours, and so must every
# later load of them.
_MINUS_ONE_TO_ONE = {"transform_input": True}
_PLAIN = {"aux_logits": False, "init_weights": True}

NETWORKS: Mapping[NetworkName, Network] = {
    "hand_net": Network("both", from_torchvision=False),
    "landmark_mlp": Network("landmarks", from_torchvision=False),
    "small_cnn": Network(from_torchvision=False),
    "resnet18": Network(),
    "resnet50": Network(),
    "mobilenet_v3_large": Network(),
    "efficientnet_b0": Network(),
    "alexnet": Network(smallest_input_px=64, frozen_dropout=True),
    "vgg19": Network(frozen_dropout=True),
    "googlenet": Network(
        options=_MINUS_ONE_TO_ONE, options_without_weights=_PLAIN, auxiliary=("aux1", "aux2")
    ),
    "inception_v3": Network(
        smallest_input_px=75,
        options=_MINUS_ONE_TO_ONE,
        options_without_weights=_PLAIN,
        auxiliary=("AuxLogits",),
    ),
}
DEFAULT_NETWORK: Mapping[str | None, NetworkName] = {
    None: "small_cnn",
    "photos": "small_cnn",
    "pixels": "small_cnn",
    "landmarks": "landmark_mlp",
    "both": "hand_net",
}
"""The network for each `--input`."""
