"""What the user names as SOURCE → photos with a class, a recording and a place to read them from.

SOURCE is a folder of class folders, a zip of one, `kaggle` or `synthetic`; `NAME=PATH` gives it a name of the
user's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from horovod_asl.command_line.checks import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, require_range
from horovod_asl.command_line.cli import expand_home
from horovod_asl.discovery.class_names import USUAL, ClassNames, refuse_idle_classes
from horovod_asl.discovery.file_names import ignored_line, mixed_line, refuse_idle
from horovod_asl.discovery.find_photos import Found, find_photos
from horovod_asl.discovery.unknown_folders import no_class_words
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX, CLASSES, canonical_class
from horovod_asl.photos.origins import Origin
from horovod_asl.splits.recordings import group_recordings, recording_order
from horovod_asl.splits.split_folders import (
    refuse_unclear,
    separate_sides,
    split_folders,
    without_side_folders,
)

DRAWN = "drawn"
"""What stands in place of a rule of recordings for the built-in sample."""


@dataclass(frozen=True)
class SyntheticOptions:
    """How much the built-in sample holds."""

    recordings: int = 4
    photos_per_class_per_recording: int = 40
    seed: int = 0
    image_px: int | None = None
    """Side of a drawn photo; None: that of the store's pictures."""
    variety: float = 0.0
    """How much its signers differ in how they sign, see `signers`."""

    def __post_init__(self) -> None:
        require_range("--synthetic-size", self.image_px, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, unit="pixels")
        require_range("--synthetic-variety", self.variety, 0, 2)
        require_range("--synthetic-recordings", self.recordings, 1)
        require_range("--synthetic-photos", self.photos_per_class_per_recording, 1)
        require_range("--seed", self.seed, 0)


@dataclass(frozen=True, slots=True)
class SourcePhoto:
    """One photo to prepare: label 0–28, and the recording within its source."""

    source: str
    path: str
    label: int
    recording: str
    origin: Origin
    side: str = ""
    """The split that its folder names (see `split_folders`); empty: none."""


@dataclass(frozen=True)
class Source:
    """A source by name: its photos ordered by path, and the rule that grouped them into recordings."""

    name: str
    photos: tuple[SourcePhoto, ...]
    group_by: str
    unknown: dict[str, int]
    """Folders that are no class, and how many files each holds."""
    empty: tuple[str, ...] = ()
    """Class folders without a file."""
    ignored: int = 0
    """Files outside the class folders."""
    other_files: Mapping[str, int] = field(default_factory=dict)
    """Files in class folders that are not pictures, by their suffix."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Files that each pattern of --exclude matches."""
    notes: tuple[str, ...] = ()
    """Which class the names of --classes and --class-from-name are, and what was found of videos."""
    split_folders: tuple[str, ...] = ()
    """The folders that make its split, such as `train` and `test`."""
    outside_folders: int = 0
    """Photos in none of them, which are training."""
    shared_recordings: tuple[str, ...] = ()
    """People and takes that stand on several sides of these folders."""

    @property
    def recordings(self) -> list[str]:
        """The different recordings, in their order."""
        return recording_order([photo.recording for photo in self.photos])


def open_sources(
    texts: Sequence[str],
    *,
    group_by: Sequence[str] = ("auto",),
    image_size: int,
    synthetic: SyntheticOptions,
    by_folders: bool = True,
    exclude: Sequence[str] = (),
    classes: ClassNames = USUAL,
) -> list[Source]:
    """All sources, ordered by name (so that the order on the command line does not matter).

    `group_by` holds a rule for all sources, or `NAME=RULE` for one of them. With `by_folders`, folders such as
    `train/` and `test/` make the split of their source; without, they say nothing of a photo. `exclude` holds
    patterns of files to leave out; UserError for one that matches none. `classes` says what names of folders and of
    files mean.
    """
    named = [_split_name(text) for text in texts]
    names = [name for name, _ in named]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"two sources are called {twice[0]}: give one another name, OTHER=PATH")
    rules = _rules(group_by, dict(named))
    sources = [
        _synthetic_source(name, image_size, synthetic)
        if place == "synthetic"
        else _photo_source(name, _found(place, exclude, classes), rules[name], by_folders)
        for name, place in named
    ]
    refuse_idle(exclude, {pattern for source in sources for pattern in source.excluded})
    refuse_idle_classes(classes, [note for source in sources for note in source.notes])
    return sorted(sources, key=lambda source: source.name)


def check_classes(sources: Sequence[Source], *, allow_missing: bool, skip_unknown: bool) -> None:
    """UserError, with counts and the flag that allows it, if classes are unknown, missing or empty."""
    for source in sources:
        if source.unknown and not skip_unknown:
            them = "it" if len(source.unknown) == 1 else "them"
            raise UserError(
                f"{source.name}: {no_class_words(source.unknown)}; rename {them}, name their class with --classes "
                f"FILE, or leave {them} out with --skip-unknown"
            )
    check_covered({photo.label for source in sources for photo in source.photos}, sources, allow_missing)


def check_covered(labels: set[int], sources: Sequence[Source], allow_missing: bool) -> None:
    """UserError if the sources together have no photo of some class."""
    empty = {canonical_class(Path(folder).name) for source in sources for folder in source.empty}
    missing = [
        f"{name} (empty folder)" if name in empty else name
        for name in CLASSES
        if CLASS_INDEX[name] not in labels
    ]
    if missing and not allow_missing:
        names = " + ".join(f"{source.name} ({len(source.photos)} photos)" for source in sources)
        raise UserError(
            f"{names} has no photo of {len(missing)} of {len(CLASSES)} classes: {', '.join(missing)}; "
            "add a source that has them, or go on without them with --allow-missing"
        )


def left_out_lines(sources: Sequence[Source]) -> list[str]:
    """A line for each kind of file that is not taken, and a hint where some of the rest may be no photos."""
    return [line for source in sources for line in _left_out_lines(source)]


def _left_out_lines(source: Source) -> list[str]:
    lines = [f"{source.name}: {note}" for note in source.notes]
    if source.ignored:
        lines.append(f"{source.name}: {source.ignored} files outside the class folders are left aside")
    if source.other_files:
        lines.append(f"{source.name}: {ignored_line(source.other_files)}")
    for pattern, count in source.excluded.items():
        lines.append(f"{source.name}: left out {count} files by --exclude {pattern!r}")
    if source.unknown:
        lines.append(f"{source.name}: left out: {no_class_words(source.unknown)}")
    if hint := mixed_line([photo.path for photo in source.photos]):
        lines.append(f"note: {source.name}: {hint}")
    return lines


def _split_name(text: str) -> tuple[str, str]:
    """`(name, place)` of a SOURCE argument; a path that holds `=` and exists is a path."""
    name, equals, place = text.partition("=")
    if not equals or Path(text).exists():
        path = Path(text)
        return (text if text in ("kaggle", "synthetic") else _default_name(path)), text
    if not name or not place or "/" in name:
        raise UserError(f"{text!r} does not exist; a source is a PATH or NAME=PATH, NAME without a slash")
    return name, place


def _default_name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.stem if resolved.suffix.lower() == ".zip" else resolved.name


def _rules(group_by: Sequence[str], places: Mapping[str, str]) -> dict[str, str]:
    """The rule of each source, given the place of each by its name."""
    general: list[str] = []
    special: dict[str, str] = {}
    for text in group_by:
        name, equals, rule = text.partition("=")
        if equals and name in places:
            special[name] = rule
        else:
            general.append(text)
    if len(general) > 1:
        raise UserError(f"--group-by has two rules for all sources, {' and '.join(general)}: write NAME=RULE")
    _refuse_idle_rules(special, general, places)
    return {name: special.get(name, general[0] if general else "auto") for name in places}


def _refuse_idle_rules(special: Mapping[str, str], general: Sequence[str], places: Mapping[str, str]) -> None:
    """UserError for a rule that would change nothing: drawn photos have the recordings they were drawn in."""
    drawn = {name for name, place in places.items() if place == "synthetic"}
    idle = [f"{name}={rule}" for name, rule in special.items() if name in drawn and rule != "auto"]
    if not idle and drawn == places.keys() - special.keys():
        idle = [rule for rule in general if rule != "auto"]
    if idle:
        raise UserError(
            f"--group-by {idle[0]} has no effect: synthetic photos have the recordings they were drawn in "
            "(--synthetic-recordings says how many); leave it out"
        )


def _found(place: str, exclude: Sequence[str], classes: ClassNames) -> Found:
    if place == "kaggle":
        from horovod_asl.sources.kaggle import download_asl_alphabet

        return find_photos(download_asl_alphabet(), exclude, classes)
    return find_photos(Path(expand_home(place)), exclude, classes)


def _photo_source(name: str, found: Found, rule: str, by_folders: bool) -> Source:
    split = split_folders(found.photos)
    if split is None:
        if by_folders:
            refuse_unclear(name, found.photos)
        return _source(name, found, *group_recordings(found.photos, rule))
    photos = without_side_folders(found.photos)
    if not by_folders:
        return _source(name, found, *group_recordings(photos, rule))
    # A stray name may pass here: what is held out does not depend on recordings.
    recordings, used = group_recordings(photos, rule, allow_strays=True)
    recordings, shared = separate_sides(recordings, split)
    source = _source(name, found, recordings, "split folders" if used == "source" else used, split.sides)
    return replace(
        source,
        split_folders=tuple(split.names),
        outside_folders=split.without_folder,
        shared_recordings=tuple(shared),
    )


def _source(
    name: str, found: Found, recordings: Sequence[str], rule: str, sides: Sequence[str] | None = None
) -> Source:
    photos = tuple(
        SourcePhoto(name, photo.path, photo.label, recording, photo.origin, side)
        for photo, recording, side in zip(
            found.photos, recordings, sides or [""] * len(recordings), strict=True
        )
    )
    notes = (*found.class_lines, *found.film_lines)
    return Source(
        name, photos, rule, found.unknown, found.empty, found.ignored, found.other_files, found.excluded, notes
    )


def _synthetic_source(name: str, image_size: int, options: SyntheticOptions) -> Source:
    from horovod_asl.sources.drawn import rendered_photos

    photos = [
        SourcePhoto(name, path, CLASS_INDEX[label], recording, origin)
        for path, label, recording, origin in rendered_photos(
            options.image_px or image_size,
            recordings=options.recordings,
            photos_per_class_per_recording=options.photos_per_class_per_recording,
            seed=options.seed,
            variety=options.variety,
        )
    ]
    return Source(name, tuple(sorted(photos, key=lambda photo: photo.path)), DRAWN, {})
