"""The loader against torch's own DistributedSampler, over sizes that divide by nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from horovod_asl.engine.loader import Shard, ShardedSteps, evaluation_shard
from horovod_asl.errors import UserError


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, int]:
    world_size = draw(st.integers(1, 6))
    return {
        "num_photos": draw(st.integers(1, 120)),
        "global_batch": draw(st.integers(world_size, 40)),
        "world_size": world_size,
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def epoch_of_all_ranks(job: dict[str, int], epoch: int, first_step: int = 0) -> list[list[Shard]]:
    """The shards of an epoch: one list of steps per rank."""
    return [
        list(ShardedSteps(rank=rank, **job).epoch(epoch, first_photo=first_step * job["global_batch"]))
        for rank in range(job["world_size"])
    ]


def real(shard: Shard) -> list[int]:
    return shard.indices[shard.weights == 1].tolist()


def torch_order(num_photos: int, world_size: int, rank: int, seed: int, epoch: int) -> list[int]:
    sampler: Any = DistributedSampler(range(num_photos), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    return list(sampler)


property_test = settings(deadline=None, max_examples=60)
epochs = st.integers(0, 50)


@given(jobs(), epochs)
@property_test
def test_all_ranks_together_read_each_photo_exactly_once_per_epoch(job: dict[str, int], epoch: int) -> None:
    read = Counter(i for rank in epoch_of_all_ranks(job, epoch) for shard in rank for i in real(shard))
    assert read == Counter(range(job["num_photos"]))


@given(jobs(), epochs)
@property_test
def test_all_ranks_take_the_same_number_of_steps_and_none_without_a_photo(
    job: dict[str, int], epoch: int
) -> None:
    steps = -(-job["num_photos"] // job["global_batch"])
    for rank, shards in enumerate(epoch_of_all_ranks(job, epoch)):
        assert ShardedSteps(rank=rank, **job).steps_per_epoch == len(shards) == steps
        assert all(len(shard.indices) > 0 for shard in shards)


@given(jobs(), epochs)
@property_test
def test_a_rank_reads_what_torch_s_sampler_gives_it_in_its_order(job: dict[str, int], epoch: int) -> None:
    n, world_size = job["num_photos"], job["world_size"]
    for rank, shards in enumerate(epoch_of_all_ranks(job, epoch)):
        expected = torch_order(n, world_size, rank, job["seed"], epoch)
        unpadded = expected[
            : len(range(rank, n, world_size))
        ]  # the sampler repeats photos to make shards equal
        assert [index for shard in shards for index in real(shard)] == unpadded


@given(jobs(), epochs)
@property_test
def test_a_step_sees_the_same_photos_at_the_same_positions_for_any_number_of_ranks(
    job: dict[str, int], epoch: int
) -> None:
    order = torch_order(job["num_photos"], 1, 0, job["seed"], epoch)
    for step, shards in enumerate(zip(*epoch_of_all_ranks(job, epoch), strict=True)):
        chunk = order[step * job["global_batch"] : (step + 1) * job["global_batch"]]
        seen = {
            int(position): int(index)
            for shard in shards
            for position, index, weight in zip(shard.positions, shard.indices, shard.weights, strict=True)
            if weight == 1
        }
        assert seen == dict(enumerate(chunk))


@given(jobs(), epochs)
@property_test
def test_weights_of_a_step_sum_to_its_photos_and_each_rank_knows_that_number(
    job: dict[str, int], epoch: int
) -> None:
    for step, shards in enumerate(zip(*epoch_of_all_ranks(job, epoch), strict=True)):
        expected = min(job["global_batch"], job["num_photos"] - step * job["global_batch"])
        assert {shard.global_count for shard in shards} == {expected}
        assert sum(shard.weights.sum() for shard in shards) == expected


def test_no_rank_has_more_than_its_share_of_a_step() -> None:
    shards = epoch_of_all_ranks({"num_photos": 100, "global_batch": 13, "world_size": 4, "seed": 0}, 0)
    assert {len(shard.indices) for rank in shards for shard in rank[:-1]} == {3, 4}


@given(jobs(), epochs, st.data())
@property_test
def test_a_resume_within_an_epoch_reads_the_tail_of_the_same_order(
    job: dict[str, int], epoch: int, data: st.DataObject
) -> None:
    whole = epoch_of_all_ranks(job, epoch)
    first = data.draw(st.integers(0, len(whole[0])))
    for shards, tail in zip(whole, epoch_of_all_ranks(job, epoch, first), strict=True):
        assert [as_lists(shard) for shard in shards[first:]] == [as_lists(shard) for shard in tail]


@given(jobs(), epochs, st.integers(1, 6), st.data())
@property_test
def test_other_ranks_go_on_in_mid_epoch_with_what_is_left_of_it(
    job: dict[str, int], epoch: int, ranks: int, data: st.DataObject
) -> None:
    """Ranks that come or go change the batch too: the order stays, and each photo is read once."""
    before = epoch_of_all_ranks(job, epoch)
    steps = data.draw(st.integers(0, len(before[0])))
    seen = min(steps * job["global_batch"], job["num_photos"])
    other = job | {"world_size": ranks, "global_batch": 3 * ranks}
    after = [list(ShardedSteps(rank=rank, **other).epoch(epoch, first_photo=seen)) for rank in range(ranks)]
    taken = [shard for shards in before for shard in shards[:steps]]
    taken += [shard for shards in after for shard in shards]
    read = Counter(photo for shard in taken for photo in shard.indices[shard.weights > 0].tolist())
    assert read == Counter(range(job["num_photos"]))


def as_lists(shard: Shard) -> tuple[object, ...]:
    return (
        shard.indices.tolist(),
        shard.positions.tolist(),
        shard.weights.tolist(),
        shard.global_count,
    )


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        steps = ShardedSteps(50, global_batch=50, world_size=1, rank=0, seed=seed)
        return next(steps.epoch(epoch)).indices.tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@given(jobs(), epochs, st.integers(1, 5))
@property_test
def test_micro_batches_partition_a_shard_and_fillers_weigh_nothing(
    job: dict[str, int], epoch: int, count: int
) -> None:
    for shard in epoch_of_all_ranks(job, epoch)[0]:
        parts = list(shard.micro_batches(count))
        assert len(parts) == count
        assert all(len(part.indices) >= 2 for part in parts)  # BatchNorm needs two
        assert {part.global_count for part in parts} == {shard.global_count}
        assert [index for part in parts for index in real(part)] == real(shard)
        positions = np.concatenate([part.positions[part.weights == 1] for part in parts])
        assert positions.tolist() == shard.positions[shard.weights == 1].tolist()
        assert sum(part.weights.sum() for part in parts) == shard.weights.sum()


def test_micro_batches_are_nearly_equal() -> None:
    shard = next(ShardedSteps(64, global_batch=11, world_size=1, rank=0, seed=0).epoch(0))
    assert [len(part.indices) for part in shard.micro_batches(3)] == [4, 4, 3]


@given(st.integers(0, 500), st.integers(1, 9))
@property_test
def test_evaluation_reads_each_photo_on_exactly_one_rank(num_photos: int, world_size: int) -> None:
    shards = [evaluation_shard(num_photos, world_size=world_size, rank=rank) for rank in range(world_size)]
    assert sorted(np.concatenate(shards).tolist()) == list(range(num_photos))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_nothing_to_train_on_and_ranks_without_a_photo_are_refused() -> None:
    with pytest.raises(UserError, match="no training photos"):
        ShardedSteps(0, global_batch=4, world_size=1, rank=0, seed=0)
    with pytest.raises(UserError, match="fewer ranks"):
        ShardedSteps(10, global_batch=3, world_size=4, rank=0, seed=0)
