"""Read photos with a run, or with the model that ships.

    horovod-asl predict photo.jpg                          # with the model that ships with the package
    horovod-asl predict runs/RUN photo.jpg other.png --top 3
    horovod-asl predict runs/RUN ~/photos                  # all pictures below a folder, or in a zip
    find . -name '*.jpg' | horovod-asl predict runs/RUN -  # a list of paths on standard input
    horovod-asl predict runs/RUN photo.jpg --json          # one JSON object per line
    horovod-asl predict runs/RUN photo.jpg --abstain 0.9   # `?` where it is less sure than that

The first word is the run if it is a folder that holds one, or `default` (the model that ships); else all are photos.
In folders and zips, files whose names end as pictures' do (.jpg, .png, …) are read; a file that is named is always
tried. Answers are printed as photos are read, in order. A run that is not finished reads with its best epoch so far:
a line on standard error says so, and in the JSON `finished` is then false. A photo that cannot be read gets a line on
standard error, and the exit code is then 1.

A line ends with a note in brackets where no hand was found, where a closer look did not confirm it, and where there
are two. Each line of --json is an object with

    photo   its name
    class   the likeliest class, or null where --abstain withholds it
    top     a list of {"class", "probability"}, likeliest first
    hand    null, or {"box": [left, top, right, bottom], "joints": 21 times [x, y, z], "handedness": "left" or
            "right", "confidence": of the handedness, 0 to 1}; in pixels of the photo, after its EXIF rotation
    note    null where one hand was found, or why there is none, or what is uncertain

A run that reads whole photos looks for no hand. From Python: docs/api.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from horovod_asl.command_line.cli import parse
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.command_line.progress import Progress
    from horovod_asl.inference.predictor import Predictor, Reading
    from horovod_asl.inference.view_stream import Viewed
    from horovod_asl.photos.origins import Origin

_STDIN = Path("-")
_NO_PHOTOS = "no photos: name files, folders, or - for a list on standard input"
_FEWEST_WITH_PROGRESS = 16


@dataclass(frozen=True)
class PredictConfig:
    """Flags of `predict`."""

    words: Positional[Annotated[tuple[Path, ...], arg(metavar="[RUN] PHOTO …")]]
    """A run folder or `default`, which may be left out; then files, folders, zips, or `-` for a list of paths on
    standard input."""
    top: int = 1
    """How many answers per photo."""
    abstain: float | None = None
    """Answer `?` (in JSON: null) where the likeliest class has less than this probability, 0 to 1."""
    json: bool = False
    """One JSON object per photo and line, for programs."""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every photo was read, 1 otherwise."""
    config = parse(PredictConfig, argv, prog="horovod-asl predict", description=__doc__)
    if not 1 <= config.top <= 29:
        raise UserError(f"--top must be between 1 and 29, not {config.top}")
    if config.abstain is not None and not 0 <= config.abstain <= 1:
        raise UserError(f"--abstain {config.abstain} must be a probability between 0 and 1, such as 0.9")
    run, given = _run_and_photos(config.words)
    photos, count = _photos(given)

    from horovod_asl.inference.predictor import load
    from horovod_asl.inference.view_stream import view_stream
    from horovod_asl.system.memory import keep_freed_memory

    keep_freed_memory()
    model = load(run, "cpu", abstain=config.abstain or 0.0)
    if model.classifier.unfinished is not None:
        print(f"note: {model.classifier.unfinished}", file=sys.stderr)
    if other := model.classifier.other_finder():
        print(f"note: hands were found by {other}", file=sys.stderr)
    with _Printer(config, model, count) as printer:
        for viewed in view_stream(photos, model.classifier.reader):
            printer.show(viewed)
    if not printer.done:
        raise UserError(_NO_PHOTOS)
    return 1 if printer.problems else 0


class _Printer:
    """Prints readings in the order of the photos, each when it is there, and shows how far the work is."""

    def __init__(self, config: PredictConfig, model: Predictor, count: int | None) -> None:
        self._config, self._model, self._count = config, model, count
        self._progress: Progress | None = None
        self.done = self.problems = 0

    def __enter__(self) -> _Printer:
        if self._count is not None and self._count >= _FEWEST_WITH_PROGRESS and not sys.stdout.isatty():
            from horovod_asl.command_line.progress import Progress

            self._progress = Progress("photos").__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)

    def show(self, viewed: Sequence[Viewed]) -> None:
        """Read these photos as one batch, and print what there is to say of each."""
        from horovod_asl.inference.photo_view import PhotoView

        readings = iter(self._model.readings([one.view for one in viewed if isinstance(one.view, PhotoView)]))
        for one in viewed:
            if isinstance(one.view, PhotoView):
                print(self._line(one.name, next(readings)), flush=True)
            else:
                self._complain(f"{one.name}: {one.view}")
        self.done += len(viewed)
        if self._progress is not None and self._count is not None:
            self._progress.update(self.done, self._count)

    def _complain(self, line: str) -> None:
        self.problems += 1
        if self._progress is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._progress.log(line)

    def _line(self, photo: str, reading: Reading) -> str:
        top = list(reading.probabilities.items())[: self._config.top]
        if self._config.json:
            return json.dumps(_as_json(photo, reading, top) | self._unfinished())
        said = "  ".join(f"{name} {share:.1%}" for name, share in top)
        note = f"  [{reading.note}]" if reading.note and self._model.classifier.reader.finds_hands else ""
        return f"{photo}  {said if reading.letter is not None else f'?  ({said})'}{note}"

    def _unfinished(self) -> dict[str, bool]:
        return {} if self._model.classifier.unfinished is None else {"finished": False}


def _run_and_photos(words: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """The run and the photos among the words; UserError if the first is neither, so that a slip is not overlooked."""
    from horovod_asl.discovery.file_names import PICTURE_SUFFIXES
    from horovod_asl.discovery.find_photos import pictures_in
    from horovod_asl.runs.bundled_model import DEFAULT, names_run

    if not words or str(words[0]) == "-":
        return Path(DEFAULT), words
    first, *others = words
    if names_run(first):
        return first, others
    if first.is_dir() and not pictures_in(first):
        raise UserError(
            f"{first} is not a run folder (no run.json in it), and no photos are in it either: name a run that "
            "`horovod-asl train` made, or photos"
        )
    if not first.exists() and not first.name.lower().endswith((*PICTURE_SUFFIXES, ".zip")):
        raise UserError(f"there is no run folder and no photo {first}")
    return Path(DEFAULT), words


def _photos(given: Sequence[Path]) -> tuple[Iterable[tuple[str, Origin]], int | None]:
    """The photos by name, and how many; None where a list on standard input names them, line by line."""
    from horovod_asl.inference.folder import named_photos

    if not given:
        raise UserError(_NO_PHOTOS)
    if _STDIN in given:
        listed = (path for one in given for path in (_listed() if one == _STDIN else [one]))
        return (photo for path in listed for photo in named_photos(path)), None
    photos = [photo for path in given for photo in named_photos(path)]
    if not photos:
        raise UserError(
            f"no photos in {', '.join(map(str, given))}: give a folder or zip of .jpg, .png …, or name the files one "
            "by one"
        )
    return photos, len(photos)


def _listed() -> Iterator[Path]:
    """Paths on standard input, a line each, as they come.

    Not by `sys.stdin`: a thread waits here, and the interpreter could not close that at its end.
    """
    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        for line in lines:
            if path := os.fsdecode(line).strip():
                yield Path(path)


def _as_json(photo: str, reading: Reading, top: Sequence[tuple[str, float]]) -> dict[str, Any]:
    hand = reading.hand and {
        "box": [round(value, 2) for value in reading.hand.box],
        "joints": [[round(float(value), 2) for value in joint] for joint in reading.hand.joints],
        "handedness": reading.hand.handedness,
        "confidence": reading.hand.confidence,
    }
    classes = [{"class": name, "probability": share} for name, share in top]
    return {"photo": photo, "class": reading.letter, "top": classes, "hand": hand, "note": reading.note}
