"""What the name of a file says: whether it is a picture, a system's own file, or one that the user leaves out; and
whether the names say that a set mixes photos with depth maps, masks or second pictures."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePosixPath

from horovod_asl.errors import UserError

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".heic", ".heif"),
)
"""How names of pictures end; HEIC needs an extra (see `decode`)."""
_HEIF_SUFFIXES = (".heic", ".heif")
FILM_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".webm", ".mkv", ".3gp", ".mpg", ".mpeg", ".wmv")
"""How names of videos end."""

SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
SYSTEM_FOLDERS = {
    *("@eadir", "@tmp", "@recycle", "@sharebin", "#recycle", "#snapshot", "~snapshot"),  # NAS
    *("$recycle.bin", "recycler", "system volume information"),  # Windows
    *("__macosx", "network trash folder", "temporary items"),  # macOS
    *("lost+found", "__pycache__"),
}
"""In lower case. Names that begin with a dot, such as `.AppleDouble`, are left aside as well."""

NO_PHOTO_WORDS = {
    "depth",
    "mask",
    "masks",
    "ir",
    "infrared",
    "thermal",
    "seg",
    "segmentation",
    "flow",
    "skeleton",
}
"""Words in names of files that show a hand, but not as a camera sees it."""
COLOUR_WORDS = {"rgb", "color", "colour"}
PHOTO_WORDS = COLOUR_WORDS | {"image", "images", "img", "photo", "photos", "picture", "original", "orig"}
_FEWEST_MIXED = 20
_MIXED_FRACTIONS = (0.2, 0.8)
_MOST_LISTED = 6
_WORD = r"[^\W\d_]+"
_IN_FRONT = re.compile(rf"(?P<word>{_WORD})(?P<gap>[ _-]|(?=[0-9.]))(?P<rest>.*)\.[^.]*", re.DOTALL)
_BEHIND = re.compile(rf"(?P<rest>.*?)(?P<gap>[ _.-]|(?<=[0-9]))(?P<word>{_WORD})\.[^.]*", re.DOTALL)


def is_system_file(path: str) -> bool:
    """Whether a file, by its posix path, is a system's own or hidden, or lies in such a folder."""
    folder, _, file = path.rpartition("/")
    return file.startswith(".") or file.lower() in SYSTEM_FILES or _is_in_system_folder(folder)


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is a system's own or hidden."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


@lru_cache(maxsize=1024)
def _is_in_system_folder(folder: str) -> bool:
    return any(is_system_folder(part) for part in PurePosixPath(folder).parts)


def is_picture(path: str) -> bool:
    """Whether the name ends as a picture's."""
    return path.lower().endswith(PICTURE_SUFFIXES)


def is_heif(path: str) -> bool:
    """Whether the name ends as a HEIC picture's, as iPhones take them."""
    return path.lower().endswith(_HEIF_SUFFIXES)


def is_film(path: str) -> bool:
    """Whether the name ends as a video's."""
    return path.lower().endswith(FILM_SUFFIXES)


def other_suffix(path: str) -> str:
    """The suffix of a file that is neither picture nor video, in lower case; empty for these, and for a name without
    a suffix, which may be a picture. Digits alone are no suffix (`frame.0001`)."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    is_suffix = bool(stem and dot and suffix) and not suffix.isdecimal()
    return "" if not is_suffix or is_picture(path) or is_film(path) else f".{suffix.lower()}"


def matching(path: str, patterns: Sequence[str]) -> list[str]:
    """The patterns of --exclude that match a file, by its posix path within its source.

    A pattern without a slash is compared with the file's name and with each folder above it, one with a slash with
    the end of the path, from some folder on.
    """
    parts = path.split("/")
    return [
        pattern
        for pattern in patterns
        if (
            any(fnmatchcase(part, pattern) for part in parts)
            if "/" not in pattern
            else fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")
        )
    ]


def not_excluded(names: list[str], patterns: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The names that no pattern matches, and how many each pattern does."""
    if not patterns:
        return names, {}
    matches = {name: matching(name, patterns) for name in names}
    counts = Counter(pattern for matched in matches.values() for pattern in matched)
    return [name for name, matched in matches.items() if not matched], dict(counts)


def pictures_among(names: Iterable[str]) -> list[str]:
    """The names of pictures, in order, those of files of systems aside."""
    return sorted(name for name in names if not is_system_file(name) and is_picture(name))


def beside_pictures(names: Sequence[str]) -> dict[str, str]:
    """The suffixes of videos that have a picture of the same name beside them: they belong to live photos."""
    films = [name for name in names if is_film(name)]
    pictures = {name.rpartition(".")[0] for name in names if is_picture(name)} if films else set()
    return {name: PurePosixPath(name).suffix.lower() for name in films if name.rpartition(".")[0] in pictures}


def refuse_idle(patterns: Sequence[str], matched: Collection[str]) -> None:
    """UserError for a pattern of --exclude that is not among those that matched a file."""
    if idle := [pattern for pattern in patterns if pattern not in matched]:
        raise UserError(f"--exclude {idle[0]!r} matches no file: correct the pattern or leave it out")


def ignored_line(suffixes: Mapping[str, int]) -> str:
    """`ignored 345 files that are not pictures (.xml 300, .json 45)`."""
    counts = Counter(suffixes)
    most = [f"{suffix} {count}" for suffix, count in counts.most_common(_MOST_LISTED)]
    more = ["…"] if len(counts) > _MOST_LISTED else []
    total = counts.total()
    what = "1 file that is not a picture" if total == 1 else f"{total} files that are not pictures"
    return f"ignored {what} ({', '.join([*most, *more])})"


def mixed_line(paths: Sequence[str]) -> str:
    """What to leave out with --exclude, where the names say that a set is not of photos alone; else an empty line.

    They say so where words of NO_PHOTO_WORDS begin or end a good part of the names, or stand in names of folders; or
    where all names differ in one word alone, in front or behind, and each has a partner in its folder
    (`left_1.png` and `right_1.png`, or `1.png` and `1_flipped.png`).
    """
    if len(paths) < _FEWEST_MIXED:
        return ""
    patterns = _no_photo_patterns(paths)
    halves = [] if patterns else _halves(paths, _IN_FRONT) or _halves(paths, _BEHIND)
    if len(halves) == 2:
        return (
            f"{' and '.join(map(shlex.quote, halves))} each match half of the files; if one half is depth maps, "
            "masks or second pictures of the other, leave it out with --exclude"
        )
    if not (patterns := patterns or halves):
        return ""
    flags = " ".join(f"--exclude {shlex.quote(pattern)}" for pattern in patterns)
    return (
        f"by their names, {_matched(paths, patterns)} of {len(paths)} files may be depth maps, masks or second "
        f"pictures of the others; if so, leave them out with {flags}"
    )


def _matched(paths: Sequence[str], patterns: Sequence[str]) -> int:
    return sum(bool(matching(path, patterns)) for path in paths)


def _no_photo_patterns(paths: Sequence[str]) -> list[str]:
    """Patterns of names with a word of NO_PHOTO_WORDS, if a good part of the files has one and others have none."""
    least, most = (part * len(paths) for part in _MIXED_FRACTIONS)
    of_each = []
    for path in paths:
        words = [_taken_apart(path, form)[:2] for form in (_IN_FRONT, _BEHIND)]
        names = {pattern for word, pattern in words if word in NO_PHOTO_WORDS}
        of_each.append(names | _no_photo_folders(path.rpartition("/")[0]))
    counts = Counter(pattern for patterns in of_each for pattern in patterns)
    # A folder above the whole set says nothing, and a pattern of files may match folders of photos as well.
    sound = [one for one, count in counts.items() if count <= most and count == _matched(paths, [one])]
    matched = sum(not patterns.isdisjoint(sound) for patterns in of_each)
    return sorted(sound) if least <= matched <= most else []


@lru_cache(maxsize=1024)
def _no_photo_folders(folder: str) -> set[str]:
    """Patterns of folders on a path with a word of NO_PHOTO_WORDS, those aside that hold colour photos as well."""
    words = {part: set(re.findall(_WORD, part.casefold())) for part in folder.split("/")}
    return {
        glob.escape(part) for part in words if words[part] & NO_PHOTO_WORDS and not words[part] & COLOUR_WORDS
    }


def _halves(paths: Sequence[str], form: re.Pattern[str]) -> list[str]:
    """The patterns of both halves of a set of pairs, except that of names with a photo's word or without a word."""
    rests: dict[tuple[str, str], set[str]] = {}
    for path in paths:
        word, pattern, rest = _taken_apart(path, form)
        rests.setdefault((word, pattern), set()).add(rest)
        if len(rests) > 2:
            return []
    first, *others = rests.values()
    if others != [first] or 2 * len(first) != len(paths):
        return []
    patterns = sorted(pattern for word, pattern in rests if word and word not in PHOTO_WORDS)
    return patterns if all(2 * _matched(paths, [pattern]) == len(paths) for pattern in patterns) else []


def _taken_apart(path: str, form: re.Pattern[str]) -> tuple[str, str, str]:
    """The word in front of a file's name or behind, in lower case, the pattern of such names, and the rest of the
    path without its suffix. Word and pattern are empty where there is no such word."""
    folder, _, name = path.rpartition("/")
    match = form.fullmatch(name)
    if match is None:
        return "", "", f"{folder}/{name.rpartition('.')[0]}"
    word, gap = match["word"], match["gap"] or "[0-9.]"
    pattern = f"{word}{gap}*" if form is _IN_FRONT else f"*{gap}{word}.*"
    return word.casefold(), pattern, f"{folder}/{match['rest']}"
