"""Augmentation of hands: whole batches of landmark arrays (`hands.hand_arrays`) turned, stretched and mirrored."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from horovod_asl.config import AugmentConfig

_TILT_DEGREES = 80.0  # at a perspective of 1


def augment_hands(hands: Tensor, uniform: Tensor, config: AugmentConfig) -> Tensor:
    """Turn hands float (n, 43, 3) a little in space, stretch them, and mistake some for the other hand.

    Args:
        uniform: float (n, 24) in [0, 1), as `transforms.draws` makes them; the geometry's columns are used.
        config: `rotation_degrees` is about the line of sight, `perspective` about the other two axes (up to 80° at
            1), `scale` a stretch of width against height, `mirror` how often a hand is mirrored as if its handedness
            had been misread.
    """
    turn, _, _, _, tilt_x, tilt_y, mirror, stretch = uniform[:, :8].to(hands.device).mul(2).sub(1).unbind(1)
    roll = turn * math.radians(config.rotation_degrees)
    pitch, yaw = (tilt * math.radians(_TILT_DEGREES) * config.perspective for tilt in (tilt_x, tilt_y))
    points = hands[:, :-1] @ _rotations(pitch, yaw, roll).transpose(1, 2)
    flip = 1.0 - 2.0 * (mirror < 2 * config.mirror - 1).to(points.dtype)
    across = flip * (1.0 - config.scale / 3.0) ** stretch
    one = torch.ones_like(across)
    points = points * torch.stack([across, one, one], 1)[:, None]
    return torch.cat([points, hands[:, -1:]], 1)


def _rotations(pitch: Tensor, yaw: Tensor, roll: Tensor) -> Tensor:
    """Rotation matrices float (n, 3, 3) about x, then y, then z."""
    zero, one = torch.zeros_like(pitch), torch.ones_like(pitch)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, 1).view(-1, 3, 3)

    (cx, cy, cz), (sx, sy, sz) = (
        [function(angle) for angle in (pitch, yaw, roll)] for function in (torch.cos, torch.sin)
    )
    about_x = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return about_z @ about_y @ about_x
