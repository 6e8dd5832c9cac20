"""report.html of a run: its scores, curves, classes and settings on one page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from horovod_asl.reports.plots import NAMES, curve_svg, plot_confusion, plot_curves, plot_per_class
from horovod_asl.reports.score_tables import class_by_class, headline, score_table
from horovod_asl.reports.web_page import grid, page, picture, table
from horovod_asl.runs.run_folder import METRICS, RESULT, RunFolder, training_unknown
from horovod_asl.splits.recordings import listed
from horovod_asl.system.files import write_atomically


def write_report(folder: RunFolder) -> Path:
    """Draw the plots of a finished run and write report.html; the page's path."""
    history = [json.loads(line) for line in (folder.path / METRICS).read_text(encoding="utf-8").splitlines()]
    result = json.loads((folder.path / RESULT).read_text(encoding="utf-8"))
    split = next(name for name in ("test", "validation", "train") if name in result["scores"])
    scores = result["scores"][split]
    plot_curves(history, folder.path / "curves.png")
    plot_confusion(
        scores, f"{NAMES[split]}: {scores['top1']:.1%} of {scores['n']:,}", folder.path / "confusion.png"
    )
    plot_per_class(scores, NAMES[split], folder.path / "per_class.png")
    path = folder.path / "report.html"
    write_atomically(path, _page(folder, history, result, scores, split))
    return path


_HONESTY = {
    "random": "The split is random: neighbouring frames are on both sides, so this says nothing about other people.",
    "folders": "The split is that of the photos' folders: they do not say whether the same people are on two sides.",
}


def _page(
    folder: RunFolder,
    history: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    scores: Mapping[str, Any],
    split: str,
) -> str:
    facts = folder.facts()
    parts = [
        headline(scores, _name(split, result)),
        score_table([(_name(name, result), row) for name, row in result["scores"].items()]),
        f"<p>{html.escape(_honesty(folder, facts, result))}</p>",
        "<h2>Training</h2>",
        grid([_curve(history, "loss"), _curve(history, "accuracy")]),
        *class_by_class(scores, NAMES[split]),
        "<h2>Settings</h2>",
        table(("", ""), [(name, str(value)) for name, value in facts["settings"].items()]),
    ]
    return page(
        f"{facts['model']}, epoch {result['epoch']}",
        f"{folder.path.name} · {result['seconds']:.0f} s · torch {facts['versions']['torch']}",
        "\n".join(parts),
    )


def _name(split: str, result: Mapping[str, Any]) -> str:
    """What a split is called; one whose photos the first weights have seen is no measure, and says so."""
    return f"{NAMES[split]}, seen in training" if split in _seen(result) else NAMES[split]


def _seen(result: Mapping[str, Any]) -> Mapping[str, int]:
    """Photos that the first weights have seen, by the name of their split; an older version refused such runs."""
    seen: Mapping[str, int] = result.get("held_out_in_training", {})
    return seen


def _honesty(folder: RunFolder, facts: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    split = _HONESTY.get(facts["split_rule"]["kind"], "No recording is on two sides of the split.")
    words = f"Hands in training: {listed(facts['trained_on'])}. {split}"
    if seen := sum(_seen(result).values()):
        words += (
            f" But {seen:,} of the photos that were held out were in the training of the weights with which this run "
            "began: their scores say nothing about other people."
        )
    unknown = folder.unknown_weights()
    return words if unknown is None else f"{words} But {training_unknown(unknown)}."


def _curve(history: Sequence[Mapping[str, Any]], panel: str) -> str:
    light, dark = (curve_svg(history, panel, dark=is_dark) for is_dark in (False, True))
    return picture(light, "image/svg+xml", f"{panel} by epoch, in training and on validation", dark=dark)
