"""Find photos: a folder of class folders, the Kaggle layout however nested, its flat test folder, or the zip
unopened; and videos in their place, of which some frames are photos.

A photo's class is the nearest folder above it whose name is a class (`a`, `A`, `Space`; see `class_names`), or what
--class-from-name finds in the name of its file. The name of a video, without its suffix, counts as a folder of its
frames: `A.mp4` and `A/take1.mp4` are of class A. Files beside class folders are no photos of ours; a folder beside
class folders with another name is an unknown class. Left aside are files and folders of systems, stores that
`prepare` has made here, what `--exclude` names, the video of a live photo, and in class folders files whose suffix is
not a picture's; a file without a suffix may be one.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from horovod_asl.discovery.advice import no_photos_line, refuse_heif_without_extra
from horovod_asl.discovery.class_names import OURS, USUAL, ClassNames, counts_line
from horovod_asl.discovery.file_names import (
    beside_pictures,
    is_film,
    is_picture,
    is_system_file,
    not_excluded,
    other_suffix,
    pictures_among,
)
from horovod_asl.discovery.listing import list_files
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX, canonical_class
from horovod_asl.photos.films import frames_of
from horovod_asl.photos.origins import FileOrigin, Origin

_FLAT_TEST_NAME = re.compile(r"(?P<label>[A-Za-z]+)_test\.(jpe?g|png)", re.IGNORECASE)

ClassOf = Callable[[str], tuple[int | None, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class FoundPhoto:
    """A file under a class: its path within the source (posix), label 0–28, and the folders that may name a
    recording."""

    path: str
    label: int
    origin: Origin
    group_folders: tuple[str, ...] = ()
    film: str = ""
    """The path of the video whose frame it is; empty for a file."""


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
    class_lines: tuple[str, ...] = ()
    """Which class the words of --classes and --class-from-name are, and which files these leave out."""
    film_lines: tuple[str, ...] = ()
    """How many videos there are, and those that end early."""


def pictures_in(path: Path) -> list[tuple[str, Origin]]:
    """All pictures, by their names' endings, in a folder or a zip, however deep: names in order, and where to
    read them."""
    listing = list_files(path)
    return [(f"{path}/{name}", listing.origin_of(name)) for name in pictures_among(listing.files)]


def find_photos(path: Path, exclude: Sequence[str] = (), classes: ClassNames = USUAL) -> Found:
    """The photos of a folder or zip at `path`, those aside that a pattern in `exclude` matches.

    UserError if it is neither, holds no photo of a class, or some that cannot be read without an extra.
    """
    listing = list_files(path)
    names, excluded = not_excluded(
        sorted(name for name in listing.files if not is_system_file(name)), exclude
    )
    if classes.pattern is None:
        fitted = classes.fitted_to(_unnamed_words(names) if classes.in_order else (), str(path))
        found = sort_into_classes(names, listing.folders, listing.origin_of, fitted)
    else:
        found = _sort_by_names(path, names, listing.origin_of, classes)
    if not found.photos:
        raise UserError(no_photos_line(path, listing.files, found.unknown, classes))
    refuse_heif_without_extra(path, [photo.path for photo in found.photos])
    found = _with_frames(path, replace(found, excluded=excluded))
    if classes.pattern is None:
        return found
    counts = f"classes by the names of files: {counts_line(photo.label for photo in found.photos)}"
    return replace(found, class_lines=(counts, *found.class_lines))


def sort_into_classes(
    names: Sequence[str],
    folders: Iterable[str],
    origin_of: Callable[[str], Origin],
    classes: ClassNames = USUAL,
) -> Found:
    """Sort relative posix paths of files, in order, into classes by their folders; pure, so that folders and zips
    obey one rule."""
    class_of = lru_cache(maxsize=1024)(partial(_class_of, classes=classes))
    photos: list[FoundPhoto] = []
    outside: list[str] = []
    other_files: Counter[str] = Counter()
    beside = beside_pictures(names)
    for name in names:
        label, groups = class_of(_folder_of(name))
        if label is None:
            outside.append(name)
        elif suffix := other_suffix(name) or beside.get(name, ""):
            other_files[suffix] += 1
        else:
            photos.append(FoundPhoto(name, label, origin_of(name), groups))
    if not photos:
        photos = _flat_test_photos(outside, origin_of)
        unknown = {} if photos else _top_folders(outside)
        ignored = len(outside) - len(photos)
        return Found(tuple(photos), unknown, ignored=ignored, other_files=other_files)
    with_photos = {_folder_of(photo.path) for photo in photos}
    roots = {_class_root(folder, classes) for folder in with_photos}
    strays = {
        name: folder for name in outside if not other_suffix(name) and (folder := _unknown_class(name, roots))
    }
    used = {
        str(above) for name in with_photos for above in (PurePosixPath(name), *PurePosixPath(name).parents)
    }
    empty = tuple(
        name for name in sorted(folders) if name not in used and classes.class_of(PurePosixPath(name).name)
    )
    line = classes.line(part for folder in with_photos for part in folder.split("/"))
    return Found(
        photos=tuple(photos),
        unknown=dict(Counter(strays.values())),
        empty=empty,
        ignored=len(outside) - len(strays),
        strays=tuple((name, strays[name]) for name in sorted(strays) if is_picture(name) or is_film(name)),
        other_files=other_files,
        class_lines=(line,) if line else (),
    )


def _sort_by_names(
    path: Path, names: Sequence[str], origin_of: Callable[[str], Origin], classes: ClassNames
) -> Found:
    """Sort files into classes by what --class-from-name finds in their names."""
    pictures = [name for name in names if not other_suffix(name)]
    named = {name: classes.in_name(name.rpartition("/")[2]) for name in pictures}
    words = [word for word, _ in named.values() if word is not None]
    flag = f"--class-from-name {shlex.quote(classes.pattern.pattern)}" if classes.pattern else ""
    if not words:
        some = ", ".join(name.rpartition("/")[2] for name in pictures[:3])
        raise UserError(
            f"{flag} finds no class in {path}, whose files are called {some or 'nothing'}: correct it"
        )
    classes = classes.fitted_to(words, str(path))
    photos: list[FoundPhoto] = []
    unknown: Counter[str] = Counter()
    for name, (word, rest) in named.items():
        folders = PurePosixPath(name).parts[:-1]
        if word is None:
            continue
        if (label := classes.class_of(word)) is None:
            unknown[word] += 1
        else:
            groups = (*folders, rest.strip(" _-.")) if is_film(name) and rest.strip(" _-.") else folders
            photos.append(FoundPhoto(name, CLASS_INDEX[label], origin_of(name), groups))
    if unknown:
        raise UserError(_unknown_words(path, flag, unknown))
    misses = [name for name, (word, _) in named.items() if word is None]
    left_out = f"left out {len(misses)} files whose names {flag} does not match, such as "
    lines = [classes.line(words), left_out + misses[0] if misses else ""]
    others = Counter(suffix for name in names if (suffix := other_suffix(name)))
    return Found(tuple(photos), {}, other_files=others, class_lines=tuple(line for line in lines if line))


def _unknown_words(path: Path, flag: str, words: Mapping[str, int]) -> str:
    listed = ", ".join(f"{word!r} ({count})" for word, count in sorted(words.items())[:8])
    return (
        f"{flag} finds words in the names of {path} that are no class ({OURS}): {listed}; give their classes with "
        "--classes FILE (lines `WORD: CLASS`), or correct the expression so that it does not match them"
    )


def _with_frames(path: Path, found: Found) -> Found:
    """With frames in place of each video. UserError for videos in a zip, and without the library that reads them."""
    films = [photo for photo in found.photos if is_film(photo.path)]
    if not films:
        return found
    photos = [photo for photo in found.photos if not is_film(photo.path)]
    lines: list[str] = []
    frames = 0
    for film in films:
        if not isinstance(film.origin, FileOrigin):
            raise UserError(f"{path} holds videos, such as {film.path}: unpack the zip, then name the folder")
        sampled, fault = frames_of(film.origin.path)
        frames += len(sampled)
        lines += [f"{film.path} {fault}"] if fault else []
        photos += [
            replace(film, path=f"{film.path}#{number:06d}", origin=origin, film=film.path)
            for number, origin in sampled
        ]
    lines.insert(0, f"{frames} frames of {len(films)} videos")
    return replace(found, photos=tuple(sorted(photos, key=lambda photo: photo.path)), film_lines=tuple(lines))


def _unnamed_words(names: Iterable[str]) -> set[str]:
    """The names of folders that hold pictures (or of videos in no folder) and are no class by themselves."""
    pictures = [name for name in names if not other_suffix(name)]
    folders = {_folder_of(name) for name in pictures}
    named = {folder for folder in folders if any(map(canonical_class, folder.split("/")))}
    return {_word_of(name) for name in pictures if _folder_of(name) not in named} - {""}


def _word_of(name: str) -> str:
    """The name of the folder that holds a file, of a video in no folder its own."""
    folder = name.rpartition("/")[0] or (_folder_of(name) if is_film(name) else "")
    return folder.rpartition("/")[2]


def _folder_of(name: str) -> str:
    """The path of the folder that holds a file; what is said of it is worked out once, and not for each file. A
    video is the folder of its frames."""
    return name.rpartition(".")[0] if is_film(name) else name.rpartition("/")[0]


def _class_of(folder: str, classes: ClassNames) -> tuple[int | None, tuple[str, ...]]:
    """Label of the nearest class folder at or above a folder, and the other folders on the way (candidates for
    a recording). UserError if --classes makes several of them different classes."""
    parts = PurePosixPath(folder).parts
    named = {part: label for part in reversed(parts) if (label := classes.class_of(part))}
    if not named:
        return None, ()
    if len(set(named.values())) > 1 and any(map(classes.is_given, named)):
        both = " and ".join(f"{word} → {label}" for word, label in list(named.items())[:2])
        raise UserError(
            f"{folder} holds two classes, {both}: rename the folder that is none, or leave it out of {classes.file}"
        )
    depth = max(i for i, part in enumerate(parts) if part in named)
    return CLASS_INDEX[named[parts[depth]]], parts[:depth] + parts[depth + 1 :]


def _class_root(folder: str, classes: ClassNames) -> tuple[str, ...]:
    """The folders above the class folder at or above a folder."""
    parts = PurePosixPath(folder).parts
    depth = max(i for i, part in enumerate(parts) if classes.class_of(part) is not None)
    return parts[:depth]


def _unknown_class(name: str, roots: set[tuple[str, ...]]) -> str | None:
    """The folder beside class folders in which this file lies, or None."""
    parents = PurePosixPath(_folder_of(name)).parts
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
    return dict(Counter(_word_of(name) or "." for name in names))
