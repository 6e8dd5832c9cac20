"""Bytes of a photo → uint8 (size, size, 3): the one place where pictures are decoded.

- The whole file is decoded once, so a truncated photo is found here and not in the middle of a training.
- JPEG is decoded with Pillow's `draft` (the DCT at the smallest power-of-two scale that is not below the
  target; the entropy-coded data is still read to its end) and then resized with an antialiasing bilinear
  filter. On 600 ASL Alphabet frames at 64 px this file takes 0.51 ms a photo and the full decode 0.70 ms
  (1.4 × the photos per core-second), 0.8/255 from it in the mean (the worst photo 1.03); a scaled decode of
  100 px for 96 would be 2.3/255 off, so draft must leave `DRAFT_MARGIN` × the target.
- The shape of the hand is kept and nothing is cut off: a picture that is not square is resized until its
  longer side fits, and the missing strips repeat its own border (black bars would be a feature to learn).
- Integers of more than 8 bits are scaled, not clipped. What a container of 16 or 32 bits holds is not declared
  (cameras put 12 bits into 16, programs 8 into 32), so full white is that of the smallest usual depth – 8, 12,
  16, 24, 31 or 32 bits – that holds the brightest pixel; a TIFF that declares 9 to 15 bits is taken at its word.
- Only the formats in FORMATS are tried: Pillow reads these itself, while an EPS would start Ghostscript on a
  stranger's file, whatever its name.
- Transparency is laid over white, CMYK (also Adobe's inverted) and palettes
  go through Pillow, an animation gives its first frame, the EXIF rotation is applied, the file's extension is
  not trusted.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]

DECODER_VERSION = 2
"""Raise when the same bytes would give other pixels: stores made by another version are decoded anew."""

MAX_MEGAPIXELS = 64.0
"""Pictures above this are refused before their pixels are decoded (a decompression bomb, a scan by
mistake)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of what a photo may be; MPO comes as JPEG, and AVIF is left out where Pillow lacks it."""

_DEPTHS = (8, 12, 16, 24, 31, 32)
_SAMPLE_FORMAT, _BITS_PER_SAMPLE = 339, 258
_SIGNED = 2
_PILLOW_LIMIT = threading.Lock()

DRAFT_MARGIN = 1.5
"""How much larger than the target a JPEG must stay after its scaled decode."""


class PhotoError(ValueError):
    """A photo that cannot be used; the message is a short reason for the report."""


def decode_photo(data: bytes, image_size: int, *, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """The photo in `data` as uint8 (image_size, image_size, 3), RGB, upright.

    Raises PhotoError with a short reason (empty, not a picture, truncated, too large).
    """
    with _reasons():
        picture = _open(data, max_megapixels)
        if picture.format in ("JPEG", "MPO"):
            target = round(image_size * DRAFT_MARGIN)
            picture.draft(None, (target, target))
        picture.load()
        picture = _to_rgb(_upright(picture))
        return _pad_to_square(_fit(picture, image_size), image_size)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever a decoder raises on bad bytes into a PhotoError: the bytes are a stranger's."""
    try:
        yield
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError("too large for the memory of this machine") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        kind = "truncated" if "truncated" in text.lower() else "damaged"
        raise PhotoError(f"{kind}: {text[:120]}") from error


def _open(data: bytes, max_megapixels: float) -> Image.Image:
    """The picture, header read and size checked, pixels not decoded yet."""
    if not data:
        raise PhotoError("empty file")
    try:
        with _no_limit_of_pillows():
            picture: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        is_heif = data[4:8] == b"ftyp"
        raise PhotoError(
            "not a picture: HEIF or video; export it as JPEG" if is_heif else "not a picture"
        ) from error
    width, height = picture.size
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise PhotoError(f"too large: {round(megapixels, 1):g} megapixels, the limit is {max_megapixels:g}")
    return picture


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _no_limit_of_pillows() -> Iterator[None]:
    """Pillow's own limit on pixels, global and fixed, would stand above the caller's; opening decodes nothing."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _upright(picture: Image.Image) -> Image.Image:
    if picture.format == "JPEG" and not {"exif", "xmp"} & picture.info.keys():
        return picture  # asking a JPEG that has none costs a tenth of its decode
    if picture.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def _to_rgb(picture: Image.Image) -> Image.Image:
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


def _fit(picture: Image.Image, image_size: int) -> Image.Image:
    """Resized, antialiased, so that the longer side is `image_size` pixels."""
    width, height = picture.size
    scale = image_size / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)


def _pad_to_square(picture: Image.Image, image_size: int) -> Pixels:
    """uint8 (image_size, image_size, 3): the picture in the middle, its border repeated on the short side."""
    pixels = np.asarray(picture)
    if pixels.shape[:2] != (image_size, image_size):
        missing = [image_size - side for side in pixels.shape[:2]]
        pads = [(gap // 2, gap - gap // 2) for gap in missing]
        pixels = np.pad(pixels, [*pads, (0, 0)], mode="edge")
    return cast(Pixels, pixels)
