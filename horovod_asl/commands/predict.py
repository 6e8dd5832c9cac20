"""Read photos with a run, or with the model that ships.

    horovod-asl predict photo.jpg                          # with the model that ships with the package
    horovod-asl predict runs/RUN photo.jpg other.png --top 3
    horovod-asl predict runs/RUN ~/photos                  # all pictures below a folder, or in a zip
    find . -name '*.jpg' | horovod-asl predict runs/RUN -  # a list of paths on standard input
    horovod-asl predict runs/RUN photo.jpg --json          # one JSON object per line
    horovod-asl predict runs/RUN photo.jpg --abstain 0.9   # `?` where it is less sure than that

The first word is the run if it is a folder that holds one, or `default` (the model that ships); else all are photos.
In folders and zips, files whose names end as pictures' do (.jpg, .png, …) are read; a file that is named is always
tried. A run that is not finished reads with its best epoch so far: a line on standard error says so, and in the JSON
`finished` is then false. A photo that cannot be read gets a line on standard error, and the exit code is then 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from horovod_asl.cli import parse
from horovod_asl.errors import UserError


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
    run, photos = _run_and_photos(config.words)
    paths = _expand(photos)

    from horovod_asl.data.folder import load_photos
    from horovod_asl.inference import Predictor
    from horovod_asl.memory import keep_freed_memory

    keep_freed_memory()
    predictor = Predictor.from_run(run)
    loaded = load_photos(paths, reader=predictor.reader)
    if not loaded.paths and not loaded.problems:
        raise UserError(
            f"no photos in {', '.join(map(str, photos))}: give a folder or zip of .jpg, .png …, or name "
            "the files one by one"
        )
    if predictor.unfinished is not None:
        print(f"note: {predictor.unfinished}", file=sys.stderr)
    if other := predictor.other_finder():
        print(f"note: hands were found by {other}", file=sys.stderr)
    for path, answers in zip(loaded.paths, predictor.top(loaded.images, config.top), strict=True):
        note = {} if predictor.unfinished is None else {"finished": False}
        _print_answers(path, answers, abstain=config.abstain or 0.0, as_json=config.json, note=note)
    for path, reason in loaded.problems:
        print(f"{path}: {reason}", file=sys.stderr)
    return 1 if loaded.problems else 0


def _run_and_photos(words: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """The run and the photos among the words; UserError if the first is neither, so that a slip is not overlooked."""
    from horovod_asl.boxed import DEFAULT, names_run
    from horovod_asl.data.file_names import PICTURE_SUFFIXES
    from horovod_asl.data.photos import pictures_in

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


def _expand(given: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for path in given:
        if str(path) == "-":
            paths += [Path(line.strip()) for line in sys.stdin if line.strip()]
        else:
            paths.append(path)
    if not paths:
        raise UserError("no photos: name files, folders, or - for a list on standard input")
    return paths


def _print_answers(
    path: str, answers: list[tuple[str, float]], *, abstain: float, as_json: bool, note: dict[str, bool]
) -> None:
    best, confidence = answers[0]
    is_sure = confidence >= abstain
    if as_json:
        top = [{"class": name, "probability": share} for name, share in answers]
        print(json.dumps({"photo": path, "class": best if is_sure else None, "top": top} | note))
    else:
        said = "  ".join(f"{name} {share:.1%}" for name, share in answers)
        print(f"{path}  {said if is_sure else f'?  ({said})'}")
