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

DRAWS = 32  # uniform numbers per photo


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
    """Augmentation for hands: background, geometry, light and colour, blur, a hidden part, JPEG; whole batches.

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
        batch = _before_backgrounds(batch, uniform, _chosen(uniform[:, 24], config.backgrounds, device))
        if self._warps:
            batch = self._warp(batch, columns[:, :8])
        batch = self._recolour(batch, columns[:, 8:15])
        batch = self._darken(batch, columns, uniform, _chosen(uniform[:, 25], config.darken, device))
        batch = self._blur(batch, columns, _chosen(uniform[:, 15], config.blur, device))
        batch = self._cut_out(batch, columns, _chosen(uniform[:, 17], config.cutout, device))
        return _as_jpeg(batch, columns[:, 28], _chosen(uniform[:, 27], config.jpeg, device))

    def _warp(self, batch: Tensor, columns: Tensor) -> Tensor:
        turn, zoom, shift_x, shift_y, tilt_x, tilt_y, mirror, stretch = columns.unbind(1)
        config = self.config
        angle = _around_zero(turn) * math.radians(config.rotation_degrees)
        scale = (1.0 - config.scale) ** _around_zero(zoom)
        aspect = (1.0 - config.scale / 3.0) ** _around_zero(stretch)
        flip = 1.0 - 2.0 * (mirror < config.mirror).float()
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        across = (cos * flip * aspect, -sin, _around_zero(shift_x) * 2 * config.translation)
        down = (sin * flip * aspect, cos, _around_zero(shift_y) * 2 * config.translation)
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

    def _darken(self, batch: Tensor, columns: Tensor, uniform: Tensor, chosen: Tensor) -> Tensor:
        """A dark room: light ÷ 1 to 8, and a camera's noise, normal with a deviation of up to 3 %."""
        if len(chosen) == 0:
            return batch
        light = 2.0 ** (-3.0 * columns[chosen, 26]).view(-1, 1, 1, 1)
        dark = batch[chosen] * light
        noise = torch.stack([_noise(float(uniform[k, 29]), dark.shape[1:]) for k in chosen.tolist()])
        noise = noise.to(batch.device) * 0.03
        return batch.index_copy_(
            0, chosen, (dark + noise * columns[chosen, 30].view(-1, 1, 1, 1)).clamp_(0, 1)
        )

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


def _before_backgrounds(batch: Tensor, uniform: Tensor, chosen: Tensor) -> Tensor:
    """Hands that are cut out on black before soft fields of colour, each its own; other photos stay.

    Cut out is what is black (below 5 %) in a quarter of its pixels and more.
    """
    if len(chosen) == 0:
        return batch
    black = batch[chosen].amax(1, keepdim=True) < 0.05
    # An opening, so that dark creases in the hand stay: what is left of the black after it shrank and grew.
    shrunk = 1.0 - F.max_pool2d(1.0 - black.float(), 5, 1, 2)
    mask = F.max_pool2d(shrunk, 7, 1, 3) * (black.float().mean((1, 2, 3), keepdim=True) > 0.25)
    mask = F.avg_pool2d(mask, 3, 1, 1, count_include_pad=False)
    fields = torch.stack([_field(float(uniform[k, 23])) for k in chosen.tolist()]).to(batch.device)
    fields = F.interpolate(fields, size=batch.shape[-2:], mode="bicubic", align_corners=False).clamp_(0, 1)
    return batch.index_copy_(0, chosen, batch[chosen] * (1 - mask) + fields * mask)


def _noise(draw: float, shape: torch.Size) -> Tensor:
    """Normal numbers that depend on this draw of a photo alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(draw * 2**24)))


def _field(draw: float) -> Tensor:
    """Random colours float (3, 6, 6): a light, a contrast and a hue of the whole, and what varies in it."""
    generator = torch.Generator().manual_seed(int(draw * 2**24))
    light, contrast = torch.rand(2, generator=generator)
    hue, varied = torch.rand(3, 1, 1, generator=generator), torch.rand(3, 6, 6, generator=generator)
    grey = torch.rand(1, 6, 6, generator=generator)
    colours: Tensor = light + 0.3 * (hue - 0.5) + contrast * (0.6 * (grey - 0.5) + 0.4 * (varied - 0.5))
    return colours.clamp(0.02, 1)


def _as_jpeg(batch: Tensor, strength: Tensor, chosen: Tensor) -> Tensor:
    """The damage of JPEG: the cosine transform of 8×8 blocks, rounded more coarsely the higher the frequency.

    The steps are those of the standard's luminance table for qualities of about 50 down to 10 (Wallace 1992,
    doi:10.1109/30.125072), smoothed to a function of the frequency; all three channels alike.
    """
    height, width = batch.shape[-2:]
    if len(chosen) == 0 or min(height, width) < 8:
        return batch
    basis = _cosines(batch.device)
    rows, columns = height // 8 * 8, width // 8 * 8
    whole = batch[chosen, :, :rows, :columns]
    planes = whole.reshape(-1, 1, rows, columns)
    coefficients = F.conv2d(planes, basis, stride=8)
    coarseness = (1.0 + 4.0 * strength[chosen]).repeat_interleave(3).view(-1, 1, 1, 1)
    frequency = torch.arange(8, device=batch.device)
    steps = ((12.0 + 10.0 * (frequency[:, None] + frequency[None])) / 255.0).view(1, 64, 1, 1) * coarseness
    damaged = F.conv_transpose2d((coefficients / steps).round() * steps, basis, stride=8)
    batch[chosen, :, :rows, :columns] = damaged.view_as(whole).clamp_(0, 1)
    return batch


@functools.cache
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal basis of the two-dimensional cosine transform, float (64, 1, 8, 8)."""
    number = torch.arange(8, dtype=torch.float64)
    lines = torch.cos((2 * number[None] + 1) * number[:, None] * math.pi / 16) * 0.5
    lines[0] *= 0.5**0.5
    return torch.einsum("uy,vx->uvyx", lines, lines).reshape(64, 1, 8, 8).float().to(device)


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
