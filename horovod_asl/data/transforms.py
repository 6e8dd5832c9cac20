"""From uint8 photos to the network's input, on the device, on whole batches; augmentation with a draw per photo.

Every draw is a pure function of the seed, the step and the photo's position in the global batch. So the same
photo is changed in the same way whatever the number of ranks, and a resumed run needs no random state.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from horovod_asl.config import AugmentConfig

Inputs = Tensor | tuple[Tensor, ...]
"""What a network takes of a batch: one tensor, or several for one that sees more than one thing."""

# ImageNet's, as torchvision's weights expect them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_SCALE = tuple(1.0 / (255.0 * std) for std in STD)
_OFFSET = tuple(-mean / std for mean, std in zip(MEAN, STD, strict=True))
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

DRAWS = 32  # uniform numbers per photo; some columns were of augmentations that are gone, and stay unused


def to_unit(images: Tensor, *, smallest_px: int = 0) -> Tensor:
    """uint8 (n, H, W, 3) to float32 (n, 3, H, W) in [0, 1]; enlarged bilinearly to `smallest_px` where smaller."""
    batch = _planes(images).div_(255.0)
    if batch.shape[-1] < smallest_px:
        batch = F.interpolate(batch, size=(smallest_px, smallest_px), mode="bilinear", align_corners=False)
    return batch


def normalise(batch: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its deviation, per channel of float (n, 3, H, W)."""
    return (batch - _per_channel(MEAN, batch.device)) / _per_channel(STD, batch.device)


def to_unit_again(batch: Tensor) -> Tensor:
    """Undo `normalise`, for a network that takes photos in [0, 1]."""
    return batch * _per_channel(STD, batch.device) + _per_channel(MEAN, batch.device)


def to_tensors(array: npt.NDArray[Any]) -> Inputs:
    """What was gathered, as tensors: one, or one per field where each photo is a record of fields."""
    if array.dtype.names is None:
        return torch.from_numpy(array)
    return tuple(torch.from_numpy(np.ascontiguousarray(array[name])) for name in array.dtype.names)


def to_input(images: Inputs, *, smallest_px: int = 0) -> Inputs:
    """uint8 (n, H, W, 3) as a network takes them: `normalise(to_unit(…))`, in half its passes over memory.

    Floats are the features of a frozen backbone (n, width), or hands (n, 50, 3): they go in as they are. Of several
    tensors each is made so.
    """
    if isinstance(images, tuple):
        return tuple(_to_input(part, smallest_px) for part in images)
    return _to_input(images, smallest_px)


def _to_input(images: Tensor, smallest_px: int) -> Tensor:
    if images.is_floating_point():
        return images
    if images.shape[1] < smallest_px:
        return normalise(to_unit(images, smallest_px=smallest_px))
    device = images.device
    return _planes(images).mul_(_per_channel(_SCALE, device)).add_(_per_channel(_OFFSET, device))


def _planes(images: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) to float32 (n, 3, H, W): first the move, while a value is one byte, then the conversion."""
    return images.permute(0, 3, 1, 2).contiguous().float()


def draws(seed: int, step: int, positions: npt.NDArray[np.int64], global_batch: int) -> Tensor:
    """Uniform float32 (len(positions), 32) in [0, 1) for photos at `positions` of global step `step`."""
    entropy = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    table = torch.rand(global_batch, DRAWS, generator=generator)
    return table[torch.from_numpy(positions)]


class Augment:
    """Augmentation for hands: geometry, light and colour, blur, a hidden part; whole batches.

    `warp`: whether the geometry is changed here; a network that views crops by landmarks does it itself.
    """

    def __init__(self, config: AugmentConfig, *, warp: bool = True) -> None:
        self.config, self._warps = config, warp

    def __call__(self, batch: Tensor, uniform: Tensor) -> Tensor:
        """Change float (n, 3, H, W) in [0, 1] by draws float (n, 32), in place where it can; returns the result.

        `uniform` is on the CPU, as `draws` makes it: which photos are blurred or lose a part is then known
        without waiting for the device, and only they are worked on.
        """
        columns = uniform.to(batch.device, non_blocking=True)
        config, device = self.config, batch.device
        if self._warps:
            batch = self._warp(batch, columns[:, :8])
        batch = self._recolour(batch, columns[:, 8:15])
        batch = self._blur(batch, columns, _chosen(uniform[:, 15], config.blur, device))
        return self._cut_out(batch, columns, _chosen(uniform[:, 17], config.cutout, device))

    def _warp(self, batch: Tensor, columns: Tensor) -> Tensor:
        turn, zoom, shift_x, shift_y, tilt_x, tilt_y, _, stretch = columns.unbind(1)
        config = self.config
        angle = _around_zero(turn) * math.radians(config.rotation_degrees)
        scale = (1.0 - config.scale) ** _around_zero(zoom)
        aspect = (1.0 - config.scale / 3.0) ** _around_zero(stretch)
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        across = (cos * aspect, -sin, _around_zero(shift_x) * 2 * config.translation)
        down = (sin * aspect, cos, _around_zero(shift_y) * 2 * config.translation)
        depth = (
            _around_zero(tilt_x) * config.perspective,
            _around_zero(tilt_y) * config.perspective,
            torch.ones_like(angle),
        )
        return _warp_by(batch, across, down, depth)

    def _recolour(self, batch: Tensor, columns: Tensor) -> Tensor:
        """Gamma first; saturation, contrast, white balance and brightness are then one 3×3 matrix per photo."""
        strength = self.config.colour
        if strength == 0:
            return batch
        brightness, contrast, saturation, gamma, warmth, tint, grey = columns.unbind(1)
        n, channels, height, width = batch.shape
        batch = batch.clamp_(1e-4, 1.0).pow_(
            (2.0 ** (_around_zero(gamma) * 1.4 * strength)).view(-1, 1, 1, 1)
        )
        pixels = batch.view(n, channels, height * width)
        saturated = self._saturation(saturation, grey)
        kept = (1.0 + _around_zero(contrast) * strength).view(-1, 1, 1)
        mean = (saturated @ pixels.mean(2, keepdim=True)).mean(1, keepdim=True)
        balance = torch.stack([_around_zero(warmth), _around_zero(tint), -_around_zero(warmth)], 1)
        light = 1.0 + 0.8 * strength * _around_zero(brightness)
        factors = ((1.0 + 0.3 * strength * balance) * light[:, None]).unsqueeze(2)
        changed = torch.baddbmm(factors * (1.0 - kept) * mean, factors * kept * saturated, pixels)
        return changed.clamp_(0.0, 1.0).view(n, channels, height, width)

    def _saturation(self, saturation: Tensor, grey: Tensor) -> Tensor:
        """Float (n, 3, 3): between the identity and the luma in every channel."""
        strength = self.config.colour
        kept = (1.0 + _around_zero(saturation) * strength) * (grey > 0.1 * strength)
        kept = kept.view(-1, 1, 1)
        identity = torch.eye(3, device=kept.device)
        luma = _per_channel(_LUMA, kept.device).view(1, 1, 3)
        return identity * kept + luma * (1.0 - kept)

    def _blur(self, batch: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
        if len(chosen) == 0:
            return batch
        size = batch.shape[-1]
        sigma = (0.4 + 0.9 * columns[chosen, 16]) * (size / 64.0)
        radius = max(2, size // 32)
        offsets = torch.arange(-radius, radius + 1, device=batch.device)
        kernel = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
        return batch.index_copy_(0, chosen, _separable(batch[chosen], kernel, radius))

    def _cut_out(self, batch: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
        if len(chosen) == 0:
            return batch
        centre_x, centre_y, width, height = columns[chosen, 18:22].unbind(1)
        across = torch.linspace(0.0, 1.0, batch.shape[-1], device=batch.device)
        inside_x = (across[None] - centre_x[:, None]).abs() < 0.05 + 0.15 * width[:, None]
        inside_y = (across[None] - centre_y[:, None]).abs() < 0.05 + 0.15 * height[:, None]
        hidden = inside_y[:, None, :, None] & inside_x[:, None, None, :]
        return batch.index_copy_(0, chosen, batch[chosen].masked_fill_(hidden, 0.5))


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


def _chosen(uniform: Tensor, probability: float, device: torch.device) -> Tensor:
    """The photos whose draw is below `probability`, int64 on `device`."""
    return torch.nonzero(uniform < probability).flatten().to(device, non_blocking=True)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Float (1, 3, 1, 1), copied to the device once: such a copy waits for everything that was queued there."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _warp_by(
    batch: Tensor, across: tuple[Tensor, ...], down: tuple[Tensor, ...], depth: tuple[Tensor, ...]
) -> Tensor:
    """Sample the batch where a homography per photo maps each output point in [−1, 1]²; edges are mirrored.

    Its rows are `across`, `down` and `depth`, each three float (n,): the factors of x, of y, and of one.
    """
    size = batch.shape[-1]
    # Points at pixel centres, as align_corners=False has them.
    line = (torch.arange(size, device=batch.device) * 2 + 1) / size - 1

    def mapped(row: tuple[Tensor, ...]) -> Tensor:
        of_x, of_y, constant = (factor[:, None] for factor in row)
        return (of_y * line + constant)[:, :, None] + (of_x * line)[:, None, :]

    nearness = mapped(depth).clamp_(min=0.2).reciprocal_()
    grid = torch.stack([mapped(across).mul_(nearness), mapped(down).mul_(nearness)], -1)
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _separable(batch: Tensor, kernel: Tensor, radius: int) -> Tensor:
    """Convolve rows, then columns, of (n, 3, H, W) with a kernel (3n, 2·radius + 1) of its own per plane."""
    n, channels, height, width = batch.shape
    planes = F.pad(batch.reshape(1, n * channels, height, width), [radius] * 4, mode="reflect")
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=n * channels)
    return planes.view(n, channels, height, width)
