"""The split that the folders of a source already make: `train/`, `valid/`, `test/` and their like.

A folder names a side if its name, or the first or last word of it, is one of `SIDE_WORDS` in any case, perhaps with
`set`, `data`, `images` or digits behind it: `Train`, `training_set`, `asl_alphabet_test`, `test2`. A source has split
folders if its photos stand on at least two sides; photos in none of these folders are training where there is a
test folder beside them. A folder that all photos share says nothing: `asl_alphabet_train` alone is no split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from horovod_asl.data.photos import FoundPhoto
from horovod_asl.data.recordings import ONE_RECORDING, shared_depth
from horovod_asl.data.split import SPLITS

SIDE_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
_SIDE_WORD = re.compile(rf"({'|'.join(SIDE_WORDS)})(?:set|data|images)?\d*")


@dataclass(frozen=True)
class SplitFolders:
    """Of each photo of a source: its side (`train`, `validation`, `test`), and the folder that says so (or `""`)."""

    sides: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The different folders, those of training first."""
        sides = dict(zip(self.folders, self.sides, strict=True))
        return sorted((name for name in sides if name), key=lambda name: (SPLITS.index(sides[name]), name))

    @property
    def without_folder(self) -> int:
        """Photos in none of these folders."""
        return self.folders.count("")


def split_folders(photos: Sequence[FoundPhoto]) -> SplitFolders | None:
    """The split that the folders beside the class folders make; None if they make none."""
    above = shared_depth([photo.group_folders for photo in photos])
    chosen = [_chosen(photo.group_folders[above:]) for photo in photos]
    seen = {side for side, _ in chosen if side}
    if "test" in seen and any(not side for side, _ in chosen):
        seen.add("train")
    if len(seen) < 2:
        return None
    return SplitFolders(tuple(side or "train" for side, _ in chosen), tuple(folder for _, folder in chosen))


def without_side_folders(photos: Sequence[FoundPhoto]) -> list[FoundPhoto]:
    """The photos of a source that has split folders, grouped by their other folders alone."""
    above = shared_depth([photo.group_folders for photo in photos])
    return [replace(photo, group_folders=_others(photo.group_folders, above)) for photo in photos]


def separate_sides(recordings: Sequence[str], split: SplitFolders) -> tuple[list[str], list[str]]:
    """A recording for each photo that stands on one side alone, and those that stood on several.

    Where `anna` is on two sides she becomes `anna/train` and `anna/test`, by the folders' names. `ONE_RECORDING`,
    which says of nobody who it is, becomes `train` and `test`.
    """
    sides: dict[str, set[str]] = {}
    for name, side in zip(recordings, split.sides, strict=True):
        sides.setdefault(name, set()).add(side)
    on_several_sides = {name for name, own in sides.items() if len(own) > 1}
    apart = [
        (_below(name, folder or "train") if name in on_several_sides else name)
        for name, folder in zip(recordings, split.folders, strict=True)
    ]
    return apart, sorted(on_several_sides - {ONE_RECORDING})


def _below(name: str, folder: str) -> str:
    return folder if name == ONE_RECORDING else f"{name}/{folder}"


@lru_cache(maxsize=1024)
def _chosen(folders: tuple[str, ...]) -> tuple[str | None, str]:
    """The side of a photo in these folders and the folder that says it: a plain `test` before a `my_test`, then the
    outermost."""
    named = [(side, folder) for folder in folders if (side := side_named(folder))]
    plain = [one for one in named if one[1].casefold() in SIDE_WORDS]
    return next(iter(plain or named), (None, ""))


@lru_cache(maxsize=1024)
def _others(folders: tuple[str, ...], above: int) -> tuple[str, ...]:
    return (*folders[:above], *(folder for folder in folders[above:] if side_named(folder) is None))


def side_named(folder: str) -> str | None:
    """The side that a folder's name says: `train`, `validation` or `test`; None if it says none, or two."""
    words = [word for word in re.split(r"[\s._-]+", folder.casefold()) if word]
    sides = [_SIDE_WORD.fullmatch(word) for word in words]
    said = [match for match in sides if match]
    return SIDE_WORDS[said[0][1]] if len(said) == 1 and (sides[0] or sides[-1]) else None
