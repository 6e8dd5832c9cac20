"""Group photos into recordings: one take of one person. A split never cuts through a recording.

Rules (`--group-by`):
- `frames`: names of the ASL Alphabet, `A1.jpg` … `A3000.jpg`, `del12.jpg`: four takes, cut after frames 1000,
  2000, 2500.
- `subfolder`: the folders above or below the class folder (`anna/A/1.jpg`, `A/anna/1.jpg`).
- `source`: everything in the source is one recording, `all`.
- a regular expression: its group `recording`, or its first group, found in the path within the source.
- `auto`: the first that fits every photo of a person's number in the name (`hand1_…`, `signer-2/…`),
  `subfolder` if photos of one class lie in several folders (with `frames` inside them where the names fit:
  `anna/1` … `anna/4`), `frames`, `source`. Folders that hold versions of the same photos (`original`, `augmented`)
  are not looked at. What was chosen is reported.

What stands before the first slash of a recording's name is the person (`anna` of `anna/1`): by default all
recordings of a person are on one side of a split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from horovod_asl.discovery.class_names import natural_order
from horovod_asl.discovery.find_photos import FoundPhoto
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES

FRAME_CUTS = (1000, 2000, 2500)
"""The ASL Alphabet's takes end after these frames; the last frame is 3000."""
LAST_FRAME = 3000

PERSON_PATTERN = r"(?<![a-z])(?P<recording>(?:hand|signer|subject|person|user)[ _-]?\d+)(?!\d)"
PHOTOS_PER_PERSON_AND_CLASS = 2
"""With fewer in the mean, `hand12` is the twelfth picture of a hand and not the twelfth person."""
MOST_FRACTION = 0.9
"""If a rule fits this fraction of the photos, the others are strays and not a reason to take another rule."""

VERSIONS = {
    *("original", "originals", "raw", "processed", "preprocessed", "resized", "cropped"),
    *("augmented", "augmentation", "aug", "flipped", "mirrored", "rotated"),
    *("gray", "grey", "grayscale", "color", "colour", "rgb", "depth", "mask", "masks", "binary", "edges"),
}
"""Words of folders with the same photos in another form: as recordings, these would put a photo and its copy on two
sides."""
_PHOTO_WORDS = {"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "frame", "frames", "data"}
_TAKE = re.compile(
    r"(?:session|sess|day|take|set|batch|part|round|trial|recording|rec|video|vid|clip|scene|lighting|light|run|seq"
    r"|sequence|camera|cam|view)s?[ _-]?\d+|\d+",
    re.IGNORECASE,
)
"""A folder that names a take of some person, and not the person."""
_PERSON_AND_TAKE = re.compile(r"(.*[^\W\d_].*?)[ _-]+((?:session|day|take)s?[ _-]?\d+)", re.IGNORECASE)
"""A folder that names both, such as `anna_day1`."""

ONE_RECORDING = "all"
"""The recording of photos of which nothing says who is in them."""

_MOST_LISTED = 8


def group_recordings(
    photos: Sequence[FoundPhoto], rule: str = "auto", *, allow_strays: bool = False
) -> tuple[list[str], str]:
    """A recording name for each photo, and the rule that gave it (as `auto` chose).

    UserError if an explicit rule doesn't fit every photo, with counts and an example; or if a rule of `auto` fits
    nearly all of them, unless `allow_strays`.
    """
    names, used = _grouped(photos, rule, allow_strays)
    _refuse_split_films(photos, names, rule)
    return names, used


def _grouped(photos: Sequence[FoundPhoto], rule: str, allow_strays: bool) -> tuple[list[str], str]:
    if rule == "auto":
        return _by_first_that_fits(photos, allow_strays)
    if rule == "frames":
        return _complete(photos, _frame_blocks(photos), rule), rule
    if rule == "subfolder":
        return _complete(photos, _subfolders([photo.group_folders for photo in photos]), rule), rule
    if rule == "source":
        return [ONE_RECORDING] * len(photos), rule
    return _complete(photos, _by_pattern(photos, _compiled(rule)), rule), rule


def _refuse_split_films(photos: Sequence[FoundPhoto], names: Sequence[str], rule: str) -> None:
    """The frames of a video are all but equal: they are one recording, whatever the rule."""
    pairs = {(photo.film, name) for photo, name in zip(photos, names, strict=True) if photo.film}
    if cut := [film for film, count in Counter(film for film, _ in pairs).items() if count > 1]:
        raise UserError(
            f"--group-by {rule!r} makes several recordings of the video {cut[0]}, whose frames are all but equal: "
            "choose a rule that does not look behind the # of their names"
        )


def recording_order(names: Sequence[str]) -> list[str]:
    """The different recordings in their order: numbers by value, so that hand2 comes before hand10."""
    return natural_order(set(names))


def by_source(parts: Sequence[str]) -> dict[str, list[str]]:
    """`source/recording`s, those of each source together, in the order they come."""
    together: dict[str, list[str]] = {}
    for part in parts:
        together.setdefault(part.partition("/")[0], []).append(part)
    return together


def summed_up(parts: Sequence[str]) -> dict[str, list[str]]:
    """`source/recording`s by what to call them: each by itself, those of a source that has many by one name."""
    called: dict[str, list[str]] = {}
    for source, own in by_source(parts).items():
        many = len(own) > _MOST_LISTED
        called |= {f"{source} ({len(own)} recordings)": own} if many else {part: [part] for part in own}
    return called


def listed(parts: Sequence[str]) -> str:
    """`source/recording`s, or a folder, for a line of text."""
    return ", ".join(summed_up(parts))


def person_of(recording: str) -> str:
    """The person whose recording it is: `anna` of `anna/1`."""
    return recording.partition("/")[0]


def _by_first_that_fits(photos: Sequence[FoundPhoto], allow_strays: bool) -> tuple[list[str], str]:
    if names := _fitting(photos, _people(photos), "person", allow_strays):
        return names, "person"
    folders = _subfolders([_without_versions(photo.group_folders) for photo in photos])
    are_told = _tell_people(photos, folders)
    folders = _people_first(folders)
    if frames := _fitting(photos, _frame_blocks(photos), "frames", allow_strays):
        if not are_told:
            return frames, "frames"
        # Photos beside the folders are somebody's too: they must not be mixed with those in the folders.
        people = [folder or ONE_RECORDING for folder in folders]
        return [f"{who}/{take}" for who, take in zip(people, frames, strict=True)], "subfolder and frames"
    if are_told and None not in folders:
        return [folder for folder in folders if folder], "subfolder"
    return [ONE_RECORDING] * len(photos), "source"


@lru_cache(maxsize=1024)
def _without_versions(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(folder for folder in folders if not _is_version(folder))


def _is_version(folder: str) -> bool:
    words = set(words_of(folder))
    return bool(words & VERSIONS) and words <= VERSIONS | _PHOTO_WORDS


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: `asl_alphabet_test`, `Test Set` and `ASLTest` all have the word test."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word for word in re.split(r"[\s._-]+", spaced.casefold()) if word]


def _fitting(
    photos: Sequence[FoundPhoto], names: Sequence[str | None], rule: str, allow_strays: bool
) -> list[str] | None:
    """The names if all photos have one; UserError if nearly all have, unless `allow_strays`."""
    found = [name for name in names if name is not None]
    if len(found) < len(photos):
        if len(found) >= MOST_FRACTION * len(photos) and not allow_strays:
            _refuse_strays(photos, names, rule)
        return None
    return found


def _people_first(folders: Sequence[str | None]) -> list[str | None]:
    """Names of recordings with the person in front: `session1/anna` becomes `anna/session1`.

    Where it cannot be told which folder names the person, because lower ones come again under several upper ones
    (`images/anna`, `more/anna`), these upper ones are one: `images+more/anna`. Nobody may be on two sides.
    """
    together = {name: _in_order(name) for name in set(folders) if name}
    apart = {name: _in_order(_PERSON_AND_TAKE.sub(r"\1/\2", name)) for name in together}
    # `clip_take1`, `clip_take2`: one name in front of all takes is nobody's.
    ordered = apart if len({parts[0] for parts in apart.values()}) > 1 else together
    uppers: dict[str, set[str]] = {}
    for parts in ordered.values():
        for lower in parts[1:]:
            if not _TAKE.fullmatch(lower):
                uppers.setdefault(lower, set()).add(parts[0])
    merged = _merged(list(uppers.values()))
    names = {name: "/".join((merged.get(parts[0], parts[0]), *parts[1:])) for name, parts in ordered.items()}
    return [names[name] if name else name for name in folders]


def _in_order(name: str) -> tuple[str, ...]:
    """The folders of a recording, those that name takes behind the others."""
    parts = name.split("/")
    return tuple(sorted(parts, key=lambda part: _TAKE.fullmatch(part) is not None))


def _merged(groups: Sequence[set[str]]) -> dict[str, str]:
    """For each member of groups that share members, directly or by others, one name for all of these."""
    joined: list[set[str]] = []
    for group in groups:
        touching = [one for one in joined if one & group]
        joined = [one for one in joined if not one & group] + [group.union(*touching)]
    return {member: "+".join(recording_order(list(group))) for group in joined for member in group}


def _tell_people(photos: Sequence[FoundPhoto], folders: Sequence[str | None]) -> bool:
    """Whether some class has photos in several folders: `letters/A` and `signs/del` only sort the classes."""
    pairs = {(photo.label, folder) for photo, folder in zip(photos, folders, strict=True)}
    return len(pairs) > len({photo.label for photo in photos})


def _refuse_strays(photos: Sequence[FoundPhoto], names: Sequence[str | None], rule: str) -> None:
    """One stray file must not turn a set of recordings into a single one that is all training."""
    strays = [photo.path for photo, name in zip(photos, names, strict=True) if name is None]
    raise UserError(
        f"{len(photos) - len(strays)} of {len(photos)} names tell their recording ({rule}), but {len(strays)} do "
        f"not, such as {strays[0]}: remove or rename them, or choose a rule with --group-by (`source`: all are one)"
    )


def _frame_blocks(photos: Sequence[FoundPhoto]) -> list[str | None]:
    return [_frame_block(photo) for photo in photos]


def _frame_block(photo: FoundPhoto) -> str | None:
    """`1` … `4` for `A1.jpg` … `A3000.jpg` in class A; None for any other name."""
    if photo.film:
        return None
    name = photo.path.rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    stem = stem if stem and ending else name  # as pathlib has it, in a tenth of the time
    number = stem.removeprefix(CLASSES[photo.label])
    if number == stem or not number.isdecimal() or not 1 <= int(number) <= LAST_FRAME:
        return None
    return str(1 + sum(int(number) > cut for cut in FRAME_CUTS))


def _subfolders(folders: Sequence[tuple[str, ...]]) -> list[str | None]:
    """The folders beside the class folder, less those that all photos share; in no others, the last of these."""
    shared = shared_depth(folders)
    last_shared = folders[0][shared - 1] if shared else None
    return ["/".join(parts[shared:]) or last_shared for parts in folders]


def shared_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """How many folders, from the top, all photos share."""
    distinct = set(folders)
    first = next(iter(distinct), ())
    return next(
        (depth for depth in range(len(first)) if len({parts[: depth + 1] for parts in distinct}) > 1),
        len(first),
    )


def _by_pattern(photos: Sequence[FoundPhoto], pattern: re.Pattern[str]) -> list[str | None]:
    group = "recording" if "recording" in pattern.groupindex else 1
    matches = [pattern.search(photo.path) for photo in photos]
    return [match[group] or None if match else None for match in matches]


def _people(photos: Sequence[FoundPhoto]) -> list[str | None]:
    """The person's number in each name; none where a number means so few photos that it counts photos."""
    matches = _by_pattern(photos, re.compile(PERSON_PATTERN, re.IGNORECASE))
    names = [name.casefold() if name else None for name in matches]
    people = {name for name in names if name}
    classes = {photo.label for photo in photos}
    if len(photos) < PHOTOS_PER_PERSON_AND_CLASS * len(people) * len(classes):
        return [None] * len(photos)
    return names


def _compiled(rule: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(
            f"--group-by {rule!r} is no rule (auto, frames, subfolder, source) and no regular "
            f"expression: {error}"
        ) from error
    if not pattern.groups:
        raise UserError(
            f"--group-by {rule!r} has no group: put parentheses round the part that names the recording, "
            "or use auto, frames, subfolder or source"
        )
    return pattern


def _complete(photos: Sequence[FoundPhoto], names: Sequence[str | None], rule: str) -> list[str]:
    misses = [photo.path for photo, name in zip(photos, names, strict=True) if not name]
    if misses:
        raise UserError(
            f"--group-by {rule!r} misses {len(misses)} of {len(photos)} photos, such as {misses[0]}: "
            "correct the rule, or use --group-by auto"
        )
    return [name for name in names if name]
