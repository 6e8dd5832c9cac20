"""One of the four passes of `HandNet`, for films: a frame is read on one side and in one position.

Neighbouring frames show the same hand, so a film that reads each frame once, in the two positions by turns, has the
mean over both after two frames, at a quarter of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from horovod_asl.models.hand_net import HandNet, Reading
from horovod_asl.models.hand_view import unrotated


class OnePass(nn.Module):
    """The layers of a `HandNet`, which it shares. Its mean over both sides and both positions is what that says."""

    def __init__(self, network: HandNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, reading: Reading, as_held: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, num_classes), and what enters the last layer (n, width), one space a position.

        Args:
            reading: as `HandNet` takes it. The side is the one that the hands' arrays say.
            as_held: float (n,), 1 to read a hand as it is held, 0 to read it turned up.
        """
        crops, hands = reading
        held = as_held[:, None]
        view = held[:, :, None] * unrotated(hands) + (1 - held[:, :, None]) * hands
        head = self.network.tail
        embeddings = head.embeddings(self.network.features_of_view(crops, view), hands)
        upright, as_is = head.logits(embeddings)
        return torch.lerp(upright, as_is, held), torch.lerp(embeddings[0], embeddings[1], held)
