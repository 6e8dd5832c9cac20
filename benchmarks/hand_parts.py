"""What each part of hand_net is worth: the cross-validation of `make model`, with a part changed or left out.

    python benchmarks/hand_parts.py PART STORE …     further words are those of `horovod-asl crossval`

`launch/baselines.sh parts` runs all of them, under Horovod. The trunk is frozen, and its features are kept between
them: only the head is trained, so all that is changed here is in it.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from horovod_asl.commands import crossval
from horovod_asl.models import hand_net
from horovod_asl.models.hand_net import HandHead, Reading, _Branch
from horovod_asl.models.hand_trunk import POOLED


class _OnePosition(HandHead):
    """Taught by every photo, in one position; the other branch is neither taught nor asked."""

    position: int

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.branches = torch.nn.ModuleList([self.branches[0]])

    def forward(self, seen: Reading) -> Tensor:
        features, hands = seen
        logits: Tensor = self.branches[0](features[:, :, self.position], hands)
        return logits


class TurnedUp(_OnePosition):
    """The hand turned up alone, as the trunk has learned to see hands."""

    position = 0


class AsHeld(_OnePosition):
    """The hand as it is held alone."""

    position = 1


class Together(HandHead):
    """Both heads taught by every photo, on the mean of their logits."""

    def forward(self, seen: Reading) -> Tensor:
        """Logits (n, classes)."""
        features, hands = seen
        read = [branch(features[:, :, index], hands) for index, branch in enumerate(self.branches)]
        return torch.stack(read).mean(0)


class _AsTold(_Branch):
    """A branch that reads the first of the two sides."""

    def forward(self, features: Tensor, hands: Tensor) -> Tensor:
        return self.of_one_side(features[:, 0], hands)


class OneSide(HandHead):
    """The hand on the side that the finder took it for; not mirrored and read again."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for branch in self.branches:
            branch.__class__ = _AsTold  # the same layers, read otherwise


class PooledAlone(HandHead):
    """Without what the pixels show at each joint: the trunk's pooled features, and the landmarks."""

    def forward(self, seen: Reading) -> Tensor:
        """Logits (n, classes)."""
        features, hands = seen
        pooled = torch.cat([features[..., :POOLED], torch.zeros_like(features[..., POOLED:])], -1)
        return super().forward((pooled, hands))


PARTS: dict[str, type[HandHead]] = {
    "turned-up": TurnedUp,
    "as-held": AsHeld,
    "together": Together,
    "one-side": OneSide,
    "pooled-alone": PooledAlone,
}


def main(argv: list[str]) -> int:
    """Cross-validate with the part that the first word names."""
    name, *words = argv or [""]
    if name not in PARTS:
        print(f"hand_parts: {name or 'no part'}: name one of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    hand_net.HandHead = PARTS[name]  # type: ignore[misc]
    return crossval.main([*words, "--train", "head"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
