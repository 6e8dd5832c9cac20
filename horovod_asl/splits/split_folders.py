"""The split that the folders of a source already make: `train/`, `valid/`, `test/` and their like.

A folder names a side if a word in its name is one of `SIDE_WORDS` in any case, perhaps with `set`, `data`, `images`
or digits behind it: `Train`, `training_set`, `asl_alphabet_test_64`, `ASLTest`. `evaluation` is the test side; beside
a test folder it is validation. A source has split folders if its photos stand on at least two sides; photos in none
of these folders are training where there is a test folder beside them. A folder that all photos share says nothing:
`asl_alphabet_train` alone is no split. Where a folder says `train` and nothing says what lies beside it, a source is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from horovod_asl.discovery.find_photos import FoundPhoto
from horovod_asl.errors import UserError
from horovod_asl.splits.recordings import ONE_RECORDING, shared_depth, words_of
from horovod_asl.splits.split import SPLITS

SIDE_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "validate": "validation",
    "dev": "validation",
    "test": "test",
    "tests": "test",
    "testing": "test",
    "holdout": "test",
    **dict.fromkeys(("eval", "evaluate", "evaluation"), "evaluation"),
}
_SHORT = {"tr": "train", "te": "test", "ts": "test"}
"""Whole names, in any case."""
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
    chosen = _chosen_of_all(photos)
    seen = {side for side, _ in chosen if side}
    if "test" in seen and any(not side for side, _ in chosen):
        seen.add("train")
    if len(seen) < 2:
        return None
    return SplitFolders(tuple(side or "train" for side, _ in chosen), tuple(folder for _, folder in chosen))


def refuse_unclear(name: str, photos: Sequence[FoundPhoto]) -> None:
    """UserError if some photos of the source `name` lie in a folder called train, and the others in folders beside it
    of which nothing says whether they are to be trained on."""
    chosen = _chosen_of_all(photos)
    others = [photo.path for photo, (side, _) in zip(photos, chosen, strict=True) if not side]
    train = next((folder for _, folder in chosen if folder), None)
    if train is not None and others:
        raise UserError(
            f"{name}: {train}/ is training by its name, but what lies beside it is not said, such as {others[0]}: "
            "rename that folder to test or valid, leave it out with --exclude, or have recordings held out whatever "
            "the folders are called (--split recordings)"
        )


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


def _chosen_of_all(photos: Sequence[FoundPhoto]) -> list[tuple[str | None, str]]:
    """`_chosen` of each photo, less the folders that all share, with a split in place of `evaluation`."""
    above = shared_depth([photo.group_folders for photo in photos])
    chosen = [_chosen(photo.group_folders[above:]) for photo in photos]
    evaluation = "validation" if any(side == "test" for side, _ in chosen) else "test"
    return [(evaluation if side == "evaluation" else side, folder) for side, folder in chosen]


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
    """The side that a folder names: `train`, `validation`, `test` or `evaluation`; None if it names none, or two."""
    if short := _SHORT.get(folder.casefold()):
        return short
    matches = [_SIDE_WORD.fullmatch(word) for word in words_of(folder)]
    sides = {SIDE_WORDS[match[1]] for match in matches if match}
    return sides.pop() if len(sides) == 1 else None
