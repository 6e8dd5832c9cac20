"""The page of an evaluation: right and wrong answers explained, the most confused pairs, and class by class."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from horovod_asl.reports.example_sheets import (
    ConfusedPair,
    Example,
    Panel,
    examples_sheet,
    pairs_sheet,
    panels_of,
    side_of_pair,
    strip,
    words_for_other,
)
from horovod_asl.reports.examples import Album, Readings, confused_pairs, explained
from horovod_asl.reports.plots import plot_confusion, plot_per_class
from horovod_asl.reports.score_tables import class_by_class, headline, score_table
from horovod_asl.reports.web_page import grid, page, picture
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.splits.recordings import listed
from horovod_asl.system.files import write_atomically
from horovod_asl.system.locks import locked

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
    folder: Path, scores: dict[str, Any], classifier: Classifier, album: Album, readings: Readings
) -> Path:
    """Draw the pictures of an evaluation into `folder` and write its page; the page's path.

    Another process that writes into the same folder waits: pictures and page are of one evaluation.

    Args:
        folder: one that `claim_report_folder` has seen.
        scores: the JSON of `horovod-asl evaluate`.
        album: where the photos of `readings` are.
    """
    wrong = _explained(classifier, album, readings, wrong=True)
    right = _explained(classifier, album, readings, wrong=False)
    pairs = confused_pairs(classifier, album, readings, scores)
    pictures = {
        WRONG: _sheet(
            wrong, f"Read wrongly: {len(wrong)} of {readings.wrongly().size:,}, each class's surest first"
        ),
        RIGHT: _sheet(
            right, f"Read rightly: {len(right)} of {readings.rightly().size:,}, each class's surest first"
        ),
        PAIRS: pairs_sheet(pairs, "Most confused") if pairs else None,
    }
    path = folder / PAGE
    with locked(folder / ".lock", f"another report is being written into {folder}"):
        for name, sheet in pictures.items():
            (folder / name).unlink(missing_ok=True)  # an earlier report's, of answers that are no more
            if sheet is not None:
                sheet.save(folder / name)
        plot_confusion(scores, f"{scores['top1']:.1%} of {scores['n']:,}", folder / CONFUSION)
        plot_per_class(scores, "class by class", folder / PER_CLASS)
        examples = [*_examples("Read wrongly", wrong), *_examples("Read rightly", right), *_pairs(pairs)]
        write_atomically(path, _page(scores, classifier, album, examples))
    return path


def _explained(classifier: Classifier, album: Album, readings: Readings, *, wrong: bool) -> list[Example]:
    photos = readings.spread(readings.wrongly() if wrong else readings.rightly(), _EXAMPLES)
    return explained(classifier, album, readings, photos, landmarks=True) if photos else []


def _sheet(examples: Sequence[Example], title: str) -> Image.Image | None:
    return examples_sheet(examples, title) if examples else None


def _examples(title: str, examples: Sequence[Example]) -> list[str]:
    if not examples:
        return [f"<h2>{title}</h2>", "<p>None.</p>"]
    panels = panels_of(examples)
    words = f"Each class's surest first. From left to right: {', '.join(panels)}."
    figures = [_example(example, panels) for example in examples]
    return [f"<h2>{title}</h2>", f'<p class="quiet">{html.escape(words)}</p>', grid(figures)]


def _example(example: Example, panels: dict[str, Panel]) -> str:
    said = example.shown if example.is_right else f"{example.shown} read as {example.said}"
    caption = f"{said}, {example.confidence:.0%} sure · {example.name}"
    return _photos(strip(example, [*panels.values()]), f"{said}: {', '.join(panels)}", caption)


def _pairs(pairs: Sequence[ConfusedPair]) -> list[str]:
    parts = ["<h2>Most confused</h2>", "" if pairs else "<p>None.</p>"]
    for pair in pairs:
        said = f"{pair.shown} read as {pair.said}"
        sides = [_side(pair.misread, said)]
        sides += [_side(pair.other, words_for_other(pair))] if pair.other else []
        parts += [f"<h3>{html.escape(said)}: {pair.count:,} of {pair.total:,} photos</h3>", grid(sides)]
    return parts


def _side(examples: Sequence[Example], words: str) -> str:
    sure = ", ".join(f"{example.confidence:.0%}" for example in examples)
    return _photos(side_of_pair(examples), f"photos: {words}", f"{words} ({sure} sure)")


def _photos(image: Image.Image, alt: str, caption: str) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=88)
    return picture(data.getvalue(), "image/jpeg", alt, caption=caption)


def _page(scores: dict[str, Any], classifier: Classifier, album: Album, examples: Sequence[str]) -> str:
    name = Path(scores["photos"]).name
    parts = [
        headline(scores, name),
        score_table([("all classes", scores)]),
        f"<p>{html.escape(_honesty(scores))}</p>",
        *examples,
        f'<p class="quiet">{html.escape(_notes(classifier, album))}</p>',
        *class_by_class(scores, name),
    ]
    subtitle = f"{scores['run']}, {_epoch(scores)} · {listed(scores['scored'])}"
    return page(f"{classifier.facts['model']} on {name}", subtitle, "\n".join(parts))


def _epoch(scores: dict[str, Any]) -> str:
    return f"epoch {scores['epoch']}" + ("" if scores["finished"] else " of a run that is not finished")


def _honesty(scores: dict[str, Any]) -> str:
    count = scores["photos_in_training"]
    if count is None:
        return f"Whether these photos were in training is not known: {scores['in_training_unknown_because']}."
    return f"{count:,} of these {scores['n']:,} photos were in training."


def _notes(classifier: Classifier, album: Album) -> str:
    notes = []
    if classifier.input_type == "landmarks":
        notes.append("The network reads landmarks alone, no pixels: there is no Grad-CAM of it.")
    else:
        notes.append(
            "Grad-CAM (Selvaraju et al. 2017) shows what spoke for the answer, the strongest place of each photo the "
            "brightest; how finely, the network's last feature maps decide."
        )
    if album.lack is not None:
        notes.append(f"No landmarks: {album.lack}.")
    return " ".join(notes)
