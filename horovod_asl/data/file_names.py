"""What the name of a file says: whether it is a picture, a system's own file, or one that the user leaves out; and
whether the names fall into two halves, such as `color_*` and `depth_*`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePosixPath

from horovod_asl.errors import UserError

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".heic", ".heif"),
)
"""How names of pictures end; HEIC cannot be read, but is a photo that somebody meant."""

SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
SYSTEM_FOLDERS = {
    *("@eadir", "@tmp", "@recycle", "@sharebin", "#recycle", "#snapshot", "~snapshot"),  # NAS
    *("$recycle.bin", "recycler", "system volume information"),  # Windows
    *("__macosx", "network trash folder", "temporary items"),  # macOS
    *("lost+found", "__pycache__"),
}
"""In lower case. Names that begin with a dot, such as `.AppleDouble`, are left aside as well."""

NO_PHOTO_WORDS = {"depth", "mask", "masks", "ir", "infrared", "thermal", "seg", "segmentation", "flow", "skeleton"}
"""Words in names of files that show a hand, but not as a camera sees it."""
_FEWEST_HALVED = 20
_MOST_LISTED = 6


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


def other_suffix(path: str) -> str:
    """The suffix of a file that is not a picture, in lower case; empty for a picture, and for a name without a
    suffix, which may be one. Digits alone are no suffix (`frame.0001`)."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    is_suffix = bool(stem and dot and suffix) and not suffix.isdecimal()
    return "" if not is_suffix or is_picture(path) else f".{suffix.lower()}"


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


def halving_pattern(paths: Sequence[str]) -> str | None:
    """A pattern for --exclude that matches half of the files, where the names say that a set is halved; else None.

    It is halved where all names differ in one word alone, in front or behind, and each has a partner in its folder:
    `color_1.png` and `depth_1.png`, or `1.png` and `1_mask.png`; or where half of the files lie in folders with a
    name such as `depth`. Of two words the pattern has that which is likelier no photo.
    """
    if len(paths) < _FEWEST_HALVED:
        return None
    return _halving_word(paths, _in_front) or _halving_word(paths, _behind) or _halving_folder(paths)


def _halving_word(paths: Sequence[str], parts_of: Callable[[str], tuple[str, str, str]]) -> str | None:
    rests: dict[str, set[str]] = {}
    patterns: dict[str, str] = {}
    for path in paths:
        word, pattern, rest = parts_of(path)
        rests.setdefault(word, set()).add(rest)
        patterns[word] = pattern
        if len(rests) > 2:
            return None
    if len(rests) != 2:
        return None
    first, second = sorted(rests, key=lambda word: (word.casefold() in NO_PHOTO_WORDS, word))
    is_halved = rests[first] == rests[second] and 2 * len(rests[first]) == len(paths)
    return patterns[second] if is_halved else None


def _in_front(path: str) -> tuple[str, str, str]:
    """The word in front of a file's name, the pattern of such names, and the rest of the path without its suffix."""
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    word, gap, rest = re.fullmatch(r"([A-Za-z]*)([ _-]*)(.*)", stem, re.DOTALL).groups()  # type: ignore[union-attr]
    return word, f"{word}{gap}*", f"{folder}/{rest}"


def _behind(path: str) -> tuple[str, str, str]:
    """The same of the word behind."""
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    rest, gap, word = re.fullmatch(r"(.*?)([ _-]*)([A-Za-z]*)", stem, re.DOTALL).groups()  # type: ignore[union-attr]
    return word, f"*{gap}{word}.*", f"{folder}/{rest}"


def _halving_folder(paths: Sequence[str]) -> str | None:
    folders = Counter(
        part
        for path in paths
        for part in set(path.split("/")[:-1])
        if part.casefold() in NO_PHOTO_WORDS
    )
    return next((name for name, count in folders.items() if 2 * count == len(paths)), None)
