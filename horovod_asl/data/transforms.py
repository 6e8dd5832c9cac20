"""From uint8 photos to the network's input, on the device, on whole batches; augmentation with a draw per photo.

Every draw is a pure function of the seed, the step and the photo's position in the global batch. So the same
photo is changed in the same way whatever the number of ranks, and a resumed run needs no random state.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from horovod_asl.config import AugmentConfig

# ImageNet's, as torchvision's weights expect them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

_DRAWS = 24  # uniform numbers per photo


def to_unit(images: Tensor, *, smallest_px: int = 0) -> Tensor:
    """uint8 (n, H, W, 3) to float32 (n, 3, H, W) in [0, 1]; enlarged bilinearly to `smallest_px` where smaller."""
    batch = images.permute(0, 3, 1, 2).float().div_(255.0).contiguous()
    if batch.shape[-1] < smallest_px:
        batch = F.interpolate(batch, size=(smallest_px, smallest_px), mode="bilinear", align_corners=False)
    return batch


def normalise(batch: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its deviation, per channel of float (n, 3, H, W)."""
    return (batch - _per_channel(MEAN, batch.device)) / _per_channel(STD, batch.device)


def draws(seed: int, step: int, positions: npt.NDArray[np.int64], global_batch: int) -> Tensor:
    """Uniform float32 (len(positions), 24) in [0, 1) for photos at `positions` of global step `step`."""
    entropy = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    table = torch.rand(global_batch, _DRAWS, generator=generator)
    return table[torch.from_numpy(positions)]


class Augment:
    """Augmentation for hands: geometry, light and colour, blur, a hidden part; whole batches at a time."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def __call__(self, batch: Tensor, uniform: Tensor) -> Tensor:
        """Change float (n, 3, H, W) in [0, 1] by draws float (n, 24); the same shape and range comes back."""
        columns = uniform.to(batch.device, non_blocking=True).unbind(1)
        batch = self._warp(batch, columns[:8])
        batch = self._recolour(batch, columns[8:15])
        batch = self._blur(batch, columns[15:17])
        return self._cut_out(batch, columns[17:22])

    def _warp(self, batch: Tensor, columns: tuple[Tensor, ...]) -> Tensor:
        turn, zoom, shift_x, shift_y, tilt_x, tilt_y, mirror, stretch = columns
        config = self.config
        angle = _around_zero(turn) * math.radians(config.rotation_degrees)
        scale = (1.0 - config.scale) ** _around_zero(zoom)
        aspect = (1.0 - config.scale / 3.0) ** _around_zero(stretch)
        flip = 1.0 - 2.0 * (mirror < config.mirror).float()
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        one = torch.ones_like(angle)
        matrix = torch.stack(
            [
                torch.stack([cos * flip * aspect, -sin, _around_zero(shift_x) * 2 * config.translation], 1),
                torch.stack([sin * flip * aspect, cos, _around_zero(shift_y) * 2 * config.translation], 1),
                torch.stack(
                    [
                        _around_zero(tilt_x) * config.perspective,
                        _around_zero(tilt_y) * config.perspective,
                        one,
                    ],
                    1,
                ),
            ],
            1,
        )
        return _warp_by(batch, matrix)

    def _recolour(self, batch: Tensor, columns: tuple[Tensor, ...]) -> Tensor:
        brightness, contrast, saturation, gamma, warmth, tint, grey = (
            _per_photo(column) for column in columns
        )
        strength = self.config.colour
        if strength == 0:
            return batch
        batch = batch.clamp(1e-4, 1.0) ** (2.0 ** (_around_zero(gamma) * 1.4 * strength))
        luma = _luma(batch)
        batch = luma + (batch - luma) * (1.0 + _around_zero(saturation) * strength) * (grey > 0.1 * strength)
        mean = batch.mean((1, 2, 3), keepdim=True)
        batch = mean + (batch - mean) * (1.0 + _around_zero(contrast) * strength)
        channels = torch.cat([_around_zero(warmth), _around_zero(tint), -_around_zero(warmth)], 1)
        batch = batch * (1.0 + 0.3 * strength * channels) * (1.0 + 0.8 * strength * _around_zero(brightness))
        return batch.clamp(0.0, 1.0)

    def _blur(self, batch: Tensor, columns: tuple[Tensor, ...]) -> Tensor:
        whether, how_much = columns
        if self.config.blur == 0:
            return batch
        # All photos pass the same convolution: those without blur have a kernel that is one at its centre.
        sigma = torch.where(whether < self.config.blur, 0.4 + 0.9 * how_much, torch.full_like(whether, 1e-3))
        sigma = sigma * (batch.shape[-1] / 64.0)
        radius = max(2, batch.shape[-1] // 32)
        offsets = torch.arange(-radius, radius + 1, device=batch.device)
        kernel = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
        return _separable(batch, kernel, radius)

    def _cut_out(self, batch: Tensor, columns: tuple[Tensor, ...]) -> Tensor:
        whether, centre_x, centre_y, width, height = columns
        if self.config.cutout == 0:
            return batch
        across = torch.linspace(0.0, 1.0, batch.shape[-1], device=batch.device)
        inside_x = (across[None] - centre_x[:, None]).abs() < 0.05 + 0.15 * width[:, None]
        inside_y = (across[None] - centre_y[:, None]).abs() < 0.05 + 0.15 * height[:, None]
        hidden = inside_y[:, :, None] & inside_x[:, None, :] & (whether < self.config.cutout)[:, None, None]
        return torch.where(hidden[:, None], torch.full_like(batch, 0.5), batch)


def mix(
    batch: Tensor, targets: Tensor, config: AugmentConfig, *, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of float (n, 3, H, W) and soft targets (n, C) with the same batch in reverse order."""
    if config.mixup_alpha == 0 and config.cutmix_alpha == 0:
        return batch, targets
    generator = np.random.default_rng([seed, step, 1])
    cut = config.mixup_alpha == 0 or (config.cutmix_alpha > 0 and generator.random() < 0.5)
    alpha = config.cutmix_alpha if cut else config.mixup_alpha
    kept = float(generator.beta(alpha, alpha))
    if not cut:
        return kept * batch + (1 - kept) * batch.flip(0), kept * targets + (1 - kept) * targets.flip(0)
    size = batch.shape[-1]
    side = round(size * math.sqrt(1 - kept))
    top, left = generator.integers(0, size - side + 1, 2)
    batch = batch.clone()
    batch[:, :, top : top + side, left : left + side] = batch.flip(0)[
        :, :, top : top + side, left : left + side
    ]
    kept = 1 - side * side / (size * size)
    return batch, kept * targets + (1 - kept) * targets.flip(0)


def _around_zero(uniform: Tensor) -> Tensor:
    return 2.0 * uniform - 1.0


def _per_photo(column: Tensor) -> Tensor:
    return column.view(-1, 1, 1, 1)


def _luma(batch: Tensor) -> Tensor:
    return (batch * _per_channel(_LUMA, batch.device)).sum(1, keepdim=True)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Float (1, 3, 1, 1), copied to the device once: such a copy waits for everything that was queued there."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _warp_by(batch: Tensor, matrix: Tensor) -> Tensor:
    """Sample the batch where `matrix` (n, 3, 3) maps each output point in [−1, 1]²; edges are mirrored."""
    size = batch.shape[-1]
    # Points at pixel centres, as align_corners=False has them.
    line = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)
    mapped = points @ matrix.transpose(1, 2)
    grid = (mapped[..., :2] / mapped[..., 2:].clamp(min=0.2)).view(-1, size, size, 2)
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _separable(batch: Tensor, kernel: Tensor, radius: int) -> Tensor:
    """Convolve rows, then columns, of (n, 3, H, W) with a kernel (3n, 2·radius + 1) of its own per plane."""
    n, channels, height, width = batch.shape
    planes = F.pad(batch.reshape(1, n * channels, height, width), [radius] * 4, mode="reflect")
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=n * channels)
    return planes.view(n, channels, height, width)
