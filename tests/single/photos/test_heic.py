"""iPhones' photos: upright, at any depth, within the limit of size; and the way on without the extra."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from horovod_asl.discovery import advice
from horovod_asl.discovery.find_photos import find_photos
from horovod_asl.errors import UserError
from horovod_asl.photos import decode
from horovod_asl.photos.decode import PhotoError, check_size, decode_photo
from tests.conftest import draw_photo

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
SIZE = 48


def heic(picture: Image.Image, **options: object) -> bytes:
    written = io.BytesIO()
    pillow_heif.from_pillow(picture).save(written, quality=95, chroma=444, **options)
    return written.getvalue()


def off(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_a_heic_photo_has_the_pixels_of_its_picture():
    picture = draw_photo(3, (SIZE, SIZE))
    assert off(decode_photo(heic(picture), SIZE), np.asarray(picture)) < 3


@pytest.mark.parametrize(("orientation", "turn"), [(3, 180), (6, -90), (8, 90)])
def test_it_is_turned_once(orientation, turn):
    """As in an iPhone's file, both EXIF and the container (irot) say how."""
    picture = draw_photo(4, (SIZE, SIZE))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = np.asarray(picture.rotate(turn, expand=True))
    written = io.BytesIO()
    assert decode.can_read_heif()
    picture.save(written, "HEIF", quality=95, chroma=444, exif=exif.tobytes())
    assert b"irot" in written.getvalue()
    assert off(decode_photo(written.getvalue(), SIZE), upright) < 3


def test_ten_bits_are_scaled():
    grey = np.linspace(0, 65535, SIZE * SIZE * 3).astype(np.uint16).reshape(SIZE, SIZE, 3)
    written = io.BytesIO()
    pillow_heif.encode("RGB;16", (SIZE, SIZE), grey.tobytes(), written, quality=-1, chroma=444)
    assert pillow_heif.open_heif(written, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert off(decode_photo(written.getvalue(), SIZE), grey / 257) < 3


def test_the_limit_of_size_holds_before_the_pixels_are_decoded(monkeypatch):
    data = heic(draw_photo(5, (200, 100)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for check in (lambda: check_size(data, 0.01), lambda: decode_photo(data, SIZE, max_megapixels=0.01)):
        with pytest.raises(PhotoError, match=r"too large: 0 megapixels, the limit is 0\.01"):
            check()


def test_a_broken_one_is_a_problem_of_that_photo_alone():
    data = heic(draw_photo(6, (200, 200)))
    for wreck in (data[:100], data[: len(data) // 2]):
        with pytest.raises(PhotoError, match=r"damaged|truncated"):
            decode_photo(wreck, SIZE)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    for place in (advice, decode):
        monkeypatch.setattr(place, "can_read_heif", lambda: False)
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "IMG_1.HEIC").write_bytes(heic(draw_photo(7)))
    draw_photo(8).save(tmp_path / "A" / "2.jpg")
    with pytest.raises(UserError, match=r"1 of 2 photos of .* are HEIC, such as A/IMG_1\.HEIC: pip install "):
        find_photos(tmp_path)
    assert len(find_photos(tmp_path, ["*.HEIC"]).photos) == 1
    with pytest.raises(PhotoError, match=r"HEIC needs pip install 'horovod_asl\[heic\]'"):
        decode_photo(heic(draw_photo(7)), SIZE)
