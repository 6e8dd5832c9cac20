"""Find photos: a folder of class folders, the Kaggle layout however nested, its flat test folder, or the zip
unopened.

A photo's class is the nearest folder above it whose name is a class (`a`, `A`, `Space`; see
`labels.canonical_class`). Files beside class folders are no photos of ours; a folder beside class folders
with another name is an unknown class.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Protocol

from horovod_asl.data.decode import PhotoError
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX, canonical_class

MAX_FILE_MEGABYTES = 256
"""A file above this is not read: no photo is that large."""

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".heic", ".heif"),
)
"""How names of pictures end; HEIC cannot be read, but is a photo that somebody meant."""

_FLAT_TEST_NAME = re.compile(r"(?P<label>[A-Za-z]+)_test\.(jpe?g|png)", re.IGNORECASE)
_NOT_PHOTOS = {"thumbs.db", "desktop.ini", "__macosx"}


class Origin(Protocol):
    """Where a photo's bytes are; picklable, so that a worker on any rank reads them itself."""

    def read(self) -> bytes:
        """The file's bytes; PhotoError if they cannot be read."""


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """A file on a disk that every worker sees."""

    path: str

    def read(self) -> bytes:
        """The file's bytes; PhotoError if it cannot be read or is larger than MAX_FILE_MEGABYTES."""
        try:
            with FileIO(self.path) as file:
                _refuse_large(os.fstat(file.fileno()).st_size)
                return file.readall()
        except OSError as error:
            raise PhotoError(f"cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class ZipOrigin:
    """A member of a zip archive, read without unpacking the archive."""

    archive: str
    member: str

    def read(self) -> bytes:
        """The member's bytes; PhotoError if it is damaged, encrypted or too large."""
        try:
            archive = _open_zip(self.archive)
            _refuse_large(archive.getinfo(self.member).file_size)
            return archive.read(self.member)
        except PhotoError:
            raise
        except Exception as error:  # zipfile and zlib raise half a dozen kinds on damaged members
            raise PhotoError(f"damaged in the zip: {error}") from error


@dataclass(frozen=True, slots=True)
class FoundPhoto:
    """A file under a class: its path within the source (posix), label 0–28, and the folders that may name a
    recording."""

    path: str
    label: int
    origin: Origin
    group_folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a source holds: photos ordered by path, photos per unknown class folder, empty class folders,
    files left aside."""

    photos: tuple[FoundPhoto, ...]
    unknown: dict[str, int]
    empty: tuple[str, ...] = ()
    ignored: int = 0
    strays: tuple[tuple[str, str], ...] = ()
    """(path, folder) of the pictures in unknown class folders."""


def pictures_in(path: Path) -> list[tuple[str, Origin]]:
    """All pictures, by their names' endings, in a folder or a zip, however deep: names in order, and where to
    read them."""
    if path.is_dir():
        inside = within(path)
        return [(inside + name, FileOrigin(inside + name)) for name in _pictures_among(_walk(path)[0])]
    return [(f"{path}/{name}", ZipOrigin(str(path), name)) for name in _pictures_among(_names_in_zip(path))]


def find_photos(path: Path) -> Found:
    """The photos of a folder or zip at `path`; UserError if it is neither or holds no class folder."""
    if path.is_dir():
        files, folders = _walk(path)
        inside = within(path)
        found = sort_into_classes(files, folders, lambda name: FileOrigin(inside + name))
    elif path.is_file() and zipfile.is_zipfile(path):
        names = _names_in_zip(path)
        files = [name for name in names if not name.endswith("/")]
        folders = [name.rstrip("/") for name in names if name.endswith("/")]
        found = sort_into_classes(files, folders, lambda name: ZipOrigin(str(path), name))
    elif path.is_file():
        raise UserError(
            f"{path} is a file but no readable zip: give a folder of class folders, or download the zip again"
        )
    else:
        raise UserError(
            f"{path} does not exist: give a folder of class folders, a zip, `kaggle` or `synthetic`"
        )
    if not found.photos:
        raise UserError(_no_photos_message(path, found))
    return found


def within(folder: Path) -> str:
    """What stands before the name of a file in `folder`: a Path for each of 87,000 takes seconds."""
    return str(folder / "_")[:-1]


def sort_into_classes(
    files: Iterable[str], folders: Iterable[str], origin_of: Callable[[str], Origin]
) -> Found:
    """Sort relative posix paths into classes by their folders; pure, so that folders and zips obey one
    rule."""
    names = sorted(name for name in files if not _is_hidden(name))
    photos: list[FoundPhoto] = []
    outside: list[str] = []
    for name in names:
        label, groups = _class_of(_folder_of(name))
        if label is None:
            outside.append(name)
        else:
            photos.append(FoundPhoto(name, label, origin_of(name), groups))
    if not photos:
        photos = _flat_test_photos(outside, origin_of)
        unknown = {} if photos else _top_folders(outside)
        return Found(tuple(photos), unknown, ignored=len(outside) - len(photos))
    with_photos = {_folder_of(photo.path) for photo in photos}
    roots = {_class_root(folder) for folder in with_photos}
    strays = {name: folder for name in outside if (folder := _unknown_class(name, roots))}
    used = {
        str(above) for name in with_photos for above in (PurePosixPath(name), *PurePosixPath(name).parents)
    }
    empty = tuple(
        name for name in sorted(folders) if name not in used and canonical_class(PurePosixPath(name).name)
    )
    pictures = tuple((name, strays[name]) for name in _pictures_among(strays))
    unknown = dict(Counter(strays.values()))
    return Found(tuple(photos), unknown, empty, len(outside) - len(strays), pictures)


def _pictures_among(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not _is_hidden(name) and name.lower().endswith(PICTURE_SUFFIXES))


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Relative posix paths of all files and folders; links to folders are followed, a loop is not entered
    twice."""
    files: list[str] = []
    folders: list[str] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(parent)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        inside = within(Path(parent).relative_to(root))
        files += [inside + name for name in names]
        folders += [inside + name for name in subfolders]
    return files, folders


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): mend its permissions") from error


def _names_in_zip(path: Path) -> list[str]:
    try:
        return _open_zip(str(path)).namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error


def _folder_of(name: str) -> str:
    """The path of the folder that holds a file; what is said of it is worked out once, and not for each file."""
    return name.rpartition("/")[0]


def _is_hidden(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return _is_hidden_part(file) or _is_hidden_folder(folder)


def _is_hidden_part(part: str) -> bool:
    return part.startswith(".") or part.lower() in _NOT_PHOTOS


@lru_cache(maxsize=1024)
def _is_hidden_folder(folder: str) -> bool:
    return any(_is_hidden_part(part) for part in PurePosixPath(folder).parts)


@lru_cache(maxsize=1024)
def _class_of(folder: str) -> tuple[int | None, tuple[str, ...]]:
    """Label of the nearest class folder at or above a folder, and the other folders on the way (candidates for
    a recording)."""
    parts = PurePosixPath(folder).parts
    for depth in reversed(range(len(parts))):
        if (label := canonical_class(parts[depth])) is not None:
            return CLASS_INDEX[label], parts[:depth] + parts[depth + 1 :]
    return None, ()


def _class_root(folder: str) -> tuple[str, ...]:
    """The folders above the class folder at or above a folder."""
    parts = PurePosixPath(folder).parts
    depth = max(i for i, part in enumerate(parts) if canonical_class(part) is not None)
    return parts[:depth]


def _unknown_class(name: str, roots: set[tuple[str, ...]]) -> str | None:
    """The folder beside class folders in which this file lies, or None."""
    parents = PurePosixPath(name).parts[:-1]
    for depth in reversed(range(len(parents))):
        is_root_above = any(root[: depth + 1] == parents[: depth + 1] for root in roots)
        if parents[:depth] in roots and not is_root_above:
            return parents[depth]
    return None


def _flat_test_photos(names: list[str], origin_of: Callable[[str], Origin]) -> list[FoundPhoto]:
    """The official test folder holds `A_test.jpg` … with no class folders."""
    photos = []
    for name in names:
        match = _FLAT_TEST_NAME.fullmatch(PurePosixPath(name).name)
        label = canonical_class(match["label"]) if match else None
        if label is not None:
            photos.append(FoundPhoto(name, CLASS_INDEX[label], origin_of(name)))
    return photos


def _top_folders(names: list[str]) -> dict[str, int]:
    return dict(Counter(PurePosixPath(name).parent.name or "." for name in names))


def _no_photos_message(path: Path, found: Found) -> str:
    seen = ", ".join(f"{name} ({count})" for name, count in list(found.unknown.items())[:5])
    return (
        f"{path} holds no class folders (A … Z, del, nothing, space) with photos"
        f"{f'; folders with files there: {seen}' if seen else ''}: give the folder that holds them"
    )


def _refuse_large(size_bytes: int) -> None:
    if size_bytes > MAX_FILE_MEGABYTES * 2**20:
        raise PhotoError(f"too large: {size_bytes / 2**20:.0f} MB, the limit is {MAX_FILE_MEGABYTES}")


@lru_cache(maxsize=4)
def _open_zip(path: str) -> zipfile.ZipFile:
    """One open archive per process: reading the directory of 87,000 members takes longer than reading a
    photo."""
    return zipfile.ZipFile(path)
