"""The page of an evaluation: right and wrong answers explained, the most confused pairs, and class by class."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from horovod_asl.data.recordings import listed
from horovod_asl.errors import UserError
from horovod_asl.examples import Album, Readings, confused_pairs, explained
from horovod_asl.explain import examples_sheet, pairs_sheet
from horovod_asl.files import locked, write_atomically
from horovod_asl.inference import Predictor
from horovod_asl.report import STYLE, plot_confusion, plot_per_class, score_row, table
from horovod_asl.runfolder import RunFolder

RIGHT, WRONG, PAIRS = "right.png", "wrong.png", "confused.png"
CONFUSION, PER_CLASS, PAGE = "confusion.png", "per_class.png", "report.html"
_EXAMPLES = 24


def claim_report_folder(folder: Path) -> None:
    """Make the folder of a report; UserError where it cannot be, or where it would overwrite the report of a run."""
    if RunFolder(folder).holds_run():
        raise UserError(
            f"--report {folder} is a run folder, whose report.html is that of its training: name another, such as "
            f"{folder / 'evaluation'}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file of that name is there" if folder.is_file() else error.strerror
        raise UserError(f"--report {folder} cannot be made ({reason}): name another folder") from error


def write_evaluation_report(
    folder: Path, scores: dict[str, Any], predictor: Predictor, album: Album, readings: Readings
) -> Path:
    """Draw the pictures of an evaluation into `folder` and write its page; the page's path.

    Another process that writes into the same folder waits: pictures and page are of one evaluation.

    Args:
        folder: one that `claim_report_folder` has seen.
        scores: the JSON of `horovod-asl evaluate`.
        album: where the photos of `readings` are.
    """
    pictures = {
        WRONG: _examples(predictor, album, readings, readings.wrongly().size, wrong=True),
        RIGHT: _examples(predictor, album, readings, readings.rightly().size, wrong=False),
        PAIRS: _pairs(predictor, album, readings, scores),
    }
    page = folder / PAGE
    with locked(folder / ".lock", f"another report is being written into {folder}"):
        for name, picture in pictures.items():
            (folder / name).unlink(missing_ok=True)  # an earlier report's, of answers that are no more
            if picture is not None:
                picture.save(folder / name)
        plot_confusion(scores, f"{scores['top1']:.1%} of {scores['n']:,}", folder / CONFUSION)
        plot_per_class(scores, "class by class", folder / PER_CLASS)
        write_atomically(page, _page(scores, predictor, album, [name for name, one in pictures.items() if one]))
    return page


def _examples(
    predictor: Predictor, album: Album, readings: Readings, total: int, *, wrong: bool
) -> Image.Image | None:
    photos = readings.spread(readings.wrongly() if wrong else readings.rightly(), _EXAMPLES)
    if not photos:
        return None
    examples = explained(predictor, album, readings, photos, landmarks=True)
    title = f"Read {'wrongly' if wrong else 'rightly'}: {len(photos)} of {total:,}, each class's surest first"
    return examples_sheet(examples, title)


def _pairs(
    predictor: Predictor, album: Album, readings: Readings, scores: dict[str, Any]
) -> Image.Image | None:
    pairs = confused_pairs(predictor, album, readings, scores)
    return pairs_sheet(pairs, "Most confused") if pairs else None


_WORDS = {
    WRONG: (
        "Read wrongly",
        "photos that were read wrongly, what the network looked at, and the hand's landmarks",
    ),
    RIGHT: (
        "Read rightly",
        "photos that were read rightly, what the network looked at, and the hand's landmarks",
    ),
    PAIRS: ("Most confused", "photos of a class that were read as another, beside photos of that other"),
}

_PAGE = Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style
 body { max-width: 72rem; }
</style>
<h1>$title</h1>
<p class="quiet">$subtitle</p>
$scores
<p>$honesty</p>
$pictures
<p class="quiet">$notes</p>
<h2>Class by class</h2><img src="$per_class" alt="recall and precision by class">
<img src="$confusion" alt="confusion matrix">
</html>
"""
)


def _page(scores: dict[str, Any], predictor: Predictor, album: Album, pictures: Sequence[str]) -> str:
    sections = [
        f'<h2>{title}</h2><img src="{name}" alt="{html.escape(words)}">'
        if name in pictures
        else f"<h2>{title}</h2><p>None.</p>"
        for name, (title, words) in _WORDS.items()
    ]
    return _PAGE.substitute(
        style=STYLE,
        title=html.escape(f"{predictor.facts['model']} on {Path(scores['photos']).name}"),
        subtitle=html.escape(f"{scores['run']}, {_epoch(scores)} · {listed(scores['scored'])}"),
        scores=table(
            ("", "photos", "top-1", "top-3", "macro F1", "NLL", "ECE"), [score_row("all classes", scores)]
        ),
        honesty=html.escape(_honesty(scores)),
        pictures="\n".join(sections),
        notes=html.escape(_notes(predictor, album)),
        per_class=PER_CLASS,
        confusion=CONFUSION,
    )


def _epoch(scores: dict[str, Any]) -> str:
    return f"epoch {scores['epoch']}" + ("" if scores["finished"] else " of a run that is not finished")


def _honesty(scores: dict[str, Any]) -> str:
    count = scores["photos_in_training"]
    if count is None:
        return f"Whether these photos were in training is not known: {scores['in_training_unknown_because']}."
    return f"{count:,} of these {scores['n']:,} photos were in training."


def _notes(predictor: Predictor, album: Album) -> str:
    notes = []
    if predictor.sees == "landmarks":
        notes.append("The network reads landmarks alone, no pixels: there is no Grad-CAM of it.")
    else:
        notes.append(
            "Grad-CAM (Selvaraju et al. 2017) shows what spoke for the answer, the strongest place of each photo the "
            "brightest; how finely, the network's last feature maps decide."
        )
    if album.lack is not None:
        notes.append(f"No landmarks: {album.lack}.")
    return " ".join(notes)
