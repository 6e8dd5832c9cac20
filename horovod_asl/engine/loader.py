"""Which photos each rank reads in each step: torch's DistributedSampler, cut into global batches.

The sampler gives rank r the positions r, r + W, r + 2W, … of an order that depends on the seed and the epoch
alone. A step is a block of G positions of it, and a rank's share the part of its shard that falls in the block.
So a step sees the same G photos whatever the number of ranks W, also where W divides neither G nor the number of
photos; and a resume, or a change of W and G in mid-epoch, is an offset in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import DistributedSampler

from horovod_asl.errors import UserError

# BatchNorm in training mode needs two values per channel, which one photo at 1×1 resolution does not give.
_SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Shard:
    """One rank's share of one step.

    Attributes:
        indices: int64 (m,) into the training photos.
        positions: int64 (m,) within the global batch, 0 ≤ position < G: they key the augmentation's draws.
        weights: float32 (m,), 1 for a photo of the step and 0 for filler that only keeps the batch whole.
        global_count: photos that the step sees on all ranks together.
    """

    indices: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    global_count: int

    def micro_batches(self, count: int, *, replicas: int = 1) -> Iterator[Shard]:
        """The shard in `count` nearly equal parts, each with filler where it would be too small.

        `replicas`: DataParallel cuts each part once more; then it is made to divide, and none is too small.
        """
        for part in np.array_split(np.arange(len(self.indices)), count):
            each = max(_SMALLEST_BATCH, -(-len(part) // replicas))
            whole = max(len(part), _SMALLEST_BATCH) if replicas == 1 else each * replicas
            filler = np.zeros(whole - len(part), dtype=np.int64)
            chosen = np.concatenate([part, filler])
            weights = self.weights[chosen]
            weights[len(part) :] = 0.0
            yield Shard(self.indices[chosen], self.positions[chosen], weights, self.global_count)


class ShardedSteps:
    """The steps of every epoch, for one rank of `world_size`."""

    def __init__(self, num_photos: int, *, global_batch: int, world_size: int, rank: int, seed: int) -> None:
        if num_photos < 1:
            raise UserError("there are no training photos in this store")
        if global_batch < world_size:
            raise UserError(
                f"a global batch of {global_batch} leaves some of {world_size} ranks without a photo; use fewer ranks"
            )
        self.num_photos, self.global_batch = num_photos, global_batch
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = -(-num_photos // global_batch)
        self._sampler: DistributedSampler[int] = DistributedSampler(
            range(num_photos),  # type: ignore[arg-type]
            num_replicas=world_size,
            rank=rank,
            shuffle=True,
            seed=seed,
            drop_last=False,
        )

    def epoch(self, epoch: int, *, first_photo: int = 0) -> Iterator[Shard]:
        """The shards of `epoch`, from the photo at position `first_photo` of its order on."""
        self._sampler.set_epoch(epoch)
        shard = np.fromiter(self._sampler, dtype=np.int64)
        for start in range(first_photo, self.num_photos, self.global_batch):
            yield self._share(shard, start)

    def _share(self, shard: npt.NDArray[np.int64], start: int) -> Shard:
        stop = start + self.global_batch
        # Element j of the shard stands at position rank + j·world_size of the epoch's order.
        first, last = (max(0, -(-(edge - self.rank) // self.world_size)) for edge in (start, stop))
        places = np.arange(first, min(last, len(shard)))
        if len(places) == 0:
            places = np.array([len(shard) - 1])  # a short last step: this rank takes part with filler alone
        positions = self.rank + places * self.world_size
        real = (positions >= start) & (positions < min(stop, self.num_photos))
        return Shard(
            indices=shard[places],
            positions=np.where(real, positions - start, 0),
            weights=real.astype(np.float32),
            global_count=min(stop, self.num_photos) - start,
        )


def evaluation_shard(num_photos: int, *, world_size: int, rank: int) -> npt.NDArray[np.int64]:
    """Unpadded: every photo on exactly one rank, so the summed counts are exact."""
    return np.arange(rank, num_photos, world_size)
