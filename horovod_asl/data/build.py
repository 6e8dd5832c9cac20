"""Prepare a store: find photos, group them, decode what is new, split honestly, write, and take the name at
once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from horovod_asl.data.decode import DECODER_VERSION, MAX_MEGAPIXELS
from horovod_asl.data.decoding import Decoded, decode_photos
from horovod_asl.data.executor import usable_cores, worker_pool
from horovod_asl.data.honesty import settle_leaks
from horovod_asl.data.sources import (
    Source,
    SourcePhoto,
    SyntheticOptions,
    check_classes,
    check_covered,
    open_sources,
)
from horovod_asl.data.split import SPLITS, SplitRule, balanced_subset, random_split, split_recordings
from horovod_asl.data.store import INDEX, PROBLEMS, Store
from horovod_asl.data.store_writer import Content, IndexRow, Problem, index_text, problems_text, write_store
from horovod_asl.data.workfolder import WorkFolder, work_folder
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 2048


@dataclass(frozen=True)
class Tolerance:
    """What prepare puts up with before it stops."""

    allow_missing: bool = False
    skip_unknown: bool = False
    drop_duplicates: bool = False
    max_bad_share: float = 0.05
    max_megapixels: float = MAX_MEGAPIXELS


@dataclass(frozen=True)
class PrepareReport:
    """What prepare did. Counts are photos; `seconds` is wall time."""

    store: Path
    digest: str
    up_to_date: bool
    splits: dict[str, int]
    decoded: int
    problems: tuple[Problem, ...]
    sources: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def photos(self) -> int:
        """Photos in the store."""
        return sum(self.splits.values())

    @property
    def reused(self) -> int:
        """Photos whose pixels an earlier run had decoded."""
        return max(0, self.photos - self.decoded)


def prepare_store(
    *,
    sources: Sequence[str],
    store: Path,
    image_size: int = 64,
    group_by: Sequence[str] = ("auto",),
    split: SplitRule = SplitRule(),  # noqa: B008
    samples: int | None = None,
    synthetic: SyntheticOptions = SyntheticOptions(),  # noqa: B008
    tolerance: Tolerance = Tolerance(),
    workers: int | None = None,
    across_ranks: bool = False,
    say: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport | None:
    """Make the store at `store` from `sources`, or find that it is up to date.

    `image_size` is the side in pixels; `samples` draws a balanced subset of that many photos; `workers` None
    means all usable cores. With `across_ranks` every MPI rank must call this: rank 0 gets the report, the
    others None. `say` gets lines for the user, `on_progress` photos done and in all. UserError for whatever
    the user can mend.
    """
    started = time.perf_counter()
    _check_values(image_size, samples)
    with worker_pool(workers or usable_cores(), across_ranks=across_ranks) as pool:
        if pool is None:
            return None
        opened = open_sources(sources, group_by=group_by, image_size=image_size, synthetic=synthetic)
        check_classes(opened, allow_missing=tolerance.allow_missing, skip_unknown=tolerance.skip_unknown)
        photos = _draw(opened, samples, split.seed)
        with work_folder(store, say=say) as work:
            decoded = decode_photos(
                pool,
                photos,
                work,
                image_size=image_size,
                max_megapixels=tolerance.max_megapixels,
                on_progress=on_progress,
            )
            problems = _problems(photos, decoded, tolerance.max_bad_share, work)
            rows = _arrange(photos, decoded, split)
            rows, dropped = settle_leaks(rows, decoded.bank, split, drop=tolerance.drop_duplicates, say=say)
            check_covered({CLASSES.index(row.label) for row in rows}, opened, tolerance.allow_missing)
            content = Content(
                rows=tuple(rows),
                problems=(*problems, *dropped),
                image_size=image_size,
                sources=[_describe(source, rows) for source in opened],
                split_rule=_describe_rule(split, samples),
            )
            up_to_date = _is_current(store, content)
            if not up_to_date:
                work.clear_draft()
                write_store(work.draft, content, decoded.bank)
                work.commit()
    return _report(store, content, up_to_date, decoded.count, time.perf_counter() - started)


def _check_values(image_size: int, samples: int | None) -> None:
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"--image-size {image_size} must lie between {MIN_IMAGE_SIZE} and {MAX_IMAGE_SIZE} pixels"
        )
    if samples is not None and samples < 1:
        raise UserError(f"--samples {samples} must be at least 1")


def _draw(sources: Sequence[Source], samples: int | None, seed: int) -> list[SourcePhoto]:
    """All photos, ordered by source and path, or a balanced subset of them."""
    photos = [photo for source in sources for photo in source.photos]
    if samples is None:
        return photos
    if samples > len(photos):
        raise UserError(
            f"--samples {samples}: there are only {len(photos)} photos; ask for fewer or leave it out"
        )
    labels = np.array([photo.label for photo in photos], np.int64)
    rows = balanced_subset(labels, [(photo.source, photo.recording) for photo in photos], samples, seed)
    return [photos[row] for row in rows]


def _problems(
    photos: Sequence[SourcePhoto], decoded: Decoded, max_bad_share: float, work: WorkFolder
) -> list[Problem]:
    """The bad photos; UserError, with the list written beside, if their share is above `max_bad_share`."""
    problems = [Problem(p.source, p.path, why) for p, why in zip(photos, decoded.reasons, strict=True) if why]
    if len(problems) > max_bad_share * len(photos):
        report = work.root / PROBLEMS
        report.write_bytes(problems_text(problems))
        first = problems[0]
        raise UserError(
            f"{len(problems)} of {len(photos)} photos cannot be used, for example {first.path}: "
            f"{first.reason}; "
            f"the list is in {report}; mend or remove them, or raise --max-bad-share (now {max_bad_share:g})"
        )
    return problems


def _arrange(photos: Sequence[SourcePhoto], decoded: Decoded, split: SplitRule) -> list[IndexRow]:
    """The rows of the index for the good photos, each with its split."""
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
        labels = np.array([photo.label for photo in photos], np.int64)
        return [str(side) for side in random_split(labels, rule.fraction, rule.seed)]
    recordings: dict[str, list[str]] = {}
    for photo in photos:
        recordings.setdefault(photo.source, []).append(photo.recording)
    sides = split_recordings(
        recordings, validation=rule.validation, test=rule.test, test_source=rule.test_source
    )
    return [sides[photo.source, photo.recording] for photo in photos]


def _describe(source: Source, rows: Sequence[IndexRow]) -> dict[str, Any]:
    """What the store says of a source: its photos in the store, and how they were grouped."""
    own = [row for row in rows if row.source == source.name]
    recordings = {name: sum(row.recording == name for row in own) for name in source.recordings}
    return {"name": source.name, "photos": len(own), "group_by": source.group_by, "recordings": recordings}


def _describe_rule(split: SplitRule, samples: int | None) -> dict[str, Any]:
    return {
        **asdict(split),
        "validation": list(split.validation),
        "test": list(split.test),
        "samples": samples,
    }


def _is_current(store: Path, content: Content) -> bool:
    """Whether the store at `store` is what writing `content` would give."""
    try:
        there = Store.open(store)
    except UserError:
        return False
    manifest = there.manifest
    return (
        manifest["decoder"] == DECODER_VERSION
        and there.image_size == content.image_size
        and manifest["sources"] == content.sources
        and manifest["split_rule"] == content.split_rule
        and (store / INDEX).read_bytes() == index_text(content.rows)
        and (store / PROBLEMS).read_bytes() == problems_text(content.problems)
    )


def _report(store: Path, content: Content, up_to_date: bool, decoded: int, seconds: float) -> PrepareReport:
    splits = Counter(row.split for row in content.rows)
    return PrepareReport(
        store=store,
        digest=Store.open(store).digest,
        up_to_date=up_to_date,
        splits={name: splits[name] for name in SPLITS},
        decoded=decoded,
        problems=content.problems,
        sources=tuple(content.sources),
        seconds=seconds,
    )
