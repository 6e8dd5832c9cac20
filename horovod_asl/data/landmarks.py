"""Augmentation of hands: whole batches of hand arrays (`hands.hand_arrays`) turned and stretched.

What is to be done is written into the array; the network does it (`landmark_network`, `hand_network`). So landmarks
and pixels are changed alike, and where in the crop a landmark lies stays known.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from horovod_asl.config import AugmentConfig
from horovod_asl.data.hands import MATRIX_ROWS, VIEW_ROW

_TILT_DEGREES = 80.0  # at a perspective of 1
_VIEW_TURN = 22  # the column of draws that no augmentation of pixels uses


def augment_hands(hands: Tensor, uniform: Tensor, config: AugmentConfig) -> Tensor:
    """Turn hands float (n, 50, 3) a little in space, and stretch them.

    Args:
        uniform: float (n, 32) in [0, 1), as `transforms.draws` makes them; the geometry's columns are used.
        config: `rotation_degrees` is about the line of sight, `perspective` about the other two axes (up to 80° at
            1), `scale` a stretch of width against height. The view of the crop is turned, zoomed and shifted on its
            own, as errors of the landmarks would: by half of `translation`.
    """
    columns = uniform.to(hands.device).mul(2).sub(1)
    turn, zoom, shift_x, shift_y, tilt_x, tilt_y, _, stretch = columns[:, :8].unbind(1)
    degree = math.radians(1.0)
    roll = turn * config.rotation_degrees * degree
    pitch, yaw = (tilt * _TILT_DEGREES * degree * config.perspective for tilt in (tilt_x, tilt_y))
    one = torch.ones_like(roll)
    across = torch.stack([(1.0 - config.scale / 3.0) ** stretch, one, one], 1)
    changed = hands.clone()
    changed[:, MATRIX_ROWS] = _rotations(pitch, yaw, roll) * across[:, :, None]
    changed[:, VIEW_ROW, 0] = columns[:, _VIEW_TURN] * config.rotation_degrees * degree
    changed[:, VIEW_ROW, 1] = zoom * -math.log(1.0 - config.scale)
    changed[:, VIEW_ROW + 1, :2] = torch.stack([shift_x, shift_y], 1) * config.translation
    return changed


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
