"""What strangers send: deep greys of any depth, formats that would start programs, sizes above Pillow's limit."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.discovery.find_photos import find_photos
from horovod_asl.discovery.unknown_folders import no_class_words
from horovod_asl.errors import UserError
from horovod_asl.inference.folder import load_folder, load_photos
from horovod_asl.inference.readers import PixelReader
from horovod_asl.photos.decode import FORMATS, PhotoError, decode_photo
from tests.conftest import draw_photo

SIZE = 16


def grey() -> np.ndarray:
    """A picture of 8 bits with black and white in it: what every deeper version of it must come back to."""
    values = np.asarray(draw_photo(3, (SIZE, SIZE)).convert("L")).copy()
    values[0, 0], values[-1, -1] = 0, 255
    return values


def tiff(values: np.ndarray, bits: int, sample_format: int, data: bytes | None = None) -> bytes:
    """A plain little-endian TIFF, by the specification and without Pillow (TIFF 6.0, 1992, section 2)."""
    data = values.tobytes() if data is None else data
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags
    )
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def saved(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def off_by(data: bytes) -> int:
    decoded = decode_photo(data, SIZE).astype(int)
    return int(np.abs(decoded - grey()[:, :, None]).max())


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_any_depth_in_sixteen_bits_comes_back_to_its_eight(depth, kind):
    deep = np.rint(grey() * ((2**depth - 1) / 255)).astype(np.uint16)
    assert off_by(saved(Image.fromarray(deep), kind)) == 0


@pytest.mark.parametrize("depth", [8, 12, 16, 24, 31])
@pytest.mark.parametrize("sample_format", [1, 2])
def test_any_depth_in_integers_of_32_bits_comes_back_to_its_eight(depth, sample_format):
    deep = np.rint(grey() * ((2**depth - 1) / 255)).astype("<i4")
    assert off_by(tiff(deep, 32, sample_format)) == 0


def test_unsigned_integers_use_all_32_bits_and_negative_ones_are_black():
    deep = np.rint(grey() * ((2**32 - 1) / 255)).astype("<u4")
    assert off_by(tiff(deep, 32, 1)) == 0
    below = grey().astype("<i4")
    below[grey() == 0] = -900
    assert off_by(tiff(below, 32, 2)) == 0


def test_a_declared_depth_holds_for_a_dark_picture():
    dark = np.full((SIZE, SIZE), 200, np.uint16)  # of 4095: nearly black
    packed = bytes([200 >> 4, (200 & 15) << 4, 200]) * (SIZE * SIZE // 2)
    assert np.unique(decode_photo(tiff(dark, 12, 1, packed), SIZE)).tolist() == [round(200 / 4095 * 255)]


# -- formats --------------------------------------------------------------------------------------------------


def test_an_eps_named_jpg_starts_no_program(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    for name in ("gs", "gswin32c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(PhotoError, match=r"^not a picture$"):
        decode_photo(saved(draw_photo(1), "EPS"), SIZE)
    assert not ran.exists()
    assert not {"EPS", "WMF", "PSD", "FITS", "HDF5"} & set(FORMATS)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_formats_of_photos_are_read(kind):
    assert decode_photo(saved(draw_photo(1), kind), SIZE).shape == (SIZE, SIZE, 3)


# -- sizes ----------------------------------------------------------------------------------------------------


def test_the_callers_limit_stands_above_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # in the place of 89 million
    data = saved(Image.new("L", (1100, 1000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_photo(data, SIZE, max_megapixels=1.1).shape == (SIZE, SIZE, 3)
        with pytest.raises(PhotoError, match=r"^too large: 1\.1 megapixels, the limit is 1$"):
            decode_photo(data, SIZE, max_megapixels=1)
    assert Image.MAX_IMAGE_PIXELS == 1000


# -- folders and lists ----------------------------------------------------------------------------------------


def test_the_photos_of_an_unknown_folder_are_left_out_in_one_line(new_frames):
    folder = new_frames("some", classes=["A"], recordings=1)
    for name in ("hello/1.jpg", "hello/2.PNG", "hello/deep/3.jpg", "hello/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw_photo(1).save(folder / name, "PNG")
    assert find_photos(folder).unknown == {"hello": 3}
    loaded = load_folder(folder, reader=PixelReader(SIZE))
    assert (loaded.strays, loaded.problems) == (3, [])
    assert loaded.notes[0] == (
        f"left out: {folder}: folder hello (3 photos) is no class; rename what is to be scored"
    )
    other = load_folder(folder, reader=PixelReader(SIZE), rank=1, world_size=2)
    assert (other.strays, other.problems, other.notes) == (0, [], ())


def test_misspelt_folders_are_one_line_that_names_what_was_meant():
    assert no_class_words({"spcae": 3000}) == (
        "folder spcae (3,000 photos) is no class (did you mean space?)"
    )
    assert no_class_words({"stuff": 1}) == "folder stuff (1 photo) is no class"
    assert no_class_words({"AA": 20, "Nothing_": 1, "stuff": 4}) == (
        "3 folders (25 photos) are no class: AA (20 photos, did you mean A?), Nothing_ (1 photo, did you mean "
        "nothing?), stuff (4 photos)"
    )
    many = no_class_words({f"folder{number}": 10 for number in range(1200)})
    assert many.startswith("1,200 folders (12,000 photos) are no class: folder0 (10 photos), ")
    assert many.endswith(" and 1,195 more")
    assert len(many) < 200


def mixed(folder: Path) -> Path:
    folder.mkdir()
    draw_photo(1).save(folder / "a.jpg")
    draw_photo(2).save(folder / "photo.bin", "PNG")
    for name in ("README.md", "labels.csv", ".hidden.jpg"):
        (folder / name).write_text("no picture")
    (folder / "b.jpeg").write_bytes(b"wreck")
    return folder


def test_of_a_folder_only_pictures_are_read_and_a_named_file_is_always_tried(tmp_path):
    folder = mixed(tmp_path / "mixed")
    loaded = load_photos([folder], reader=PixelReader(SIZE))
    assert loaded.paths == [str(folder / "a.jpg")]
    assert loaded.problems == [(str(folder / "b.jpeg"), "not a picture")]
    named = load_photos([folder / "photo.bin", folder / "README.md"], reader=PixelReader(SIZE))
    assert named.paths == [str(folder / "photo.bin")]
    assert named.problems == [(str(folder / "README.md"), "not a picture")]


def test_a_zip_stands_for_the_pictures_in_it(tmp_path):
    folder = mixed(tmp_path / "mixed")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"deep/{file.name}")
    zipped, loose = (
        load_photos([tmp_path / "some.zip"], reader=PixelReader(SIZE)),
        load_photos([folder], reader=PixelReader(SIZE)),
    )
    assert zipped.paths == [f"{tmp_path}/some.zip/deep/a.jpg"]
    assert np.array_equal(zipped.images, loose.images)
    (tmp_path / "torn.zip").write_bytes((tmp_path / "some.zip").read_bytes()[:200])
    with pytest.raises(UserError, match=r"torn\.zip is damaged"):
        load_photos([tmp_path / "torn.zip"], reader=PixelReader(SIZE))
