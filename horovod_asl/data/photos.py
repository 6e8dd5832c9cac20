"""Find photos: a folder of class folders, the Kaggle layout however nested, its flat test folder, or the zip
unopened.

A photo's class is the nearest folder above it whose name is a class (`a`, `A`, `Space`; see
`labels.canonical_class`). Files beside class folders are no photos of ours; a folder beside class folders
with another name is an unknown class. Left aside are files and folders of systems, stores that `prepare` has made
here, what `--exclude` names, and in class folders files whose suffix is not a picture's; a file without a suffix
may be one.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Protocol

from horovod_asl.data.decode import PhotoError
from horovod_asl.data.file_names import is_picture, is_system_file, is_system_folder, matching, other_suffix
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX, canonical_class

MAX_FILE_MEGABYTES = 256
"""A file above this is not read: no photo is that large."""

_FLAT_TEST_NAME = re.compile(r"(?P<label>[A-Za-z]+)_test\.(jpe?g|png)", re.IGNORECASE)
_STORE_MARKS = ("store.json", "index.csv")  # store.MANIFEST and INDEX; that module imports this one


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
    other_files: Mapping[str, int] = field(default_factory=dict)
    """Files in class folders that are not pictures, by their suffix."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Files that each pattern of --exclude matches."""


def pictures_in(path: Path) -> list[tuple[str, Origin]]:
    """All pictures, by their names' endings, in a folder or a zip, however deep: names in order, and where to
    read them."""
    if path.is_dir():
        inside = within(path)
        return [(inside + name, FileOrigin(inside + name)) for name in _pictures_among(_walk(path)[0])]
    return [(f"{path}/{name}", ZipOrigin(str(path), name)) for name in _pictures_among(_names_in_zip(path))]


def find_photos(path: Path, exclude: Sequence[str] = ()) -> Found:
    """The photos of a folder or zip at `path`, those aside that a pattern in `exclude` matches; UserError if it is
    neither or holds no class folder."""
    if path.is_dir():
        files, folders = _walk(path)
        inside = within(path)
        found = sort_into_classes(files, folders, lambda name: FileOrigin(inside + name), exclude)
    elif path.is_file() and zipfile.is_zipfile(path):
        names = _names_in_zip(path)
        files = [name for name in names if not name.endswith("/")]
        folders = [name.rstrip("/") for name in names if name.endswith("/")]
        found = sort_into_classes(files, folders, lambda name: ZipOrigin(str(path), name), exclude)
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
    files: Iterable[str],
    folders: Iterable[str],
    origin_of: Callable[[str], Origin],
    exclude: Sequence[str] = (),
) -> Found:
    """Sort relative posix paths into classes by their folders; pure, so that folders and zips obey one
    rule."""
    names, excluded = _not_excluded(sorted(name for name in files if not is_system_file(name)), exclude)
    photos: list[FoundPhoto] = []
    outside: list[str] = []
    other_files: Counter[str] = Counter()
    for name in names:
        label, groups = _class_of(_folder_of(name))
        if label is None:
            outside.append(name)
        elif suffix := other_suffix(name):
            other_files[suffix] += 1
        else:
            photos.append(FoundPhoto(name, label, origin_of(name), groups))
    if not photos:
        photos = _flat_test_photos(outside, origin_of)
        unknown = {} if photos else _top_folders(outside)
        ignored = len(outside) - len(photos)
        return Found(tuple(photos), unknown, ignored=ignored, other_files=other_files, excluded=excluded)
    with_photos = {_folder_of(photo.path) for photo in photos}
    roots = {_class_root(folder) for folder in with_photos}
    strays = {
        name: folder
        for name in outside
        if not other_suffix(name) and (folder := _unknown_class(name, roots))
    }
    used = {
        str(above) for name in with_photos for above in (PurePosixPath(name), *PurePosixPath(name).parents)
    }
    empty = tuple(
        name for name in sorted(folders) if name not in used and canonical_class(PurePosixPath(name).name)
    )
    pictures = tuple((name, strays[name]) for name in _pictures_among(strays))
    unknown = dict(Counter(strays.values()))
    ignored = len(outside) - len(strays)
    return Found(tuple(photos), unknown, empty, ignored, pictures, other_files, excluded)


def _not_excluded(names: list[str], patterns: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The names that no pattern matches, and how many each pattern does."""
    if not patterns:
        return names, {}
    matches = {name: matching(name, patterns) for name in names}
    counts = Counter(pattern for matched in matches.values() for pattern in matched)
    return [name for name, matched in matches.items() if not matched], dict(counts)


def _pictures_among(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not is_system_file(name) and is_picture(name))


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Relative posix paths of all files and folders but those of systems (which may not even be readable) and stores
    that were made here; links to folders are followed, a loop is not entered twice."""
    files: list[str] = []
    folders: list[str] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(parent)
        is_store = all(mark in names for mark in _STORE_MARKS) and Path(parent) != root
        if real in seen or is_store:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not is_system_folder(name)]
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
