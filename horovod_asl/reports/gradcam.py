"""Where in the picture a network found its answer: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

The map of a class is the ReLU of the last feature maps, each weighed by the mean gradient of the class's logit with
respect to it. The maps are taken where the network last has places: what its last layers with height and width give.
That is after normalisation, activation and the sum of a residual block or of Inception's branches, all of which the
last convolution itself, in order of definition, would miss. For networks that end in global average pooling and a
linear layer, ours and the residual ones, Grad-CAM is then the class activation map of Zhou et al. 2016
(arXiv:1512.04150) without its negative part, up to scale.

A network may turn, zoom or mirror its picture before its first layer sees it. The map is laid back on the picture by
the transpose of that very sampling, which autograd knows. It may look at the picture several times: then the maps of
all looks are laid back, and their mean is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...]


def grad_cam(
    model: nn.Module,
    inputs: Inputs,
    classes: Sequence[int] | NDArray[np.integer],
    *,
    layer: nn.Module | None = None,
) -> NDArray[np.float32]:
    """What speaks for each photo's class in `classes`, place by place; weights and their gradients are left alone.

    Args:
        model: in evaluation mode, or the photos of a batch would share statistics; its parameters may be frozen.
        inputs: what `model` takes: float (n, 3, H, W), or a tuple that holds such pictures.
        classes: the index of one output per photo, (n,).
        layer: the module whose output maps (n, k, h, w) are taken; none: the last that has more than one place.

    Returns:
        float32 (n, H, W), the size of the first 4-D input: 1 at the strongest place of each photo, 0 where nothing
        speaks for the class, which may be everywhere.

    Raises:
        ValueError: no input is 4-D, or no layer of the network gives maps of more than one place.
    """
    assert not model.training
    inputs = _with_gradients(inputs)
    pictures = _pictures(inputs)
    with torch.enable_grad(), _watched(model, layer) as seen:
        logits = model(inputs)
        if not seen.looks:
            raise ValueError(f"{type(model).__name__} has no layer with height and width: Grad-CAM needs one")
        wanted = torch.as_tensor(np.asarray(classes), dtype=torch.int64, device=logits.device)
        chosen = logits.gather(1, wanted[:, None]).sum()
        gradients = torch.autograd.grad(chosen, [look.maps for look in seen.looks], retain_graph=True)
    looks = zip(seen.looks, gradients, strict=True)
    maps = sum((_of_look(look, given, pictures) for look, given in looks), torch.zeros(()))
    strongest = maps.amax((1, 2, 3), keepdim=True)
    heat: NDArray[np.float32] = torch.where(strongest > 0, maps / strongest, maps)[:, 0].cpu().numpy()
    return heat


def _of_look(look: _Look, gradients: Tensor, pictures: Tensor) -> Tensor:
    """The map float (n, 1, H, W) of one look, on the pictures."""
    weights = gradients.mean((2, 3), keepdim=True)
    maps = (weights * look.maps.detach()).sum(1, keepdim=True).relu().float()
    maps = _resized(maps, look.view)
    if look.view is not pictures:
        maps = _resized(_laid_back(maps, look.view, pictures), pictures)
    return maps


def _pictures(inputs: Inputs) -> Tensor:
    parts = (inputs,) if isinstance(inputs, Tensor) else inputs
    for part in parts:
        if part.ndim == 4:
            return part
    raise ValueError("Grad-CAM needs pictures (n, 3, H, W) among the inputs")


def _with_gradients(inputs: Inputs) -> Inputs:
    """The same numbers as new leaves that want gradients, so that a frozen network has a graph too."""
    if isinstance(inputs, Tensor):
        return inputs.detach().clone().requires_grad_()
    return tuple(part.detach().clone().requires_grad_(part.is_floating_point()) for part in inputs)


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)


def _laid_back(maps: Tensor, view: Tensor, pictures: Tensor) -> Tensor:
    """Maps (n, 1, h, w) of `view` as maps of the pictures that it was sampled from; 0 where it does not reach.

    Each pixel of the picture gets the mean of the places that took something of it, by how much they took.
    """

    def spread(values: Tensor) -> Tensor:
        (taken,) = torch.autograd.grad(view, pictures, values.expand_as(view), retain_graph=True)
        return taken.sum(1, keepdim=True)

    share = spread(torch.ones_like(maps))
    reached = share.abs() > 1e-3 * share.abs().amax()
    return torch.where(reached, spread(maps) / torch.where(reached, share, torch.ones_like(share)), 0.0)


@dataclass(frozen=True)
class _Look:
    """One pass through the network: the first 4-D input of any of its parts, and the last maps."""

    view: Tensor
    maps: Tensor


class _Seen:
    """What passed through the network. A look begins where the part that was the first is entered again."""

    def __init__(self) -> None:
        self.looks: list[_Look] = []
        self._first: nn.Module | None = None
        self._view: Tensor | None = None

    def enter(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        picture = inputs[0] if inputs else None
        if self._first in (None, module) and isinstance(picture, Tensor) and picture.ndim == 4:
            self._first, self._view = module, picture

    def leave(self, module: nn.Module, inputs: object, output: object) -> None:
        if not (isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1):
            return
        assert self._view is not None
        if self.looks and self.looks[-1].view is self._view:
            self.looks.pop()
        self.looks.append(_Look(self._view, output))


@contextmanager
def _watched(model: nn.Module, layer: nn.Module | None) -> Iterator[_Seen]:
    seen = _Seen()
    parts = [module for module in model.modules() if module is not model]
    hooks = [part.register_forward_pre_hook(seen.enter) for part in parts]
    hooks += [part.register_forward_hook(seen.leave) for part in (parts if layer is None else [layer])]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
