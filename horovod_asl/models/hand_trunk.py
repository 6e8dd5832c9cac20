"""MediaPipe's hand landmark network as a torch module: a trunk for the pixels of hands that has seen very many.

Its weights come with the Hand Landmarker that finds the hands (Apache-2.0; Zhang et al. 2020,
arXiv:2006.10214). The network is a plain EfficientNet-Lite without normalisation layers: inverted residuals, ReLU6,
SAME padding as TensorFlow has it. Only what lies before its own heads is here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from horovod_asl.errors import UserError

INPUT_PX = 224
LOCAL, POOLED = 112, 1152
"""Channels of the map and of the pooled features that `HandTrunk` gives."""
_MODEL = "hand_landmarks_detector.tflite"


@dataclass(frozen=True)
class _Block:
    """Inverted residual: 1×1 to `hidden`, depthwise `kernel`, 1×1 to `out` (none in the last)."""

    hidden: int
    kernel: int
    stride: int
    out: int | None


_STEM = 24
_BLOCKS = (
    _Block(24, 3, 1, 16),
    _Block(64, 3, 2, 24),
    _Block(144, 3, 1, 24),
    _Block(144, 5, 2, 40),
    _Block(240, 5, 1, 40),
    _Block(240, 3, 2, 80),
    _Block(480, 3, 1, 80),
    _Block(480, 3, 1, 80),
    _Block(480, 5, 1, 112),
    _Block(672, 5, 1, 112),
    _Block(672, 5, 1, LOCAL),
    _Block(672, 5, 2, 192),
    _Block(1152, 5, 1, 192),
    _Block(1152, 5, 1, 192),
    _Block(1152, 5, 1, 192),
    _Block(POOLED, 3, 1, None),
)


LOCAL_FROM = 10
"""The last block at 14×14: of 28×28, 14×14 and 7×7, and all together, its map alone read strangers best."""


class HandTrunk(nn.Module):
    """Aligned crops float (n, 3, 224, 224), RGB in [0, 1], to a feature map and pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, _STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        width = _STEM
        for index, block in enumerate(_BLOCKS):
            self.blocks.append(_InvertedResidual(width, block, expands=index > 0))
            width = block.out or block.hidden

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The map float (n, 112, 14, 14), and what the last layer gives, pooled, float (n, 1152)."""
        return self.forward_from(self.forward_to(images, 0), 0)

    def forward_to(self, images: Tensor, block: int) -> Tensor:
        """What enters the block of this number."""
        features = _relu6(self.stem(_same(images, 3, 2)))
        for one in self.blocks[:block]:
            features = one(features)
        return features

    def forward_from(self, features: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """As `forward`, from what enters the block of this number, the one after `LOCAL_FROM` or one before it."""
        local = features
        for index, one in enumerate(self.blocks[block:], start=block):
            features = one(features)
            if index == LOCAL_FROM:
                local = features
        return local, features.mean((2, 3))

    @staticmethod
    def channels_before(block: int) -> int:
        """Of what enters the block of this number."""
        return _STEM if block == 0 else int(_BLOCKS[block - 1].out or POOLED)

    def tuned(self, count: int) -> Iterator[nn.Parameter]:
        """What is trained of the last `count` blocks: their 1×1 convolutions, which hold nearly all of their weights.

        The depthwise ones between them stay: going back to their weights is slow on a CPU.
        """
        for block in self.blocks[len(self.blocks) - count :]:
            for part in (block.expand, block.project):
                if isinstance(part, nn.Conv2d):
                    yield from part.parameters()

    def load_bundle(self, bundle: Path) -> None:
        """Take the weights from a Hand Landmarker bundle; UserError where it holds another network."""
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        try:
            with zipfile.ZipFile(bundle) as models:
                arrays = list(_convolutions(models.read(_MODEL)))
            if len(arrays) != len(convolutions):
                raise ValueError(f"{len(arrays)} convolutions where {len(convolutions)} are expected")
            with torch.no_grad():
                for module, (weight, bias) in zip(convolutions, arrays, strict=True):
                    module.weight.copy_(torch.from_numpy(_as_torch_has_it(weight, module.groups)))
                    module.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{bundle} does not hold the hand landmark network that is known here ({error}); leave "
                "HOROVOD_ASL_HAND_BUNDLE unset to take the one that ships"
            ) from error


class _InvertedResidual(nn.Module):
    def __init__(self, width: int, block: _Block, *, expands: bool) -> None:
        super().__init__()
        hidden = block.hidden
        self.expand = _conv(width, hidden, 1) if expands else None
        self.depthwise = _Depthwise(
            hidden,
            hidden,
            block.kernel,
            stride=block.stride,
            padding=_padding(block.kernel, block.stride),
            groups=hidden,
        )
        self.project = None if block.out is None else _conv(hidden, block.out, 1)
        self._spec, self._adds = block, block.stride == 1 and block.out == width

    def forward(self, features: Tensor) -> Tensor:
        hidden = features if self.expand is None else _relu6(self.expand(features))
        hidden = _relu6(self.depthwise(_same(hidden, self._spec.kernel, self._spec.stride)))
        if self.project is None:
            return hidden
        projected: Tensor = self.project(hidden)
        return projected + features if self._adds else projected


def _relu6(features: Tensor) -> Tensor:
    return F.relu6(features, inplace=True)  # a convolution's own output, which nobody else reads


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=_padding(kernel, stride))


def _padding(kernel: int, stride: int) -> int:
    return kernel // 2 if stride == 1 else 0


class _Depthwise(nn.Conv2d):
    """A depthwise convolution; frozen ones do not take torch's slow way back on a CPU."""

    def forward(self, features: Tensor) -> Tensor:
        if self.weight.requires_grad or not features.requires_grad or features.device.type != "cpu":
            return super().forward(features)
        passed: Tensor = _FrozenDepthwise.apply(features, self)  # type: ignore[no-untyped-call]
        return passed


class _FrozenDepthwise(torch.autograd.Function):
    """The gradient of a depthwise convolution's input is another one, of the gradient, with the kernel turned round.

    torch's own takes a slow path on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, layer: _Depthwise) -> Tensor:
        ctx.layer, ctx.side = layer, features.shape[2:]
        return nn.Conv2d.forward(layer, features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer: _Depthwise = ctx.layer
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        if stride > 1:  # back to the places of stride 1, zero between them
            sides = [side + 2 * padding - kernel + 1 for side in ctx.side]
            spread = gradient.new_zeros((*gradient.shape[:2], *sides)).to(memory_format=torch.channels_last)
            spread[:, :, ::stride, ::stride] = gradient
            gradient = spread
        weight = layer.weight.detach().flip(2, 3).to(gradient.dtype)
        return F.conv2d(gradient, weight, padding=kernel - 1 - padding, groups=layer.groups), None


def _same(features: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding of a strided convolution over an even side: one more on the right than left."""
    if stride == 1:
        return features
    padding = kernel - stride
    left, right = padding // 2, padding - padding // 2
    return F.pad(features, (left, right, left, right))


def _as_torch_has_it(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """TensorFlow Lite's (out, h, w, in), of a depthwise convolution (1, h, w, channels), to torch's order."""
    order = (0, 3, 1, 2) if groups == 1 else (3, 0, 1, 2)
    return np.ascontiguousarray(weight.transpose(order))


def _convolutions(model: bytes) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weights and biases float32 of a TensorFlow Lite model's convolutions, in the order in which they run."""
    try:
        import tflite
    except ImportError as error:
        raise UserError(
            "reading the hand network's weights needs tflite: pip install 'horovod_asl[hands]', or in a checkout "
            "`make setup`"
        ) from error
    read = tflite.Model.GetRootAs(model, 0)
    graph = read.Subgraphs(0)

    def array(number: int) -> NDArray[Any]:
        tensor = graph.Tensors(number)
        kind = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}[tensor.Type()]
        return (
            np.asarray(read.Buffers(tensor.Buffer()).DataAsNumpy()).view(kind).reshape(tensor.ShapeAsNumpy())
        )

    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    kinds = [_kind(read.OperatorCodes(operator.OpcodeIndex())) for operator in operators]
    halves = {  # weights lie there as fp16, each with an operator that widens it
        int(operator.Outputs(0)): int(operator.Inputs(0))
        for operator, kind in zip(operators, kinds, strict=True)
        if kind == tflite.BuiltinOperator.DEQUANTIZE
    }
    for operator, kind in zip(operators, kinds, strict=True):
        if kind in (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D):
            weight, bias = (int(operator.Inputs(index)) for index in (1, 2))
            yield tuple(array(halves.get(k, k)).astype(np.float32) for k in (weight, bias))  # type: ignore[misc]


def _kind(code: Any) -> int:
    return max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))
