"""Augmentation and normalisation against torchvision, NumPy and their own definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from horovod_asl.config import AugmentConfig
from horovod_asl.data.transforms import Augment, draws, mix, normalise, to_unit

NOTHING = AugmentConfig(
    rotation_degrees=0, scale=0, translation=0, perspective=0, colour=0, blur=0, cutout=0
)
SIZE = 32


def pictures(count: int = 8) -> torch.Tensor:
    blobs = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(blobs, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return smooth.clamp(0, 1)


def uniform(count: int = 8, step: int = 3) -> torch.Tensor:
    return draws(5, step, np.arange(count), count)


def test_to_unit_and_normalise_are_numpy_s() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    expected = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    actual = normalise(to_unit(torch.from_numpy(images)))
    np.testing.assert_allclose(actual.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_small_photos_are_enlarged() -> None:
    images = torch.full((2, 16, 16, 3), 51, dtype=torch.uint8)
    assert torch.allclose(to_unit(images, smallest_px=75), torch.full((2, 3, 75, 75), 0.2))


def test_without_strength_nothing_changes() -> None:
    batch = pictures()
    torch.testing.assert_close(Augment(NOTHING)(batch, uniform()), batch, atol=1e-5, rtol=0)


def test_rotation_is_pillow_s() -> None:
    """The draw 1 − ε turns by the whole angle; compared inside the circle that no corner reaches."""
    from PIL import Image

    batch, table = pictures(1), torch.full((1, 32), 0.5)
    table[0, 0] = 1.0
    turned = Augment(replace(NOTHING, rotation_degrees=30.0))(batch, table)[0].numpy()
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    inside = np.hypot(x, y) < SIZE / 2 - 3

    def by_pillow(degrees: float) -> np.ndarray:
        channels = [
            Image.fromarray(plane).rotate(degrees, Image.Resampling.BILINEAR) for plane in batch[0].numpy()
        ]
        return np.stack([np.asarray(channel) for channel in channels])

    errors = [np.abs(turned - by_pillow(degrees))[:, inside].max() for degrees in (30.0, -30.0)]
    assert min(errors) < 0.01
    assert max(errors) > 0.2  # the picture has no symmetry that would hide a rotation


def neutral(count: int = 1) -> torch.Tensor:
    """Draws in the middle of their range: no change, but for blur and the like, which compare with 0.5."""
    return torch.full((count, 32), 0.5)


@pytest.mark.parametrize(("column", "axis"), [(2, 2), (3, 1)])
def test_a_shift_is_a_roll_within_what_stays_in_the_picture(column: int, axis: int) -> None:
    batch, table = pictures(1), neutral()
    table[0, column] = 1.0
    shifted = Augment(replace(NOTHING, translation=4 / SIZE))(batch, table)[0]
    inside = (slice(None), slice(6, -6), slice(6, -6))
    rolled = [batch[0].roll(pixels, dims=axis) for pixels in (4, -4)]
    errors = [float((shifted - other)[inside].abs().max()) for other in rolled]
    assert min(errors) < 1e-5
    assert max(errors) > 0.05


def test_perspective_reads_each_point_where_the_homography_says() -> None:
    batch, table = pictures(1), neutral()
    table[0, 4], table[0, 5] = 1.0, 0.25
    seen = Augment(replace(NOTHING, perspective=0.4))(batch, table)[0].numpy()
    for row, column in ((16, 16), (10, 20), (20, 9), (12, 12)):
        x, y = (2 * column + 1) / SIZE - 1, (2 * row + 1) / SIZE - 1
        depth = 1 + 0.4 * x - 0.2 * y
        u, v = ((x / depth + 1) * SIZE - 1) / 2, ((y / depth + 1) * SIZE - 1) / 2
        left, top = int(u), int(v)
        corners = batch[0].numpy()[:, top : top + 2, left : left + 2]
        across = corners[:, :, 0] * (left + 1 - u) + corners[:, :, 1] * (u - left)
        expected = across[:, 0] * (top + 1 - v) + across[:, 1] * (v - top)
        np.testing.assert_allclose(seen[:, row, column], expected, atol=1e-4)


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_zoom_is_within_its_bounds_and_about_the_centre(draw: float) -> None:
    """A disc's area shows the zoom; at a scale of 0.3 the sides change by 0.7 at most, one way and the other."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    disc = torch.from_numpy((np.hypot(x, y) < 7).astype(np.float32)).expand(1, 3, SIZE, SIZE)
    table = neutral()
    table[0, 1] = draw
    zoomed = Augment(replace(NOTHING, scale=0.3))(disc, table)[0, 0].numpy()
    side = np.sqrt(zoomed.sum() / disc[0, 0].numpy().sum())
    assert side == pytest.approx({0.0: 0.7, 1.0: 1 / 0.7}[draw], rel=0.03)
    assert abs((zoomed * x).sum()) + abs((zoomed * y).sum()) < 1e-2 * zoomed.sum()


def test_each_colour_draw_does_what_it_is_named_after() -> None:
    batch = pictures(1) * 0.4 + 0.3  # nothing saturates
    augment = Augment(replace(NOTHING, colour=0.5))

    def change(column: int, draw: float) -> torch.Tensor:
        table = neutral()
        table[0, column] = draw
        return augment(batch, table)

    torch.testing.assert_close(augment(batch, neutral()), batch, atol=1e-5, rtol=0)
    brightness, contrast, saturation, gamma, warmth, _, grey = range(8, 15)
    torch.testing.assert_close(change(brightness, 1.0), (1.4 * batch).clamp(max=1))
    mean = batch.mean()
    torch.testing.assert_close(change(contrast, 0.0), mean + 0.5 * (batch - mean))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    luma = (batch * weights).sum(1, keepdim=True)
    torch.testing.assert_close(change(saturation, 0.0), luma + 0.5 * (batch - luma))
    torch.testing.assert_close(change(grey, 0.0), luma.expand_as(batch))
    torch.testing.assert_close(change(gamma, 1.0), batch ** (2**0.7))
    factors = torch.tensor([1.15, 1.0, 0.85]).view(1, 3, 1, 1)
    torch.testing.assert_close(change(warmth, 1.0), batch * factors)


@pytest.mark.parametrize("name", ["blur", "cutout"])
def test_a_probability_is_the_share_of_photos_that_are_changed(name: str) -> None:
    batch = torch.rand(1, 3, SIZE, SIZE).expand(1000, -1, -1, -1)
    changed = Augment(replace(NOTHING, **{name: 0.3}))(batch, uniform(1000))
    share = ((changed - batch).abs().amax((1, 2, 3)) > 1e-3).float().mean()
    assert 0.25 < float(share) < 0.35


def test_draws_are_pure_and_independent_of_the_ranks() -> None:
    whole = draws(1, 7, np.arange(12), 12)
    for world_size in (2, 3):
        for rank in range(world_size):
            positions = np.arange(rank, 12, world_size)
            assert torch.equal(draws(1, 7, positions, 12), whole[positions])
    assert not torch.equal(draws(1, 8, np.arange(12), 12), whole)
    assert not torch.equal(draws(2, 7, np.arange(12), 12), whole)
    assert len(torch.unique(whole)) > 0.99 * whole.numel()


@pytest.mark.parametrize(
    "config", [AugmentConfig(), AugmentConfig(colour=1, blur=1, cutout=1, scale=0.9)]
)
def test_every_photo_is_changed_in_its_own_way_and_stays_a_picture(config: AugmentConfig) -> None:
    batch = pictures(1).expand(16, 3, SIZE, SIZE)
    changed = Augment(config)(batch, uniform(16))
    assert changed.shape == batch.shape
    assert bool(torch.isfinite(changed).all())
    assert -1e-5 <= changed.min() <= changed.max() <= 1 + 1e-5
    assert len({tuple(picture.flatten()[:50].tolist()) for picture in changed}) == 16


def test_a_part_of_the_batch_is_changed_as_in_the_whole() -> None:
    batch, table, augment = pictures(), uniform(), Augment(AugmentConfig())
    torch.testing.assert_close(augment(batch, table)[2:5], augment(batch[2:5], table[2:5]), atol=1e-5, rtol=0)


def test_blur_leaves_flat_pictures_alone_and_smooths_others() -> None:
    flat, noise = torch.full((4, 3, SIZE, SIZE), 0.3), torch.rand(4, 3, SIZE, SIZE)
    blur = Augment(replace(NOTHING, blur=1.0))
    torch.testing.assert_close(blur(flat, uniform(4)), flat, atol=1e-5, rtol=0)
    blurred = blur(noise, uniform(4))
    assert float(blurred.var()) < 0.8 * float(noise.var())
    assert float(blurred.mean()) == pytest.approx(float(noise.mean()), abs=0.02)


def test_cutout_hides_one_rectangle() -> None:
    batch = torch.zeros(64, 3, SIZE, SIZE)
    hidden = Augment(replace(NOTHING, cutout=1.0))(batch, uniform(64))[:, 0] == 0.5
    for mask in hidden[hidden.any(2).any(1)]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        assert mask.float().mean() <= 0.45**2


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_mixed_targets_have_the_shares_of_the_pictures(kind: str) -> None:
    batch = torch.stack([torch.full((3, SIZE, SIZE), float(value)) for value in (0, 1)])
    targets = torch.eye(2)
    shares = set()
    for step in range(20):
        mixed, soft = mix(batch, targets, replace(AugmentConfig(), **{kind: 1.0}), seed=0, step=step)
        torch.testing.assert_close(soft.sum(1), torch.ones(2))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft[:, 1], atol=1e-5, rtol=0)
        shares.add(round(float(soft[0, 0]), 4))
    assert len(shares) > 10
    assert torch.equal(batch[1], torch.ones(3, SIZE, SIZE))  # the input is not written to


def test_with_both_kinds_of_mixing_each_batch_takes_one_of_the_two() -> None:
    batch = torch.stack([torch.full((3, SIZE, SIZE), float(value)) for value in (0, 1)])
    config = replace(AugmentConfig(), mixup_alpha=1.0, cutmix_alpha=1.0)
    mixed = [mix(batch, torch.eye(2), config, seed=0, step=step)[0] for step in range(60)]
    cut = sum(bool(((picture == 0) | (picture == 1)).all()) for picture in mixed)
    assert 15 < cut < 45
    assert mix(batch, torch.eye(2), AugmentConfig(), seed=0, step=0)[0] is batch
