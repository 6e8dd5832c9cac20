"""Scores as HTML: tables, a bar for each class, the confusion matrix."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from horovod_asl.reports.plots import most_confused
from horovod_asl.reports.web_page import SHADES, table

_HEAD = ("", "photos", "top-1", "top-3", "macro F1", "NLL", "ECE")
_WORDS = (
    '<p class="quiet">Top-1: the likeliest answer is right; top-3: one of the three likeliest is. Macro F1: of '
    "precision and recall, averaged over classes. NLL: negative log-likelihood, in nats. ECE: how far the stated "
    "confidence is off, on average.</p>"
)


def headline(scores: Mapping[str, Any], name: str) -> str:
    """The one figure, in large."""
    words = f"of {scores['n']:,} photos classified correctly ({html.escape(name)})"
    return f'<p class="lead"><b>{scores["top1"]:.1%}</b> {words}</p>'


def score_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A row for each set of photos, by its name, and what the figures mean."""
    return table(_HEAD, [_score_row(name, scores) for name, scores in rows]) + "\n" + _WORDS


def _score_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a table of scores says of a set of photos: name, photos, top-1, top-3, macro F1, NLL, ECE."""
    shares = (f"{row[key]:.2%}" for key in ("top1", "top3"))
    return (name, f"{row['n']:,}", *shares, *(f"{row[key]:.3f}" for key in ("macro_f1", "nll", "ece")))


def class_by_class(scores: Mapping[str, Any], name: str) -> list[str]:
    """HTML: the most confused pairs, every class, and the confusion matrix of a set of photos called `name`."""
    pairs = [(shown, said, f"{count:,}", f"{total:,}") for shown, said, count, total in most_confused(scores)]
    return [
        f"<h2>Class by class ({html.escape(name)})</h2>",
        table(("shown", "read as", "photos", "of"), pairs)
        if pairs
        else "<p>No class is taken for another.</p>",
        "<h2>Every class, the worst first</h2>",
        '<p class="quiet">Recall: of the photos of a class, those that were read as it. Precision: of the photos '
        "that were read as it, those that are.</p>",
        bars(scores),
        "<h2>Confusion matrix</h2>",
        '<p class="quiet">A row is what a photo shows, a column what it was read as, in % of the row; · is less '
        "than half a percent. The table scrolls.</p>",
        matrix(scores),
    ]


def bars(scores: Mapping[str, Any]) -> str:
    """Recall of every class that occurs as a bar, worst first, with its precision."""
    rows = [(name, row) for name, row in scores["per_class"].items() if row["n"]]
    rows.sort(key=lambda item: item[1]["recall"])
    lines = "\n".join(
        f'<tr><td>{html.escape(name)}</td><td class="bar"><i style="width:{row["recall"]:.1%}"></i></td>'
        f'<td class="n">{row["recall"]:.1%}</td><td class="n">{row["precision"]:.1%}</td>'
        f'<td class="n">{row["n"]:,}</td></tr>'
        for name, row in rows
    )
    head = "".join(f'<th class="n">{name}</th>' for name in ("recall", "precision", "photos"))
    return (
        f'<div class="scroll" tabindex="0"><table class="bars"><tr><th>class</th><th></th>{head}</tr>\n'
        f"{lines}</table></div>"
    )


def matrix(scores: Mapping[str, Any]) -> str:
    """The confusion matrix in % of each true class; it scrolls, and the names of the classes stay."""
    counts = np.array(scores["confusion"], dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [html.escape(name) for name in scores["classes"]]
    long = ['class="long"' if len(name) > 1 else "" for name in names]
    head = "".join(f"<th {kind}>{name}</th>" for name, kind in zip(names, long, strict=True))
    body = "\n".join(
        f"<tr><th>{name}</th>{''.join(map(_cell, counts[row], shares[row]))}</tr>"
        for row, name in enumerate(names)
    )
    return (
        '<div class="matrix" tabindex="0" role="region" aria-label="confusion matrix"><table>\n'
        f"<thead><tr><th>%</th>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(count: float, share: float) -> str:
    if not count:
        return "<td></td>"
    shade = max(1, round(share * (SHADES - 1)))
    return (
        f'<td class="s{shade}">{100 * share:.0f}</td>' if share >= 0.005 else f'<td class="s{shade}">·</td>'
    )
