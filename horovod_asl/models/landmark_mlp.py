"""A network that reads a sign from the joints of the hand alone: no pixels, so no room, light or skin.

A left hand makes the signs of a right one mirrored, so left hands are mirrored. Which way a hand points is part of
its sign (P is not K, G is not Q, U is not H): turns in the picture stay in the features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from horovod_asl.hands.record import ARRAY_ROWS, LANDMARKS, MATRIX_ROWS, SEEN_ROW

_PARENTS = (0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
_BONES = [(parent, joint) for joint, parent in enumerate(_PARENTS) if joint]
_PAIRS = [(i, j) for i in range(LANDMARKS) for j in range(i)]


class LandmarkFeatures(nn.Module):
    """Hands float (n, 50, 3) (see `hands.record.hand_arrays`) to features float (n, 648), zeros where none was seen.

    Of landmarks centred on their mean and divided by their mean distance from it: world positions, image positions,
    all distances between two joints in both, and the directions of bones.
    """

    pairs: Tensor
    bones: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.tensor(_PAIRS).T.contiguous(), persistent=False)
        self.register_buffer("bones", torch.tensor(_BONES).T.contiguous(), persistent=False)
        self.width = int(self(torch.zeros(1, ARRAY_ROWS, 3)).shape[1])

    def forward(self, hands: Tensor) -> Tensor:
        """The features."""
        seen, handedness, doubtful = hands[:, SEEN_ROW].unbind(1)
        one = torch.ones_like(seen)
        points = hands[:, : 2 * LANDMARKS] @ hands[:, MATRIX_ROWS].transpose(1, 2)
        points = points * torch.stack([torch.where(handedness < 0, -one, one), one, one], 1)[:, None]
        image = _centred(points[:, :LANDMARKS])
        flat = _centred(points[:, :LANDMARKS, :2])
        world = _centred(points[:, LANDMARKS:])
        features = torch.cat(
            [
                world.flatten(1),
                flat.flatten(1),
                image[:, :, 2],
                _distances(world, self.pairs),
                _distances(flat, self.pairs),
                _directions(world, self.bones).flatten(1),
                _directions(flat, self.bones).flatten(1),
                one[:, None],
                doubtful[:, None],
            ],
            1,
        )
        return features * seen[:, None]


class LandmarkMLP(nn.Module):
    """Hands float (n, 50, 3) to logits (n, num_classes).

    There is no dropout and no batch statistic, so ranks take the step of one process.
    """

    def __init__(self, num_classes: int, *, width: int = 256) -> None:
        super().__init__()
        self.features = LandmarkFeatures()
        self.body = nn.Sequential(
            nn.LayerNorm(self.features.width),
            nn.Linear(self.features.width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, hands: Tensor) -> Tensor:
        """Logits (n, num_classes)."""
        logits: Tensor = self.head(self.body(self.features(hands)))
        return logits


def _centred(points: Tensor) -> Tensor:
    """Points (n, k, d) about their mean, their mean distance from it being one."""
    points = points - points.mean(1, keepdim=True)
    size = points.norm(dim=2).mean(1).clamp_min(1e-6)
    centred: Tensor = points / size[:, None, None]
    return centred


def _distances(points: Tensor, pairs: Tensor) -> Tensor:
    """(n, number of pairs)."""
    return (points[:, pairs[0]] - points[:, pairs[1]]).square().sum(2).clamp_min(1e-12).sqrt()


def _directions(points: Tensor, bones: Tensor) -> Tensor:
    """Unit vectors (n, number of bones, d)."""
    vectors = points[:, bones[1]] - points[:, bones[0]]
    directions: Tensor = vectors / vectors.square().sum(2, keepdim=True).clamp_min(1e-12).sqrt()
    return directions
