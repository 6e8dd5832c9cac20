"""Decode photos once into a store that training maps into memory.

    horovod-asl prepare ~/asl_alphabet_train stores/asl
    horovod-asl prepare archive.zip stores/asl --image-size 96 --samples 10000
    horovod-asl prepare asl=archive.zip massey=~/massey stores/all --test-source massey
    horovod-asl prepare ~/numbered stores/numbered --classes classes.txt      # folders 0 … 25
    horovod-asl prepare ~/flat stores/flat --class-from-name '^hand[0-9]+_([a-z])_'
    horovod-asl prepare ~/videos stores/videos                                # A.mp4, or A/take1.mp4
    horovod-asl prepare synthetic stores/sample
    horovod-asl prepare asl=~/asl phone=~/phone stores/robust --degraded-copies 2
    mpirun -np 8 horovod-asl prepare /data/asl /data/stores/asl

A SOURCE is a folder of class folders (A … Z, del, nothing, space; nested as on Kaggle), the downloaded zip
(never unpacked), `kaggle` or `synthetic`; `NAME=SOURCE` gives it a name.

Other names of folders get their classes from --classes FILE, a text file of lines `FOLDER: CLASS`, or of one class
a line in the natural order of the folders (0, 1, 2, 10). --class-from-name REGEX takes the class from the names of
files instead; FILE may say what the words that it finds mean. Both are shown before the photos are read. HEIC, as
iPhones take it, needs the extra `heic`. Videos need the extra `video`: five frames a second are taken of each, and
all frames of a video are of one recording. docs/photos.md has an example of each.

Folders named train, valid or test above the class folders are the split of their source, if photos lie in at least
two of them. The names may be in any case and may have other words: training, validation, val, dev, eval, testing,
training_set and asl_alphabet_test do as well. One line says so. --split recordings ignores these folders;
--validation and --test name recordings in their place.

A source without such folders is split by recordings. A recording – one take of one person – is never split. Neither
is a person whom a folder names (anna/A, ben/A). By default the last person of each source is the test split, and the
one before is validation if two remain for training; where no folder names people, the last recordings are.
--group-by says what a recording is. By default it is a number in the file's name (hand1_…), otherwise a folder beside
the class folders, otherwise a range of the ASL Alphabet's frame numbers.

In class folders, files whose suffix is not a picture's (.xml, .json, .txt …) are ignored and counted. Files and
folders of systems (Thumbs.db, @eaDir, .AppleDouble …) are ignored everywhere. --exclude leaves out more.

Interrupted, prepare leaves nothing that looks complete; run again, photos that did not change are not decoded twice.
Photos that cannot be used are listed in STORE/problems.csv with their reason. A STORE that is there is made anew if
its photos or the options changed; if under half of its photos are in the new one, it is kept unless --replace is
given.

MediaPipe finds the hand in each photo. The store gets its landmarks and a crop around it. Networks that read these
also read the hands of new people; networks that read whole photos hardly do. Finding hands takes most of the time; a
line says how long before it begins. If MediaPipe or its models are missing, a line says so, and the store is made
without hands; with --hands this is an error. --no-hands leaves the hands out. The same prepare without it adds them
later, and decodes nothing again.

--degraded-copies N adds N copies of each photo for training, as a poor camera in the dark would have taken them.

Under mpirun, rank 0 collects and the other ranks decode; STORE must lie where all of them see it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from horovod_asl.command_line.checks import require_range
from horovod_asl.command_line.cli import command, parse
from horovod_asl.command_line.progress import Progress
from horovod_asl.config_groups import PLACE
from horovod_asl.errors import UserError
from horovod_asl.photos.decode import MAX_MEGAPIXELS
from horovod_asl.prepare.options import (
    PhotoSelection,
    PrepareOptions,
    Reporter,
    StoreFormat,
    Tolerance,
)
from horovod_asl.prepare.pipeline import PrepareReport, prepare_store
from horovod_asl.sources.sources import SyntheticOptions
from horovod_asl.splits.split import SplitRule


@dataclass(frozen=True)
class PrepareConfig:
    """Flags of `prepare`."""

    places: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE [SOURCE …] STORE")] = field(metadata=PLACE)
    """The sources (folders of class folders, zips, `kaggle`, `synthetic`, each also as NAME=SOURCE), and last
    the folder to make."""

    image_size: int = 64
    """Side of the stored pictures in pixels."""

    hands: Annotated[bool | None, arg(metavar="| --no-hands")] = None
    """Find the hand in every photo (MediaPipe's Hand Landmarker): landmarks, handedness, and a square crop around the
    hand beside the whole picture. By default hands are found where MediaPipe and its models are there; with --hands
    they must be, and --no-hands leaves them out."""

    crop_size: int = 192
    """Side of the crops in pixels."""

    degraded_copies: int = 0
    """Of each photo so many copies, for training alone, as a poor camera in poor light would have taken it. The hand
    is looked for in them too, so that landmarks err in training as they will in the dark."""

    group_by: tuple[str, ...] = ("auto",)
    """What a recording is: auto, frames, subfolder, source, or a regular expression whose group names it in
    the path; NAME=RULE for one source."""

    exclude: tuple[str, ...] = ()
    """Leave out files that match one of these patterns (--exclude 'depth_*' '*_mask.png'). A pattern without a slash
    is compared with the file's name and the folders above it, one with a slash with the end of the path."""

    classes: Path | None = None
    """A text file that says which class a folder is: lines `FOLDER: CLASS`, or one class a line in the natural order
    of the folders (0, 1, 2, 10)."""

    class_from_name: str | None = None
    """A regular expression whose group finds the class in the name of a file, such as '^hand[0-9]+_([a-z])_'. Files
    that it does not match are left out."""

    split: Literal["auto", "recordings", "random"] = "auto"
    """auto: the folders train/, valid/, test/ of a source are its split, and a source without them is split by
    recordings. recordings: such folders are ignored. random: neighbours of training frames are in the test set,
    only for comparing with published figures."""

    validation: tuple[str, ...] = ()
    """Recordings (REC or SOURCE/REC) or people (`anna` for anna/1, anna/2 …) that are validation; with this or
    --test, all that is not named is training, whatever its folder is called."""

    test: tuple[str, ...] = ()
    """Recordings or people that are test."""

    test_source: str | None = None
    """A source that is the test split as a whole; what would be test of the others becomes validation."""

    fraction: float = 0.1
    """With --split random: the fraction that is test, and as much again validation."""

    samples: int | None = None
    """A class-balanced subset of this many photos, drawn from every recording alike."""

    seed: int = 0
    """Seed of --samples, --split random and the synthetic sample."""

    synthetic_recordings: int = 4
    """Recordings of the synthetic sample."""

    synthetic_photos: int = 40
    """Photos of the synthetic sample, per class and recording."""

    synthetic_size: int | None = None
    """Side of its photos in pixels before they are treated as all are; None: --image-size."""

    synthetic_variety: float = 0.0
    """How much the sample's signers differ in how they sign: where the camera stands, how fingers bend, at which
    moment of J and Z they are drawn. 0: in their looks alone; 1: as people do."""

    allow_missing: bool = False
    """Go on although some classes have no photo."""

    skip_unknown: bool = False
    """Leave out folders beside the class folders whose name is no class."""

    drop_duplicates: bool = False
    """Where a photo of the test or validation split is also in training, take it out of training."""

    replace: bool = False
    """Replace the store that is there although under half of its photos are in the new one."""

    max_bad_share: float = 0.05
    """Stop if more than this fraction of the photos cannot be used."""

    max_megapixels: float = MAX_MEGAPIXELS
    """Larger pictures are left out, before they are decoded."""

    workers: int | None = None
    """Processes that decode; by default as many as usable cores. Under mpirun the ranks take their place."""

    def __post_init__(self) -> None:
        require_range("--workers", self.workers, 1)
        self.options(())

    def options(self, sources: Sequence[str]) -> PrepareOptions:
        """What `prepare_store` is to do with these sources. UserError for values that no prepare could have."""
        return PrepareOptions(self._selection(sources), self._store_format(), self._split_rule(), self._tolerance())

    def _selection(self, sources: Sequence[str]) -> PhotoSelection:
        return PhotoSelection(
            sources=tuple(sources),
            group_by=self.group_by,
            exclude=self.exclude,
            class_file=self.classes,
            class_from_name=self.class_from_name,
            samples=self.samples,
            synthetic=SyntheticOptions(
                self.synthetic_recordings,
                self.synthetic_photos,
                self.seed,
                self.synthetic_size,
                self.synthetic_variety,
            ),
        )

    def _store_format(self) -> StoreFormat:
        return StoreFormat(
            image_size=self.image_size,
            hands=self.hands,
            crop_size=self.crop_size,
            degraded_copies=self.degraded_copies,
        )

    def _split_rule(self) -> SplitRule:
        return SplitRule(
            kind=self.split,
            validation=self.validation,
            test=self.test,
            test_source=self.test_source,
            fraction=self.fraction,
            seed=self.seed,
        )

    def _tolerance(self) -> Tolerance:
        return Tolerance(
            allow_missing=self.allow_missing,
            skip_unknown=self.skip_unknown,
            drop_duplicates=self.drop_duplicates,
            replace=self.replace,
            max_bad_share=self.max_bad_share,
            max_megapixels=self.max_megapixels,
        )


def main(argv: list[str]) -> int:
    """Prepare a store and report what is in it."""
    config = parse(PrepareConfig, argv, prog="horovod-asl prepare", description=__doc__)
    *sources, store = _places(config)
    started = time.perf_counter()
    with Progress("photos") as progress:
        report = prepare_store(
            Path(store),
            config.options(sources),
            workers=config.workers,
            across_ranks=True,
            reporter=Reporter(progress.log, progress.update, progress.begin),
        )
    if report is not None:
        _summarise(report, time.perf_counter() - started)
    return 0


def _places(config: PrepareConfig) -> tuple[str, ...]:
    if len(config.places) < 2:
        raise UserError(
            "prepare needs a SOURCE and a STORE: horovod-asl prepare SOURCE [SOURCE …] STORE [OPTIONS], the options "
            "last: --exclude, --test and their like take every word that follows"
        )
    return config.places


def _summarise(report: PrepareReport, seconds: float) -> None:
    state = "up to date" if report.up_to_date else "ready"
    splits = ", ".join(f"{count} {name}" for name, count in report.splits.items())
    print(f"{report.store} is {state}: {report.photos} photos ({splits}), digest {report.digest[:12]}")
    if report.copies:
        print(f"  and {report.copies} degraded copies of them, for training")
    for source in report.sources:
        recordings = ", ".join(f"{name} ({count})" for name, count in source["recordings"].items())
        print(
            f"  {source['name']}: {source['photos']} photos, recordings by {source['group_by']}: {recordings}"
        )
    print(f"  {report.decoded} decoded, {report.reused} reused, {seconds:.1f} s")
    if report.hands_found is not None:
        print(f"  a hand in {report.hands_found} of {report.photos} photos")
    if report.problems:
        reasons = Counter(problem.reason.partition(":")[0] for problem in report.problems).most_common()
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
        print(f"  {len(report.problems)} left out ({listed}): see {report.store / 'problems.csv'}")
    print(
        f"next: {command('inspect', report.store, '--contact-sheet', 'sheet.png')}, then "
        f"{command('train', '--store', report.store)}"
    )
