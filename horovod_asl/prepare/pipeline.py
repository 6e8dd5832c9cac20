"""Prepare a store: find photos, group them, decode what is new, assign splits, write, and rename atomically."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horovod_asl.errors import UserError
from horovod_asl.hands.finder import finder_settings
from horovod_asl.labels import CLASS_INDEX
from horovod_asl.photos.workers import worker_count, worker_pool
from horovod_asl.prepare.assign_splits import (
    assign_splits,
    check_sides,
    describe_source,
    describe_split,
    originals,
    split_folder_lines,
)
from horovod_asl.prepare.changes import (
    holds_hands,
    is_current,
    refuse_another_set,
    refuse_if_surely_another_set,
    what_changes,
)
from horovod_asl.prepare.choosing import choose_photos, open_selection
from horovod_asl.prepare.decode_stage import Batch, Decoded, decode_photos
from horovod_asl.prepare.degrade import with_copies
from horovod_asl.prepare.hand_stage import find_hands
from horovod_asl.prepare.options import PrepareOptions, Reporter, StoreFormat
from horovod_asl.prepare.writer import Content, IndexRow, Problem, problems_text, write_store
from horovod_asl.sources.sources import Source, SourcePhoto, check_classes, check_covered, left_out_lines
from horovod_asl.splits.split import SPLITS
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import PROBLEMS, is_copy
from horovod_asl.store.work_folder import WorkFolder, refuse_current_folder, work_folder


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
        """Photos and copies whose pixels an earlier prepare had decoded."""
        return max(0, self.photos + self.copies - self.decoded)


def prepare_store(
    store: Path,
    options: PrepareOptions,
    *,
    workers: int | None = None,
    across_ranks: bool = False,
    reporter: Reporter = Reporter(),  # noqa: B008
) -> PrepareReport | None:
    """Make the store at `store`, or find that it is up to date.

    `workers` None means all usable cores. With `across_ranks` every MPI rank must call this: rank 0 gets the report,
    the others None. UserError for faults that the user can fix.
    """
    refuse_current_folder(store)
    count = worker_count(workers, across_ranks=across_ranks)
    store_format, tolerance = options.store_format, options.tolerance
    with worker_pool(count, across_ranks=across_ranks) as pool:
        if pool is None:
            return None
        sources, chosen = _open(options, reporter)
        if not tolerance.replace:
            refuse_if_surely_another_set(store, chosen)
        settings = _finder_settings(store_format, store, reporter)
        copied = with_copies(chosen, store_format.degraded_copies, max_megapixels=tolerance.max_megapixels)
        batch = Batch(pool, count, tuple(copied), tolerance.max_megapixels)
        with work_folder(store, log=reporter.log) as work:
            existing = _sound_store(store)
            decoded = decode_photos(batch, work, existing, store_format.image_size, reporter)
            if not tolerance.replace:
                refuse_another_set(store, decoded.digests)
            problems = _problems(batch.photos, decoded, tolerance.max_bad_share, work)
            # What is refused is refused before the minutes that hands take.
            rows, dropped = _assign(sources, batch.photos, decoded, options, reporter)
            hands = None
            if settings is not None:
                hands = find_hands(batch, decoded.digests, work, existing, settings, reporter)
            content = _content(rows, [*problems, *dropped], sources, options, settings)
            up_to_date = is_current(existing, content)
            if not up_to_date:
                reporter.log_lines(_replaced(store, existing, content))
                write_store(work, content, decoded.bank, hands)
    return _report(store, content, up_to_date, decoded.count)


def _open(options: PrepareOptions, reporter: Reporter) -> tuple[list[Source], list[SourcePhoto]]:
    """The sources, and those of their photos that are to be prepared."""
    selection, split, limits = options.selection, options.split, options.tolerance
    sources = open_selection(
        selection, image_size=options.store_format.image_size, by_folders=split.kind == "auto"
    )
    reporter.log_lines(split_folder_lines(sources, split))
    check_classes(sources, allow_missing=limits.allow_missing, skip_unknown=limits.skip_unknown)
    reporter.log_lines(left_out_lines(sources))
    photos, lines = choose_photos(sources, selection.samples, split.seed)
    reporter.log_lines(lines)
    return sources, photos


def _assign(
    sources: Sequence[Source],
    photos: Sequence[SourcePhoto],
    decoded: Decoded,
    options: PrepareOptions,
    reporter: Reporter,
) -> tuple[tuple[IndexRow, ...], tuple[Problem, ...]]:
    """The rows of the store, each with its split, and the photos that were dropped. UserError for a bad split."""
    limits = options.tolerance
    assigned = assign_splits(photos, decoded, options.split, drop_duplicates=limits.drop_duplicates)
    reporter.log_lines(assigned.lines)
    check_covered({CLASS_INDEX[row.label] for row in assigned.rows}, sources, limits.allow_missing)
    reporter.log_lines(check_sides(assigned.rows, allow_missing=limits.allow_missing))
    return assigned.rows, assigned.dropped


def _finder_settings(store_format: StoreFormat, store: Path, reporter: Reporter) -> dict[str, Any] | None:
    """`finder_settings`; None if no hands are to be found, or none can be and that is allowed, which a line says.
    UserError if the store that is there would thereby lose its hands."""
    if store_format.hands is False:
        return None
    try:
        return finder_settings(store_format.crop_size)
    except UserError as error:
        if store_format.hands:
            raise
        if holds_hands(store):
            raise UserError(
                f"{store} holds hands and would lose them, because {error}; or name another STORE, or give them up "
                "with --no-hands"
            ) from error
        reporter.log(
            f"no hands are looked for, so networks trained on this store read whole photos, and strangers badly: "
            f"{error}; then run the same prepare again, it adds the hands (--no-hands: without this line)"
        )
        return None


def _problems(
    photos: Sequence[SourcePhoto], decoded: Decoded, max_bad_share: float, work: WorkFolder
) -> list[Problem]:
    """The bad photos without their copies; UserError, with the list written beside, if their share is too large."""
    own = [(p, why) for p, why in zip(photos, decoded.reasons, strict=True) if not is_copy(p.path)]
    problems = [Problem(p.source, p.path, why) for p, why in own if why]
    if len(problems) > max_bad_share * len(own):
        report = work.root / PROBLEMS
        report.write_bytes(problems_text(problems))
        first = problems[0]
        raise UserError(
            f"{len(problems)} of {len(own)} photos cannot be used, for example {first.path}: "
            f"{first.reason}; "
            f"the list is in {report}; mend or remove them, or raise --max-bad-share (now {max_bad_share:g})"
        )
    return problems


def _content(
    rows: Sequence[IndexRow],
    problems: Sequence[Problem],
    sources: Sequence[Source],
    options: PrepareOptions,
    hands: dict[str, Any] | None,
) -> Content:
    return Content(
        rows=tuple(rows),
        problems=tuple(problems),
        image_size=options.store_format.image_size,
        sources=[describe_source(source, rows, options.split) for source in sources],
        split_rule=describe_split(options.split, sources, options.selection.samples),
        hands=hands,
        degraded_copies=options.store_format.degraded_copies,
    )


def _replaced(store: Path, existing: Store | None, content: Content) -> list[str]:
    """A line that says what becomes of the store that is there; none where nothing does."""
    changes = what_changes(existing, content) if existing else []
    return [f"{store} is replaced: {'; '.join(changes)}"] if changes else []


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
