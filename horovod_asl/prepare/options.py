"""The options of `prepare_store`: which photos, what is kept of each, which split, which limits; and a reporter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from horovod_asl.command_line.checks import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, require_range
from horovod_asl.command_line.progress import Report, no_report
from horovod_asl.errors import UserError
from horovod_asl.photos.decode import MAX_MEGAPIXELS
from horovod_asl.sources.sources import SyntheticOptions
from horovod_asl.splits.split import SplitRule

MAX_COPIES = 9


@dataclass(frozen=True)
class PhotoSelection:
    """Which photos are read, and how they are grouped into recordings."""

    sources: tuple[str, ...]
    """Each as the user names it (see `sources`)."""
    group_by: tuple[str, ...] = ("auto",)
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out."""
    class_file: Path | None = None
    class_from_name: str | None = None
    """What the names of folders and files mean (see `class_names`)."""
    samples: int | None = None
    """Photos of a balanced subset; None: all photos."""
    synthetic: SyntheticOptions = field(default_factory=SyntheticOptions)

    def __post_init__(self) -> None:
        require_range("--samples", self.samples, 1)


@dataclass(frozen=True)
class StoreFormat:
    """What the store holds of each photo."""

    image_size: int = 64
    """Side of the pictures in pixels."""
    hands: bool | None = False
    """True: hands are looked for, and it is an error if they cannot be found. None: a machine that cannot find hands
    makes a store without them, and a line says so. False: no hands."""
    crop_size: int = 192
    """Side of the square around the hand in pixels."""
    degraded_copies: int = 0
    """Copies of each photo, for training (see `prepare.degrade`)."""

    def __post_init__(self) -> None:
        require_range("--image-size", self.image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, unit="pixels")
        require_range("--crop-size", self.crop_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, unit="pixels")
        require_range("--degraded-copies", self.degraded_copies, 0, MAX_COPIES)


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
class PrepareOptions:
    """All that decides what is in a store. UserError for a value that no prepare could have."""

    selection: PhotoSelection
    store_format: StoreFormat = field(default_factory=StoreFormat)
    split: SplitRule = field(default_factory=SplitRule)
    tolerance: Tolerance = field(default_factory=Tolerance)


def _no_stage(unit: str) -> None:
    """The stages of work that nobody watches."""


@dataclass(frozen=True)
class Reporter:
    """Where a prepare reports what it does."""

    log: Callable[[str], None] = print
    """Gets a line for the user."""
    on_progress: Report = no_report
    """Gets the photos that are done, and all photos of this stage."""
    on_stage: Callable[[str], None] = _no_stage
    """Gets what is counted from now on."""

    def log_lines(self, lines: Iterable[str]) -> None:
        """Log each line."""
        for line in lines:
            self.log(line)
