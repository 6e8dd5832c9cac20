"""The rows of a store: each good photo with its split, and nothing on two sides.

A photo that stands on two sides of a split is refused, dropped from the earlier side, or (random) reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.prepare.chunks import PixelBank
from horovod_asl.prepare.decode_stage import Decoded
from horovod_asl.prepare.writer import IndexRow, Problem
from horovod_asl.sources.sources import Source, SourcePhoto
from horovod_asl.splits.leaks import Leaks, Rows, find_leaks
from horovod_asl.splits.split import SplitRule, random_split, split_recordings
from horovod_asl.store.store_files import is_copy, original_of


@dataclass(frozen=True)
class Assigned:
    """What the split made of the photos."""

    rows: tuple[IndexRow, ...]
    """The rows of the index, each good photo with its split."""
    dropped: tuple[Problem, ...] = ()
    """Photos left out because they stand on two sides."""
    lines: tuple[str, ...] = ()
    """What the user is to know of it."""


def assign_splits(
    photos: Sequence[SourcePhoto], decoded: Decoded, split: SplitRule, *, drop_duplicates: bool
) -> Assigned:
    """Give each good photo its split, and its copies the same.

    UserError if the split cannot be made, or leaks and `drop_duplicates` is off.
    """
    rows = _rows(photos, decoded, split)
    by_folders = not split.names_recordings and any(photo.side for photo in photos)
    settled = _settle_leaks(originals(rows), decoded.bank, split, by_folders=by_folders, drop=drop_duplicates)
    if len(settled.rows) == len(rows):
        return settled
    with_their_copies = {(row.source, row.path) for row in settled.rows}
    kept = [row for row in rows if (row.source, original_of(row.path)) in with_their_copies]
    return replace(settled, rows=tuple(kept))


def originals(rows: Sequence[IndexRow]) -> list[IndexRow]:
    """The rows but for copies."""
    return [row for row in rows if not is_copy(row.path)]


def check_sides(rows: Sequence[IndexRow], *, allow_missing: bool) -> list[str]:
    """UserError if a class is held out but not in training; a line of warning if nothing is held out for a test."""
    trained = {row.label for row in rows if row.split == "train"}
    present = {row.label for row in rows}
    untrained = [name for name in CLASSES if name in present - trained]
    if untrained and not allow_missing:
        raise UserError(
            f"the training split has no photo of {len(untrained)} of {len(present)} classes: "
            f"{', '.join(untrained)}; they are all held out: hold out other recordings (--test, --validation), "
            "choose a --group-by that does not take each class for a recording, or add --allow-missing"
        )
    if not rows or any(row.split == "test" for row in rows):
        return []
    return [
        "warning: no photo is held out for a test, so no score will say how well new hands are read: have "
        "recordings told apart (--group-by), name one (--test), or hold a source out (--test-source NAME)"
    ]


def obeys_folders(source: Source, split: SplitRule) -> bool:
    """Whether the folders of a source make its split."""
    return bool(source.split_folders) and not split.names_recordings and source.name != split.test_source


def split_folder_lines(sources: Sequence[Source], split: SplitRule) -> list[str]:
    """A line for each source whose folders make a split, and a warning where the same people stand on two sides."""
    return [line for source in sources if source.split_folders for line in _split_folder_lines(source, split)]


def _split_folder_lines(source: Source, split: SplitRule) -> list[str]:
    folders = ", ".join(f"{folder}/" for folder in source.split_folders)
    if split.names_recordings:
        return [f"{source.name}: its folders {folders} are not the split: --validation and --test are"]
    if source.name == split.test_source:
        return []
    lines = [
        f"{source.name}: its folders {folders} are the split{_further(source, split)} "
        "(--split recordings ignores them)"
    ]
    if source.shared_recordings:
        shared = _first(source.shared_recordings)
        lines.append(
            f"warning: {source.name}: these folders share recordings ({shared}), so the scores say "
            "nothing about new people (--split recordings keeps each on one side)"
        )
    return lines


def _first(names: Sequence[str], count: int = 6) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _further(source: Source, split: SplitRule) -> str:
    sides = {photo.side for photo in source.photos}
    outside = f"; {source.outside_folders} photos in none of them are training"
    facts = [
        "" if "validation" in sides or split.test_source else ", without validation",
        "; --test-source makes their test photos validation" if split.test_source else "",
        outside if source.outside_folders else "",
    ]
    return "".join(facts)


def describe_source(source: Source, rows: Sequence[IndexRow], split: SplitRule) -> dict[str, Any]:
    """What the store says of a source: its photos in the store, how they were grouped, which folders split them."""
    counts = Counter(row.recording for row in originals(rows) if row.source == source.name)
    recordings = {name: counts[name] for name in source.recordings}
    described = {
        "name": source.name,
        "photos": counts.total(),
        "group_by": source.group_by,
        "recordings": recordings,
    }
    return described | ({"split_folders": list(source.split_folders)} if obeys_folders(source, split) else {})


def describe_split(split: SplitRule, sources: Sequence[Source], samples: int | None) -> dict[str, Any]:
    """What the store says of its split: the rule's values as JSON gives them back. `kind` is what became of it:
    `random`, `folders` if the folders of any source make its split, otherwise `recording`."""
    by_folders = any(obeys_folders(source, split) for source in sources)
    kind = split.kind if split.kind == "random" else "folders" if by_folders else "recording"
    return {
        **asdict(split),
        "kind": kind,
        "validation": list(split.validation),
        "test": list(split.test),
        "samples": samples,
    }


def _rows(photos: Sequence[SourcePhoto], decoded: Decoded, split: SplitRule) -> list[IndexRow]:
    good = [(photo, digest) for photo, digest in zip(photos, decoded.digests, strict=True) if digest]
    splits = _splits([photo for photo, _ in good], split)
    return [
        IndexRow(
            source=photo.source,
            path=photo.path,
            sha256=digest,
            label=CLASSES[photo.label],
            recording=photo.recording,
            split=side,
            phash=f"{decoded.bank.hash(digest):016x}",
        )
        for (photo, digest), side in zip(good, splits, strict=True)
    ]


def _splits(photos: Sequence[SourcePhoto], rule: SplitRule) -> list[str]:
    if rule.kind == "random":
        if rule.validation or rule.test or rule.test_source:
            raise UserError("--split random draws photos: leave out --validation, --test and --test-source")
        labels = np.array([photo.label for photo in photos], np.int64)
        return [str(side) for side in random_split(labels, rule.fraction, rule.seed)]
    recordings: dict[str, list[str]] = {}
    for photo in photos:
        recordings.setdefault(photo.source, []).append(photo.recording)
    sides = split_recordings(
        recordings,
        folders={(photo.source, photo.recording): photo.side for photo in photos if photo.side},
        validation=rule.validation,
        test=rule.test,
        test_source=rule.test_source,
    )
    return [sides[photo.source, photo.recording] for photo in photos]


def _settle_leaks(
    rows: Sequence[IndexRow], bank: PixelBank, split: SplitRule, *, by_folders: bool, drop: bool
) -> Assigned:
    """The rows that may stay, and those dropped from the earlier side (train, validation), with the reason.

    UserError if there are leaks and neither `drop` nor a random split, which reports them and keeps
    everything.
    """
    splits = np.array([row.split for row in rows], dtype=object)
    leaks = _leaks(rows, splits, bank)
    if split.kind == "random":
        warning = (
            "warning: a random split puts neighbouring frames of one take on both sides, so its score says "
            f"little about another hand. Here: {leaks.summary(splits)}"
        )
        return Assigned(tuple(rows), lines=(warning,))
    if not len(leaks):
        return Assigned(tuple(rows))
    if not drop:
        raise UserError(_message(rows, leaks, splits, by_folders=by_folders))
    return _without(rows, leaks)


def _leaks(rows: Sequence[IndexRow], splits: NDArray[np.object_], bank: PixelBank) -> Leaks:
    def gather(wanted: Rows) -> NDArray[np.uint8]:
        return np.stack([bank.pixels(rows[row].sha256) for row in wanted])

    return find_leaks(
        splits,
        digests=np.array([row.sha256 for row in rows], dtype=object),
        hashes=np.array([int(row.phash, 16) for row in rows], np.uint64),
        gather=gather,
    )


def _message(rows: Sequence[IndexRow], leaks: Leaks, splits: NDArray[np.object_], *, by_folders: bool) -> str:
    other, held = rows[leaks.other[0]], rows[leaks.held[0]]
    ignoring = "have the photos' folders ignored (--split recordings), " if by_folders else ""
    return (
        f"the split leaks: {leaks.summary(splits)}; for example {held.source}/{held.path} ({held.split}) is "
        f"{other.source}/{other.path} ({other.split}); {ignoring}leave one source out, put both recordings on one "
        "side (--group-by, --test, --validation), or take the copies out of training with --drop-duplicates"
    )


def _without(rows: Sequence[IndexRow], leaks: Leaks) -> Assigned:
    reasons: dict[int, str] = {}
    for other, held, exact in zip(
        leaks.other.tolist(), leaks.held.tolist(), leaks.exact.tolist(), strict=True
    ):
        kind = "the same bytes as" if exact else "the same picture as"
        kept = rows[held]
        reasons.setdefault(other, f"dropped: {kind} {kept.source}/{kept.path} ({kept.split})")
    left = [row for number, row in enumerate(rows) if number not in reasons]
    dropped = [
        Problem(rows[number].source, rows[number].path, why) for number, why in sorted(reasons.items())
    ]
    return Assigned(tuple(left), tuple(dropped))
