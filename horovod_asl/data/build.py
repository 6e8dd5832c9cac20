"""Prepare a store: find photos, group them, decode what is new, split honestly, write, and take the name at
once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from horovod_asl.data.arrange import (
    arrange,
    check_sides,
    describe_source,
    describe_split,
    originals,
    report_split_folders,
)
from horovod_asl.data.checks import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, require_range
from horovod_asl.data.class_names import classes_by
from horovod_asl.data.copies import with_copies
from horovod_asl.data.decode import MAX_MEGAPIXELS
from horovod_asl.data.decoding import Decoded, decode_photos
from horovod_asl.data.executor import worker_count, worker_pool
from horovod_asl.data.finding import find_hands
from horovod_asl.data.hand_finder import finder_settings
from horovod_asl.data.replacing import (
    holds_hands,
    is_current,
    refuse_another_set,
    refuse_if_surely_another_set,
    what_changes,
)
from horovod_asl.data.sources import (
    Source,
    SourcePhoto,
    SyntheticOptions,
    check_classes,
    check_covered,
    open_sources,
    tell_what_is_left_out,
)
from horovod_asl.data.split import SPLITS, SplitRule, balanced_subset
from horovod_asl.data.store import Store
from horovod_asl.data.store_files import PROBLEMS, is_copy
from horovod_asl.data.store_writer import Content, IndexRow, Problem, problems_text, write_store
from horovod_asl.data.workfolder import WorkFolder, refuse_current_folder, work_folder
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX

MAX_COPIES = 9


@dataclass(frozen=True)
class Tolerance:
    """What prepare puts up with before it stops."""

    allow_missing: bool = False
    skip_unknown: bool = False
    drop_duplicates: bool = False
    replace: bool = False
    max_bad_share: float = 0.05
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        require_range("--max-bad-share", self.max_bad_share, 0, 1)
        if not self.max_megapixels > 0:
            raise UserError(f"--max-megapixels {self.max_megapixels:g} must be above 0")


@dataclass(frozen=True)
class PrepareReport:
    """What prepare did. Counts are photos."""

    store: Path
    digest: str
    up_to_date: bool
    splits: dict[str, int]
    decoded: int
    problems: tuple[Problem, ...]
    sources: tuple[dict[str, Any], ...]
    copies: int
    """Copies of these photos, for training."""
    hands_found: int | None
    """Photos in which a hand was found; None: nobody looked."""

    @property
    def photos(self) -> int:
        """Photos in the store."""
        return sum(self.splits.values())

    @property
    def reused(self) -> int:
        """Photos and copies whose pixels an earlier run had decoded."""
        return max(0, self.photos + self.copies - self.decoded)


def prepare_store(
    *,
    sources: Sequence[str],
    store: Path,
    image_size: int = 64,
    crop_size: int | None = None,
    require_hands: bool = True,
    poor_copies: int = 0,
    group_by: Sequence[str] = ("auto",),
    split: SplitRule = SplitRule(),  # noqa: B008
    exclude: Sequence[str] = (),
    class_file: Path | None = None,
    class_from_name: str | None = None,
    samples: int | None = None,
    synthetic: SyntheticOptions = SyntheticOptions(),  # noqa: B008
    tolerance: Tolerance = Tolerance(),
    workers: int | None = None,
    across_ranks: bool = False,
    say: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_stage: Callable[[str], None] = lambda unit: None,
) -> PrepareReport | None:
    """Make the store at `store` from `sources`, or find that it is up to date.

    `image_size` is the side in pixels; `crop_size` that of the square around the hand, and None looks for no hands;
    without `require_hands` a machine on which hands cannot be found makes a store without them, and a line says so;
    `poor_copies` of each photo are added for training (see `copies`);
    `exclude` holds patterns of files to leave out; `class_file` and `class_from_name` say what the names of folders
    and files mean (see `class_names`); `samples` draws a balanced subset of that many photos; `workers`
    None means all usable cores. With `across_ranks` every MPI rank must call this: rank 0 gets the report, the others
    None. `say` gets lines for the user, `on_progress` photos done and in all, `on_stage` what is counted from now on.
    UserError for whatever the user can mend.
    """
    check_values(image_size, samples, workers, crop_size, poor_copies)
    refuse_current_folder(store)
    count = worker_count(workers, across_ranks=across_ranks)
    with worker_pool(count, across_ranks=across_ranks) as pool:
        if pool is None:
            return None
        opened = open_sources(
            sources,
            group_by=group_by,
            image_size=image_size,
            synthetic=synthetic,
            by_folders=split.kind == "auto",
            exclude=exclude,
            classes=classes_by(class_file, class_from_name),
        )
        report_split_folders(opened, split, say)
        chosen = _photos(opened, samples, split.seed, tolerance, say)
        if not tolerance.replace:
            refuse_if_surely_another_set(store, chosen)
        settings = None
        if crop_size is not None:
            settings = _finder_settings(crop_size, store, require_hands, say)
        photos = list(with_copies(chosen, poor_copies, max_megapixels=tolerance.max_megapixels))
        with work_folder(store, say=say) as work:
            existing = _sound_store(store)
            decoded = decode_photos(
                pool,
                photos,
                work,
                existing,
                image_size=image_size,
                max_megapixels=tolerance.max_megapixels,
                on_progress=on_progress,
            )
            if not tolerance.replace:
                refuse_another_set(store, decoded.digests)
            problems = _problems(photos, decoded, tolerance.max_bad_share, work)
            # What is refused is refused before the minutes that hands take.
            rows, dropped = arrange(
                photos, decoded, split, drop_duplicates=tolerance.drop_duplicates, say=say
            )
            check_covered({CLASS_INDEX[row.label] for row in rows}, opened, tolerance.allow_missing)
            check_sides(rows, allow_missing=tolerance.allow_missing, say=say)
            hands = None
            if settings is not None:
                on_stage("photos looked at for a hand")
                hands = find_hands(
                    pool,
                    photos,
                    decoded.digests,
                    work,
                    existing,
                    settings=settings,
                    max_megapixels=tolerance.max_megapixels,
                    workers=count,
                    say=say,
                    on_progress=on_progress,
                )
            content = _content(
                rows, [*problems, *dropped], opened, split, samples, image_size, settings, poor_copies
            )
            up_to_date = is_current(existing, content)
            if not up_to_date:
                if existing and (changes := what_changes(existing, content)):
                    say(f"{store} is replaced: {'; '.join(changes)}")
                write_store(work, content, decoded.bank, hands)
    return _report(store, content, up_to_date, decoded.count)


def check_values(
    image_size: int,
    samples: int | None,
    workers: int | None,
    crop_size: int | None = None,
    poor_copies: int = 0,
) -> None:
    """UserError for values that no prepare could have."""
    require_range("--image-size", image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, unit="pixels")
    require_range("--crop-size", crop_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, unit="pixels")
    require_range("--samples", samples, 1)
    require_range("--poor-copies", poor_copies, 0, MAX_COPIES)
    require_range("--workers", workers, 1)


def _photos(
    sources: Sequence[Source],
    samples: int | None,
    seed: int,
    tolerance: Tolerance,
    say: Callable[[str], None],
) -> list[SourcePhoto]:
    """What is to be prepared, ordered by source and path: everything, or a balanced subset."""
    check_classes(sources, allow_missing=tolerance.allow_missing, skip_unknown=tolerance.skip_unknown)
    for source in sources:
        tell_what_is_left_out(source, say)
    photos = [photo for source in sources for photo in source.photos]
    return photos if samples is None else _drawn(photos, samples, seed, say)


def _drawn(
    photos: Sequence[SourcePhoto], samples: int, seed: int, say: Callable[[str], None]
) -> list[SourcePhoto]:
    if samples > len(photos):
        raise UserError(
            f"--samples {samples}: there are only {len(photos)} photos; ask for fewer or leave it out"
        )
    labels = np.array([photo.label for photo in photos], np.int64)
    rows = balanced_subset(labels, [(photo.source, photo.recording) for photo in photos], samples, seed)
    if len(rows) < samples:
        say(
            f"--samples {samples}: {len(rows)} drawn, because some classes have too few photos to stay balanced"
        )
    return [photos[row] for row in rows]


def _finder_settings(
    crop_size: int, store: Path, must: bool, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """`finder_settings`; None, and a line, where hands cannot be found; UserError if the store has some to lose."""
    try:
        return finder_settings(crop_size)
    except UserError as error:
        if must:
            raise
        if holds_hands(store):
            raise UserError(
                f"{store} holds hands and would lose them, because {error}; or name another STORE, or give them up "
                "with --no-hands"
            ) from error
        say(
            f"no hands are looked for, so networks trained on this store read whole photos, and strangers badly: "
            f"{error}; then run the same prepare again, it adds the hands (--no-hands: without this line)"
        )
        return None


def _problems(
    photos: Sequence[SourcePhoto], decoded: Decoded, max_bad_share: float, work: WorkFolder
) -> list[Problem]:
    """The bad photos, not their copies too; UserError, with the list written beside, if their share is too large."""
    told = [(p, why) for p, why in zip(photos, decoded.reasons, strict=True) if not is_copy(p.path)]
    problems = [Problem(p.source, p.path, why) for p, why in told if why]
    if len(problems) > max_bad_share * len(told):
        report = work.root / PROBLEMS
        report.write_bytes(problems_text(problems))
        first = problems[0]
        raise UserError(
            f"{len(problems)} of {len(told)} photos cannot be used, for example {first.path}: "
            f"{first.reason}; "
            f"the list is in {report}; mend or remove them, or raise --max-bad-share (now {max_bad_share:g})"
        )
    return problems


def _content(
    rows: Sequence[IndexRow],
    problems: Sequence[Problem],
    sources: Sequence[Source],
    split: SplitRule,
    samples: int | None,
    image_size: int,
    hands: dict[str, Any] | None,
    poor_copies: int,
) -> Content:
    return Content(
        rows=tuple(rows),
        problems=tuple(problems),
        image_size=image_size,
        sources=[describe_source(source, rows, split) for source in sources],
        split_rule=describe_split(split, sources, samples),
        hands=hands,
        poor_copies=poor_copies,
    )


def _sound_store(path: Path) -> Store | None:
    """The store at `path` if it is whole and every digest matches: a damaged one is made anew, not built
    upon."""
    try:
        return Store.open(path, verify=True)
    except UserError:
        return None


def _report(store: Path, content: Content, up_to_date: bool, decoded: int) -> PrepareReport:
    splits = Counter(row.split for row in originals(content.rows))
    written = Store.open(store)
    return PrepareReport(
        store=store,
        digest=written.digest,
        up_to_date=up_to_date,
        splits={name: splits[name] for name in SPLITS},
        decoded=decoded,
        problems=content.problems,
        sources=tuple(content.sources),
        copies=int(written.copies.sum()),
        hands_found=None if content.hands is None else int(written.hands["found"][~written.copies].sum()),
    )
