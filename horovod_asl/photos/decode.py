"""Bytes of a photo → uint8 (size, size, 3): the one place where pictures are decoded.

- The whole file is decoded once, so a truncated photo is found here and not in the middle of a training.
- JPEG is decoded at the smallest power-of-two scale of its DCT that leaves `DRAFT_MARGIN` × the target (the
  entropy-coded data is still read to its end) and then resized with an antialiasing bilinear filter. On 250 ASL
  Alphabet frames at 64 px, on one of two AMD EPYC cores, this file takes 0.35 ms a photo, Pillow's own scaled
  decode (`draft`) 0.48 and the full decode 0.80; the pixels are 0.8/255 from the latter's in the mean (the worst
  photo 1.04). A scaled decode of 100 px for 96 would be 2.3/255 off, so the scale must leave that margin.
- A plain JPEG – header, tables, comments – goes to simplejpeg, strictly; any other, and any that it doubts, to
  Pillow, which knows rotations, CMYK and MPO, forgives what can be forgiven and gives the reason for the rest.
- The shape of the hand is kept and nothing is cut off: a picture that is not square is resized until its
  longer side fits, and the missing strips repeat its own border (black bars would be a feature to learn).
- HEIC, which iPhones take, is read by pillow-heif (the extra `heic`): it is a plug-in of Pillow with wheels for all
  platforms and its own libheif, while torchcodec wants the system's libheif and lacks wheels for Intel Macs, Windows
  on ARM and musl. It turns a picture as its container says; EXIF does not turn it again.
- Only the formats in FORMATS are tried: Pillow reads these itself, while an EPS would start Ghostscript on a
  stranger's file, whatever its name.
- Other modes become RGB as `rgb` does it, an animation gives its first frame, the EXIF rotation is applied. The
  file's extension is not trusted.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import numpy as np
import PIL
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from horovod_asl.photos.rgb import to_rgb

Pixels = NDArray[np.uint8]

DECODER_VERSION = 3
"""Raise when the same bytes would give other pixels: stores made by another version are decoded anew."""

DECODED_WITH = {"pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__}
"""The libraries that decode, for the record of a store."""

MAX_MEGAPIXELS = 64.0
"""Pictures above this are refused before their pixels are decoded (a decompression bomb, a scan by
mistake)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of what a photo may be; MPO comes as JPEG, and AVIF is left out where Pillow lacks it."""
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_ANY_IMAGE_BRANDS = {b"mif1", b"msf1"}  # of HEIC and of AVIF alike; the compatible brands tell them apart

_PLAIN_SEGMENTS = frozenset((0xE0, 0xDB, 0xC4, 0xC0, 0xC1, 0xC2, 0xDD, 0xFE))
_START_OF_SCAN = 0xDA
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation; all others are upright."""
_ACROSS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
"""Those that make a wide picture a tall one."""
_PILLOW_LIMIT = threading.Lock()

DRAFT_MARGIN = 1.5
"""How much larger than the target the longer side of a JPEG must stay after its scaled decode."""


class PhotoError(ValueError):
    """A photo that cannot be used; the message is a short reason for the report."""


def decode_photo(data: bytes, image_size: int, *, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """The photo in `data` as uint8 (image_size, image_size, 3), RGB, upright.

    Raises PhotoError with a short reason (empty, not a picture, truncated, too large).
    """
    with _reasons():
        fitted = _plain_jpeg(data, image_size, max_megapixels) or _any_picture(
            data, image_size, max_megapixels
        )
        return _pad_to_square(fitted, image_size)


def decode_upright(data: bytes, most_px: int, *, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """The photo in `data` as uint8 (height, width, 3), RGB, upright, not padded; a longer side above `most_px` is
    reduced to it.

    Raises PhotoError as `decode_photo`.
    """
    with _reasons():
        side = min(max(_open(data, max_megapixels).size), most_px)
        picture = _plain_jpeg(data, side, max_megapixels) or _any_picture(data, side, max_megapixels)
        return np.asarray(picture)


def decode_picture(picture: Image.Image, image_size: int) -> Pixels:
    """An open picture of any mode as `decode_photo` gives the file that it would be; the picture stays as it is.

    Raises PhotoError with a short reason (no pixels, truncated).
    """
    with _reasons():
        fitted = _fit(to_rgb(picture), image_size, picture.size)
        turn = _turn(picture)
        return _pad_to_square(fitted if turn is None else fitted.transpose(turn), image_size)


def upright_size(photo: bytes | Image.Image) -> tuple[int, int]:
    """Width and height in pixels of a photo as it is shown, which is after its EXIF rotation.

    Raises PhotoError as `decode_photo`, but for what stands after the header.
    """
    with _reasons():
        picture = photo if isinstance(photo, Image.Image) else _open(photo, MAX_MEGAPIXELS)
        width, height = picture.size
        return (height, width) if _turn(picture) in _ACROSS else (width, height)


def check_size(data: bytes, max_megapixels: float) -> None:
    """Raise PhotoError where `decode_photo` would refuse the photo for its size, or can't read its header."""
    with _reasons():
        _open(data, max_megapixels)


def _plain_jpeg(data: bytes, image_size: int, max_megapixels: float) -> Image.Image | None:
    """A JPEG that needs no care, in RGB, its longer side `image_size` pixels; None on any doubt."""
    try:
        if not _is_plain_jpeg(data):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray", "RGB") or width * height / 1e6 > max_megapixels:
            return None
        divisor = _scale_divisor(width, height, image_size)
        least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_factor=1, **least)
    except Exception:
        return None  # whatever is wrong, Pillow says it in the words of the report, or can live with it
    size = (pixels.shape[1], pixels.shape[0])
    picture = Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)  # half the cost of fromarray
    return _fit(picture, image_size, (width / divisor, height / divisor))


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether nothing but JFIF, tables, a frame and comments stand before the first scan: no EXIF, XMP, Adobe,
    MPO."""
    if data[:2] != b"\xff\xd8":
        return False
    place = 2
    while data[place] == 0xFF and data[place + 1] in _PLAIN_SEGMENTS:
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return data[place] == 0xFF and data[place + 1] == _START_OF_SCAN


def _scale_divisor(width: int, height: int, image_size: int) -> int:
    """8, 4, 2 or 1: by how much a JPEG may be reduced and its longer side, which is fitted, keep the margin.

    Other eighths exist, but these are the ones that libjpeg-turbo has fast code for: 200 px decode to 150 slower
    than to 200.
    """
    target = round(image_size * DRAFT_MARGIN)
    return next((divisor for divisor in (8, 4, 2) if max(width, height) >= divisor * target), 1)


def _any_picture(data: bytes, image_size: int, max_megapixels: float) -> Image.Image:
    """Whatever Pillow reads, in RGB, upright, its longer side `image_size` pixels."""
    picture = _open(data, max_megapixels)
    sides: tuple[float, float] = picture.size
    if picture.format in ("JPEG", "MPO"):
        divisor = _scale_divisor(*picture.size, image_size)
        drafted = picture.draft(None, (max(1, picture.width // divisor), max(1, picture.height // divisor)))
        sides = drafted[1][2:] if drafted else sides
    picture.load()
    turn = _turn(picture)
    fitted = _fit(to_rgb(picture), image_size, sides)
    return fitted if turn is None else fitted.transpose(turn)


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
    is_heif = _is_heif(data)
    if is_heif and not can_read_heif():
        raise PhotoError("HEIC needs pip install 'horovod_asl[heic]'")
    formats = ("HEIF",) if is_heif else _formats()
    try:
        with _no_limit_of_pillows():
            picture: Image.Image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise PhotoError("damaged: no readable HEIC" if is_heif else _not_a_picture(data)) from error
    width, height = picture.size
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise PhotoError(f"too large: {round(megapixels, 1):g} megapixels, the limit is {max_megapixels:g}")
    return picture


def _not_a_picture(data: bytes) -> str:
    is_film = data[4:8] == b"ftyp"
    return (
        "a video: `prepare` takes folders of videos, and here photos are read" if is_film else "not a picture"
    )


def _is_heif(data: bytes) -> bool:
    """Whether the file calls itself HEIC in its first box."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    brands = {box[place : place + 4] for place in range(0, len(box), 4)}
    return box[:4] in _HEIF_BRANDS or (box[:4] in _ANY_IMAGE_BRANDS and bool(brands & _HEIF_BRANDS))


@lru_cache(maxsize=1)
def can_read_heif() -> bool:
    """Whether pillow-heif is installed; if so, Pillow has it from now on."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )  # the workers are processes already
    return True


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


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright, by its EXIF or XMP."""
    if picture.format == "JPEG" and not {"exif", "xmp"} & picture.info.keys():
        return None  # asking a JPEG that has none costs a tenth of its decode
    return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))


def _fit(picture: Image.Image, image_size: int, sides: tuple[float, float]) -> Image.Image:
    """Resized, antialiased, so that the longer side is `image_size` pixels.

    `sides` are the picture's width and height in its pixels: broken numbers where 900 were decoded to an eighth,
    112.5, and stand in 113.
    """
    width, height = sides
    scale = image_size / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size[0] == width and size[1] == height:
        return picture
    return picture.resize(size, Image.Resampling.BILINEAR, box=(0, 0, width, height))


def _pad_to_square(picture: Image.Image, image_size: int) -> Pixels:
    """uint8 (image_size, image_size, 3): the picture in the middle, its border repeated on the short side."""
    pixels = np.asarray(picture)
    if pixels.shape[:2] != (image_size, image_size):
        missing = [image_size - side for side in pixels.shape[:2]]
        pads = [(gap // 2, gap - gap // 2) for gap in missing]
        pixels = np.pad(pixels, [*pads, (0, 0)], mode="edge")
    return cast(Pixels, pixels)
