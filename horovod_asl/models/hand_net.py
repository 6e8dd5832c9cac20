"""The network that reads a hand by its pixels and its landmarks together.

The pixels pass MediaPipe's trunk (`hand_trunk`), on the crop as MediaPipe would turn it, left hands mirrored. The
head takes its pooled features and, at every landmark, what its 14×14 map says there: whether two or three fingers lie
over the thumb is written at the fingertips (M, N, T, S), not in where the landmarks are. Beside them it takes the
features of the landmarks themselves. Where no hand was seen, the crop is the whole picture and its pooled features
are all there is.

A left hand makes the signs of a right one mirrored, but which of the two a hand is, MediaPipe misreads: in 7 %
of the ASL Alphabet's photos, of one person's right hand (docs/datasets.md). So the hand is read twice, as one and as
the other, and the logits are averaged: what is said of a hand does not depend on the side that it was taken for.

Where up is, MediaPipe misreads too, of fists that hang down (M, N). So each side passes the trunk in two positions:
turned up, as the trunk has learned to see hands, and as it is held.

The trunk may be frozen, or all but its last blocks (`tuned_blocks`): what it makes of a photo up to there is then
kept (`features`), and a step trains `TunedTail`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from horovod_asl.hands.record import LANDMARKS, SEEN_ROW
from horovod_asl.inputs.pixels import to_unit_again
from horovod_asl.models.hand_trunk import LOCAL, LOCAL_FROM, POOLED, HandTrunk
from horovod_asl.models.hand_view import mirrored, points_in_view, unrotated, view_of
from horovod_asl.models.landmark_mlp import LandmarkFeatures

Reading = tuple[Tensor, Tensor]
"""Crops float (n, 3, S, S), normalised, and hands float (n, 50, 3)."""
SIDES = POSITIONS = 2
"""How a hand passes the trunk: as MediaPipe took it and mirrored, each turned up and as it is held."""


class HandNet(nn.Module):
    """Readings to logits (n, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.trunk = HandTrunk()
        self.tail = HandHead(num_classes)
        self.tuned_blocks = 0
        """How many of the trunk's last blocks are trained where the rest of it is frozen."""

    @property
    def grad_cam_layer(self) -> nn.Module:
        """The last layer on whose maps all that is read of the pixels depends: the map that is read at the joints."""
        return self.trunk.blocks[LOCAL_FROM]

    @property
    def first_tuned(self) -> int:
        """The number of the first block that is trained."""
        return len(self.trunk.blocks) - self.tuned_blocks

    def extract_features(self, reading: Reading) -> Reading:
        """What the frozen part of the trunk gives of each side in each position, and the hands.

        Float (n, 2, 2, 1152 + 21 · 112): pooled features and the map's at the landmarks. Where blocks are tuned, what
        enters the first of them, and where the landmarks lie in the view: float (n, 2, 2, channels · h · w + 21 · 2).
        """
        keep = self._before_tuned if self.tuned_blocks else self._after_trunk
        return self._of_each_look(reading, keep), reading[1]

    def forward(self, reading: Reading) -> Tensor:
        """Logits (n, num_classes)."""
        logits: Tensor = self.tail((self._of_each_look(reading, self._after_trunk), reading[1]))
        return logits

    def _of_each_look(self, reading: Reading, read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What `read` makes of the view of each side in each position: float (n, 2, 2, width)."""
        pixels, hands = to_unit_again(reading[0]), reading[1]
        looks = (held for side in (hands, mirrored(hands)) for held in (side, unrotated(side)))
        stacked = torch.stack([read(view_of(pixels, held), held) for held in looks], 1)
        return stacked.view(-1, SIDES, POSITIONS, stacked.shape[-1])

    def features_of_view(self, crops: Tensor, hands: Tensor) -> Tensor:
        """What the trunk gives of one view, which the hands' arrays describe: float (n, 1152 + 21 · 112)."""
        return self._after_trunk(view_of(to_unit_again(crops), hands), hands)

    def _after_trunk(self, view: Tensor, hands: Tensor) -> Tensor:
        local, pooled = self.trunk(view)
        return _joined(local, pooled, points_in_view(hands), hands)

    def _before_tuned(self, view: Tensor, hands: Tensor) -> Tensor:
        maps = self.trunk.forward_to(view, self.first_tuned)
        return torch.cat([maps.flatten(1), points_in_view(hands).flatten(1)], 1)


def _joined(local: Tensor, pooled: Tensor, points: Tensor, hands: Tensor) -> Tensor:
    """Pooled features (n, 1152), and those of the map `local` (n, 112, 14, 14) at points (n, 21, 2) in [−1, 1]."""
    at_joints = F.grid_sample(local, points[:, :, None], align_corners=False)[..., 0]
    at_joints = at_joints.transpose(1, 2).flatten(1) * hands[:, SEEN_ROW, :1]
    return torch.cat([pooled, at_joints], 1)


class TunedTail(nn.Module):
    """What `HandNet.extract_features` gives of a network whose last blocks are tuned, to logits (n, num_classes).

    In training a photo is shown on one side, by a draw, and in one position, in turns: four times the photos for the
    same work. It holds the network's own layers.
    """

    def __init__(self, network: HandNet) -> None:
        super().__init__()
        self.trunk, self.head = network.trunk, network.tail
        self._first = network.first_tuned
        self._channels = network.trunk.channels_before(self._first)

    def forward(self, seen: Reading) -> Tensor:
        """Logits (n, num_classes)."""
        features, hands = seen
        if not self.head.training:
            logits: Tensor = self.head(self.extract_features(seen))
            return logits
        place = torch.arange(len(hands), device=hands.device)
        other = torch.rand(len(hands)).to(hands.device) < 0.5
        held = torch.where(other[:, None, None], mirrored(hands), hands)
        return self.head.interleave(self._read(features[place, other.long(), place % POSITIONS], held), held)

    def extract_features(self, seen: Reading) -> Reading:
        """What the whole trunk gives of each side in each position, from what entered its last blocks; and the hands.

        As `HandNet.extract_features` gives it where no blocks are tuned.
        """
        features, hands = seen
        of_looks = self._read(features.flatten(0, 2), hands.repeat_interleave(SIDES * POSITIONS, 0))
        return of_looks.view(len(hands), SIDES, POSITIONS, -1), hands

    def _read(self, features: Tensor, hands: Tensor) -> Tensor:
        maps, points = features[:, : -2 * LANDMARKS].float(), features[:, -2 * LANDMARKS :].float()
        side = round((maps.shape[1] / self._channels) ** 0.5)
        maps = maps.view(-1, self._channels, side, side).contiguous(memory_format=torch.channels_last)
        return _joined(*self.trunk.forward_from(maps, self._first), points.view(-1, LANDMARKS, 2), hands)


class HandHead(nn.Module):
    """Features of `HandNet.extract_features` to logits (n, num_classes): the mean over both sides and both positions.

    Each position has a branch of its own, and in training a photo teaches only one of them, in turns: taught together
    they lean on each other, and read strangers worse.

    Dropout draws anew on every rank, and whose turn it is depends on the place in a rank's batch: N ranks do not take
    the very step of one process.
    """

    def __init__(
        self, num_classes: int, *, width: int = 256, per_joint: int = 32, dropout: float = 0.4
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            _Branch(num_classes, width, per_joint, dropout) for _ in range(POSITIONS)
        )

    def forward(self, seen: Reading) -> Tensor:
        """Logits (n, num_classes)."""
        features, hands = seen
        if not self.training:
            read = [branch(features[:, :, index], hands) for index, branch in enumerate(self.branches)]
            return torch.stack(read).mean(0)
        return _in_turns(
            [
                branch(features[first::POSITIONS, :, first], hands[first::POSITIONS])
                for first, branch in enumerate(self.branches)
            ]
        )

    def embeddings(self, features: Tensor, hands: Tensor) -> list[Tensor]:
        """Float (n, width) of each position's branch, before its last layer; arguments as for `interleave`."""
        return [branch.embedding(features, hands) for branch in self.branches]  # type: ignore[operator]

    def logits(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Logits (n, num_classes) of each position's embeddings."""
        return [branch.head(one) for branch, one in zip(self.branches, embeddings, strict=True)]  # type: ignore[operator]

    def interleave(self, features: Tensor, hands: Tensor) -> Tensor:
        """Logits (n, num_classes) of photos of which one side and position was read, the positions in turns.

        Args:
            features: float (n, 1152 + 21 · 112).
            hands: float (n, 50, 3), as the side that was read.
        """
        return _in_turns(
            [
                branch.of_one_side(features[first::POSITIONS], hands[first::POSITIONS])  # type: ignore[operator]
                for first, branch in enumerate(self.branches)
            ]
        )


def _in_turns(parts: Sequence[Tensor]) -> Tensor:
    """Rows of each part in turns: the first of the first, the first of the second …"""
    whole = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole


class _Branch(nn.Module):
    """The reading of a hand in one position."""

    def __init__(self, num_classes: int, width: int, per_joint: int, dropout: float) -> None:
        super().__init__()
        self.landmarks = LandmarkFeatures()
        self.normalise_pooled = nn.LayerNorm(POOLED)
        self.normalise_local = nn.LayerNorm(LOCAL)
        self.normalise_landmarks = nn.LayerNorm(self.landmarks.width)
        self.per_joint = nn.Parameter(torch.randn(LANDMARKS, LOCAL, per_joint) * LOCAL**-0.5)
        inputs = POOLED + LANDMARKS * per_joint + self.landmarks.width
        self.body = nn.Sequential(
            nn.Dropout(dropout / 2),
            nn.Linear(inputs, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, hands: Tensor) -> Tensor:
        """Features float (n, 2, 1152 + 21 · 112) of both sides to logits (n, num_classes), their mean."""
        one, other = features.unbind(1)
        return (self.of_one_side(one, hands) + self.of_one_side(other, mirrored(hands))) / 2

    def of_one_side(self, features: Tensor, hands: Tensor) -> Tensor:
        """Features float (n, 1152 + 21 · 112) of the side that `hands` are read as, to logits (n, num_classes)."""
        logits: Tensor = self.head(self.embedding(features, hands))
        return logits

    def embedding(self, features: Tensor, hands: Tensor) -> Tensor:
        """As `of_one_side`, what enters the last layer: float (n, width)."""
        pooled, local = features[:, :POOLED], features[:, POOLED:]
        local = self.normalise_local(local.view(-1, LANDMARKS, LOCAL))
        at_joints = F.gelu(torch.einsum("njc,jcp->njp", local, self.per_joint)) * hands[:, SEEN_ROW, :1, None]
        landmarks = self.normalise_landmarks(self.landmarks(hands))
        joined = torch.cat([self.normalise_pooled(pooled), at_joints.flatten(1), landmarks], 1)
        embedding: Tensor = self.body(joined)
        return embedding
