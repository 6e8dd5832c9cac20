"""Zips of other systems are read; archives that are not get one line that says how to go on."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from horovod_asl.discovery.find_photos import find_photos, pictures_in
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES


def zipped(path: Path, *names: str, **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), name)
    return path


def test_a_zip_whose_names_have_backslashes_reads_as_any_other(tmp_path):
    windows = zipped(tmp_path / "w.zip", "set\\A\\", "set\\A\\1.jpg", "set\\Space\\2.jpg", "set\\B\\")
    found = find_photos(windows)
    assert {photo.path: CLASSES[photo.label] for photo in found.photos} == {
        "set/A/1.jpg": "A",
        "set/Space/2.jpg": "space",
    }
    assert [photo.origin.read() for photo in found.photos] == [b"set\\A\\1.jpg", b"set\\Space\\2.jpg"]
    assert found.empty == ("set/B",)
    assert [name for name, _ in pictures_in(windows)] == [
        f"{windows}/set/A/1.jpg",
        f"{windows}/set/Space/2.jpg",
    ]


def test_a_backslash_in_a_name_of_another_system_is_part_of_it(tmp_path):
    found = find_photos(zipped(tmp_path / "u.zip", "A/1.jpg", "A/B\\2.jpg"))
    assert [photo.path for photo in found.photos] == ["A/1.jpg", "A/B\\2.jpg"]


def test_zip64_is_read(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "64.zip", "w") as archive,
        archive.open("A/1.jpg", "w", force_zip64=True) as file,
    ):
        file.write(b"photo")
    assert find_photos(tmp_path / "64.zip").photos[0].origin.read() == b"photo"


def in_directory(path: Path, offset: int, value: int) -> None:
    """Set two bytes of the first entry of a zip's directory."""
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + offset
    data[place : place + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)


def test_what_zipfile_cannot_read_is_refused_before_any_photo(tmp_path):
    locked = zipped(tmp_path / "locked.zip", "A/1.jpg", "A/2.jpg")
    in_directory(locked, 8, 1)
    with pytest.raises(UserError, match=r"locked\.zip is encrypted: unpack it \(7z x .*locked\.zip\)"):
        find_photos(locked)
    large = zipped(tmp_path / "large.zip", "A/1.jpg")
    in_directory(large, 10, 9)
    with pytest.raises(UserError, match=r"packed with Deflate64 .*unpack it \(7z x "):
        find_photos(large)


@pytest.mark.parametrize(
    ("name", "command"),
    [("a.tar.gz", "tar xf"), ("b.tar", "tar xf"), ("c.tgz", "tar xf"), ("d", "tar xf"), ("e.tar.xz", "tar xf")],
)
def test_a_tar_is_refused_with_the_command_that_unpacks_it(tmp_path, name, command):
    mode = {"gz": "w:gz", "tgz": "w:gz", "xz": "w:xz"}.get(name.rpartition(".")[2], "w")
    with tarfile.open(tmp_path / name, mode) as archive:
        archive.add(__file__, "A/1.jpg")
    with pytest.raises(UserError, match=rf"unpack it \({command} .*{name}\), then name the folder$"):
        find_photos(tmp_path / name)


@pytest.mark.parametrize(("name", "command"), [("x.7z", "7z x"), ("x.RAR", "unrar x")])
def test_other_archives_are_known_by_their_suffix(tmp_path, name, command):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(UserError, match=rf"unpack it \({command} "):
        find_photos(tmp_path / name)


def test_archives_in_a_source_without_photos_are_named(tmp_path):
    outer = zipped(tmp_path / "outer.zip", "deep/inner.zip", "readme.md")
    with pytest.raises(UserError, match=r"another archive, deep/inner\.zip: unpack the outer one \(unzip "):
        find_photos(outer)
    with pytest.raises(UserError, match=r"holds no photo in class folders, but the archive outer\.zip: unpack it"):
        find_photos(tmp_path)


def test_a_zip_of_folders_alone(tmp_path):
    with pytest.raises(UserError, match=r"dirs\.zip holds no file"):
        find_photos(zipped(tmp_path / "dirs.zip", "A/", "B/"))
