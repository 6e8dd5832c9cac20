"""A picture of any mode as 8-bit RGB.

- Transparency is laid over white. Pillow converts CMYK (also Adobe's inverted) and palettes.
- Integers of more than 8 bits are scaled, not clipped. What a container of 16 or 32 bits holds is not declared
  (cameras put 12 bits into 16, programs 8 into 32), so full white is that of the smallest usual depth – 8, 12,
  16, 24, 31 or 32 bits – that holds the brightest pixel; a TIFF that declares 9 to 15 bits is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_DEPTHS = (8, 12, 16, 24, 31, 32)
_SAMPLE_FORMAT, _BITS_PER_SAMPLE = 339, 258
_SIGNED = 2


def to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB from any mode; transparency over white, deep greys scaled to their full range."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith(("I", "F")):
        return _deep_grey(picture).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _deep_grey(picture: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as 8 bits; floats count as 0–1 unless one of them exceeds 1."""
    tags = getattr(picture, "tag_v2", {})
    stored = np.asarray(picture)
    if stored.dtype == np.int32 and picture.format == "TIFF" and _first(tags, _SAMPLE_FORMAT) != _SIGNED:
        stored = stored.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
    values = np.nan_to_num(stored.astype(np.float64))
    brightest = values.max(initial=0)
    if picture.mode.startswith("F"):
        scaled = values * 255 if brightest <= 1 else values
    else:
        declared = _first(tags, _BITS_PER_SAMPLE)
        usual = next(bits for bits in _DEPTHS if brightest < 2**bits)
        scaled = values * (255 / (2 ** (declared if 8 < declared < 16 else usual) - 1))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _first(tags: Mapping[int, Any], tag: int) -> int:
    """A TIFF tag's first value; 0 where the file does not have it."""
    value = tags.get(tag, 0)
    return int(value[0] if isinstance(value, tuple) else value)
