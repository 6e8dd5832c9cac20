"""How `hand_net` looks at a hand: where its view lies in the crop, and the landmarks in the view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from horovod_asl.hands.record import (
    BOX_ROW,
    CROP_SIDE,
    HAND_SIDE,
    LANDMARKS,
    SEEN_ROW,
    TURN_ROW,
    VIEW_ROW,
)
from horovod_asl.models.hand_trunk import INPUT_PX


def mirrored(hands: Tensor) -> Tensor:
    """The same hands, left ones taken for right ones and right ones for left ones."""
    others = hands.clone()
    others[:, SEEN_ROW, 1] = -hands[:, SEEN_ROW, 1]
    return others


def unrotated(hands: Tensor) -> Tensor:
    """The same hands, the view of the crop turned back to the photo's upright."""
    held = hands.clone()
    held[:, VIEW_ROW, 0] = hands[:, VIEW_ROW, 0] - hands[:, TURN_ROW, 0]
    return held


def view_of(pixels: Tensor, hands: Tensor) -> Tensor:
    """The trunk's input, float (n, 3, 224, 224), out of crops float (n, 3, S, S)."""
    view = F.grid_sample(pixels, _view_grid(hands), align_corners=False)
    return view.contiguous(memory_format=torch.channels_last)


def _view_grid(hands: Tensor) -> Tensor:
    """Where each pixel of the trunk's input lies in the crop: float (n, 224, 224, 2) in [−1, 1]."""
    line = ((torch.arange(INPUT_PX, device=hands.device) * 2 + 1) / INPUT_PX - 1).to(hands.dtype)
    rotation, shift, reach = _view(hands)
    right, down = (rotation * _mirror(hands)[:, None])[:, None, None].unbind(-1)
    placed: Tensor = (line[:, None] * right + line[:, None, None] * down + shift[:, None]) * reach[:, None]
    return placed


def points_in_view(hands: Tensor) -> Tensor:
    """Where the landmarks lie in the trunk's input: float (n, 21, 2) in [−1, 1]; it undoes `_view_grid`."""
    turn = hands[:, TURN_ROW, 0]
    half = (hands[:, BOX_ROW, 2] / 2).clamp_min(1e-6)
    in_crop = (hands[:, :LANDMARKS, :2] - hands[:, None, BOX_ROW, :2]) @ _rotation(turn)
    rotation, shift, reach = _view(hands)
    points = in_crop / half[:, None, None] / reach - shift
    zoom = hands[:, VIEW_ROW, 1].exp()
    unturned = points @ rotation / zoom.square()[:, None, None]
    placed: Tensor = unturned * _mirror(hands)[:, None]
    return placed


def _view(hands: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the view in the crop: turn and zoom (n, 2, 2), shift (n, 1, 2), and how far it reaches (n, 1, 1)."""
    turn, zoom = hands[:, VIEW_ROW, 0], hands[:, VIEW_ROW, 1].exp()
    seen = hands[:, SEEN_ROW, 0, None, None]
    reach = 1.0 + seen * (HAND_SIDE / CROP_SIDE - 1.0)  # where no hand was seen, the whole of it
    return _rotation(turn) * zoom[:, None, None], hands[:, None, VIEW_ROW + 1, :2], reach


def _rotation(turn: Tensor) -> Tensor:
    """Matrices (n, 2, 2) that turn column vectors clockwise (y points down) by angles (n,)."""
    cos, sin = turn.cos(), turn.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _mirror(hands: Tensor) -> Tensor:
    """(n, 2): (−1, 1) for left hands, which are read as right ones."""
    handedness = hands[:, SEEN_ROW, 1]
    one = torch.ones_like(handedness)
    return torch.stack([torch.where(handedness < 0, -one, one), one], 1)
