"""What a person looks at after a run: curves, confusion matrix, per-class bars, and one page that holds them."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from horovod_asl.data.recordings import listed
from horovod_asl.files import write_atomically
from horovod_asl.runfolder import METRICS, RESULT, RunFolder, training_unknown

_NAMES = {"train": "training recordings", "validation": "validation", "test": "held-out recordings"}
_BLUE, _ORANGE = "#2f6db3", "#d9742b"


def write_report(folder: RunFolder) -> Path:
    """Draw the plots of a finished run and write report.html; the page's path."""
    history = [json.loads(line) for line in (folder.path / METRICS).read_text(encoding="utf-8").splitlines()]
    result = json.loads((folder.path / RESULT).read_text(encoding="utf-8"))
    split = next(name for name in ("test", "validation", "train") if name in result["scores"])
    scores = result["scores"][split]
    plot_curves(history, folder.path / "curves.png")
    plot_confusion(
        scores, f"{_NAMES[split]}: {scores['top1']:.1%} of {scores['n']:,}", folder.path / "confusion.png"
    )
    plot_per_class(scores, _NAMES[split], folder.path / "per_class.png")
    page = folder.path / "report.html"
    write_atomically(page, _page(folder, result, scores, split))
    return page


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy over epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 3 else None
    curves = [(left, "train_loss", 1, _BLUE), (right, "train_top1", 100, _BLUE)]
    if history and "validation_top1" in history[0]:
        curves += [(left, "validation_nll", 1, _ORANGE), (right, "validation_top1", 100, _ORANGE)]
    names = {_BLUE: "training (augmented)", _ORANGE: "validation"}
    for axes, figures, factor, colour in curves:
        values = [factor * row[figures] for row in history]
        axes.plot(epochs, values, color=colour, marker=marker, label=names[colour])
    left.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="photos read rightly (%)", ylim=(0, 101))
    for axes in (left, right):
        _plain_axes(axes)
    right.legend(frameon=False, loc="lower right")
    _save(figure, path)


def plot_confusion(scores: Mapping[str, Any], title: str, path: Path) -> None:
    """The confusion matrix as shares of each true class; numbers where at least 1 %."""
    confusion = np.array(scores["confusion"], dtype=float)
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    classes = scores["classes"]
    figure, axes = plt.subplots(figsize=(10, 9.4), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(shares >= 1), strict=True):
        colour = "white" if shares[row, column] > 55 else "#333333"
        axes.text(
            column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=6.5, color=colour
        )
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="read as", ylabel="shown", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.6, label="% of the class", pad=0.02).outline.set_visible(False)
    _save(figure, path)


def plot_per_class(scores: Mapping[str, Any], title: str, path: Path) -> None:
    """Recall and precision of every class that occurs, worst recall first."""
    rows = [(name, row) for name, row in scores["per_class"].items() if row["n"]]
    rows.sort(key=lambda item: item[1]["recall"])
    figure, axes = plt.subplots(figsize=(10, 3.8), layout="constrained")
    places = np.arange(len(rows))
    axes.bar(places, [100 * row["recall"] for _, row in rows], color=_BLUE, width=0.7, label="recall")
    axes.plot(
        places,
        [100 * row["precision"] for _, row in rows],
        "o",
        color=_ORANGE,
        markersize=4,
        label="precision",
    )
    axes.set_xticks(places, [name for name, _ in rows])
    axes.set(ylabel="%", ylim=(0, 104), xlim=(-0.6, len(rows) - 0.4))
    axes.set_title(f"{title}: worst class first", loc="left", fontsize=11)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    _plain_axes(axes)
    _save(figure, path)


def plot_figures(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """A benchmark's figures on a logarithmic scale: each one's distance from its goal.

    `rows`: of each figure its `name`, its `value` as text, and `reached`, by how many times it is on the right side
    of its goal (below 1: missed).
    """
    figure, axes = plt.subplots(figsize=(11, 0.46 * len(rows) + 1.3), layout="constrained")
    beyond = np.log2([row["reached"] for row in rows])
    places = np.arange(len(rows))[::-1]
    axes.barh(places, beyond, color=[_BLUE if value >= 0 else _ORANGE for value in beyond], height=0.62)
    axes.axvline(0, color="#333333", linewidth=1)
    axes.set_yticks(places, [textwrap.fill(row["name"], 62) for row in rows], fontsize=8)
    for place, row, value in zip(places, rows, beyond, strict=True):
        at = (max(0.0, value), place)  # to the right also of a bar that points left: there are the names
        axes.annotate(row["value"], at, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(min(-1.0, beyond.min() - 0.3), max(1.0, beyond.max()) + 2.5)
    ticks = np.arange(np.ceil(axes.get_xlim()[0]), np.floor(axes.get_xlim()[1]) + 1)
    axes.set_xticks(ticks, [f"{2.0**tick:g}×" for tick in ticks])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("how many times beyond its goal (orange: short of it)")
    axes.set_title(title, loc="left", fontsize=11)
    _plain_axes(axes)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    _save(figure, path)


def plot_scaling(found: Mapping[str, Any], title: str, path: Path) -> None:
    """Efficiency over ranks: measured on this machine, and predicted over a network, beside published figures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    marks = dict(zip(found["backends"], "os^v", strict=False))
    models = list(dict.fromkeys(row["model"] for row in found["predictions"]))
    colours = dict(zip(models, (_BLUE, _ORANGE, "#4a9a5b"), strict=False))
    for name, about in found["backends"].items():
        for model in models:
            rows = [row for row in about["observations"] if row["model"] == model]
            left.plot(
                [row["ranks"] for row in rows],
                [100 * row["efficiency"] for row in rows],
                marks[name] + ("-" if name == "horovod" else "--"),
                color=colours[model],
                label=f"{name}, {model}",
            )
    for model in models:
        rows = [row for row in found["predictions"] if row["model"] == model]
        places = [row["ranks"] for row in rows]
        right.plot(
            places,
            [100 * row["efficiency"] for row in rows],
            "o-",
            color=colours[model],
            label=f"predicted, {model}",
        )
    for ranks, share, models_ in found["published"]:
        right.plot(ranks, 100 * share, "*", color="#333333", markersize=10)
        right.annotate(
            models_, (ranks, 100 * share), xytext=(4, 9), textcoords="offset points", ha="right", fontsize=8
        )
    network = found["network"]
    left.set(
        xlabel="ranks on this machine", ylabel="efficiency (%)", xscale="log", ylim=(0, 125), title=title
    )
    right.set(xlabel="ranks, one per machine", xscale="log")
    right.set_title(
        f"predicted over {network['gbit_per_second']:g} Gbit/s, {network['latency_us']:g} µs; ★ published"
    )
    for axes in (left, right):
        axes.title.set_fontsize(10)
        ticks = sorted({round(x) for line in axes.lines for x in line.get_xdata()})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        _plain_axes(axes)
        axes.legend(frameon=False, loc="lower left", fontsize=8)
    _save(figure, path)


def plot_comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Photos per second and accuracy of the same job under several backends."""
    names = [f"{row['backend']}\n{row['replicas']} replica{'s' * (row['replicas'] > 1)}" for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    panels = (
        ("photos_per_second", 1, "photos/s", "{:,.0f}", _BLUE),
        ("top1", 100, f"{_NAMES[rows[0]['scored_split']]}, top-1 (%)", "{:.1f}", _ORANGE),
    )
    for panel, (key, factor, label, form, colour) in zip(axes, panels, strict=True):
        bars = panel.bar(names, [factor * row[key] for row in rows], color=colour, width=0.6)
        panel.bar_label(bars, fmt=form, padding=2)
        panel.set(ylabel=label)
        panel.margins(y=0.15)
        _plain_axes(panel)
    _save(figure, path)


def plot_coverage(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What abstaining gains: accuracy among the answered against their share, a line for each held-out set.

    `rows`: of each its name `held_out`, and `curve`, points {coverage, accuracy}.
    """
    figure, axes = plt.subplots(figsize=(9.0, 4.6), layout="constrained")
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    styles = ("-", "--", ":", "-.")
    for index, row in enumerate(rows):
        points = sorted((p["coverage"], p["accuracy"]) for p in row["curve"] if p["accuracy"] is not None)
        shares, accuracies = zip(*points, strict=True)
        axes.plot(
            [100 * share for share in shares],
            [100 * accuracy for accuracy in accuracies],
            color=colours[index % len(colours)],
            linestyle=styles[index // len(colours) % len(styles)],
            label=f"{row['held_out']} ({accuracies[-1]:.1%} of all)",
        )
    axes.axhline(95, color="#6b7178", linewidth=0.8, linestyle=(0, (4, 4)))
    axes.set(
        xlabel="photos answered (%)", ylabel="of these read rightly (%)", xlim=(0, 101), ylim=(None, 101)
    )
    axes.set_title("Held out, surest answers first", loc="left", fontsize=11)
    _plain_axes(axes)
    figure.legend(frameon=False, loc="outside right center", fontsize=9)  # beside the lines, however many
    _save(figure, path)


def most_confused(scores: Mapping[str, Any], count: int = 8) -> list[tuple[str, str, int, int]]:
    """The pairs (shown, read as, photos, photos of the class) that cost the most photos."""
    confusion = np.array(scores["confusion"])
    totals = confusion.sum(1)
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(wrong, axis=None)[::-1][:count]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    classes = scores["classes"]
    return [(classes[i], classes[j], int(wrong[i, j]), int(totals[i])) for i, j in places if wrong[i, j]]


def _plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb")
    axes.set_axisbelow(True)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)


STYLE = """\
 body { font: 16px/1.5 system-ui, sans-serif; color: #22262b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
 h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
 table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; }
 td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr + tr td { border-top: 1px solid #e6e8eb; }
 img { max-width: 100%; } .quiet { color: #6b7178; }"""

_PAGE = Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style
</style>
<h1>$title</h1>
<p class="quiet">$subtitle</p>
<h2>Scores</h2>
$scores
<p>Hands in training: $trained_on. $honesty</p>
<h2>Training</h2><img src="curves.png" alt="loss and accuracy by epoch">
<h2>Class by class ($split)</h2><img src="per_class.png" alt="recall and precision by class">
$confused
<img src="confusion.png" alt="confusion matrix">
<h2>Settings</h2>
$settings
</html>
"""
)


_HONESTY = {
    "random": "The split is random: neighbouring frames are on both sides, so this says nothing about other people.",
    "folders": "The split is that of the photos' folders: they do not say whether the same people are on two sides.",
}


def _page(folder: RunFolder, result: Mapping[str, Any], scores: Mapping[str, Any], split: str) -> str:
    facts = folder.facts()
    rule = facts["split_rule"]["kind"]
    honesty = _HONESTY.get(rule, "No recording is on two sides of the split.")
    unknown = folder.unknown_weights()
    if unknown is not None:
        honesty += f" But {training_unknown(unknown)}."
    return _PAGE.substitute(
        style=STYLE,
        title=html.escape(f"{facts['model']}, epoch {result['epoch']}"),
        subtitle=html.escape(
            f"{folder.path.name} · {result['seconds']:.0f} s · torch {facts['versions']['torch']}"
        ),
        scores=table(
            ("", "photos", "top-1", "top-3", "macro F1", "NLL", "ECE"),
            [score_row(_NAMES[name], row) for name, row in result["scores"].items()],
        ),
        trained_on=html.escape(listed(facts["trained_on"])),
        honesty=html.escape(honesty),
        split=html.escape(_NAMES[split]),
        confused=table(
            ("shown", "read as", "photos", "of"),
            [(a, b, str(n), str(of)) for a, b, n, of in most_confused(scores)],
        ),
        settings=table(("", ""), [(name, str(value)) for name, value in facts["settings"].items()]),
    )


def score_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a table of scores says of a set of photos: name, photos, top-1, top-3, macro F1, NLL, ECE."""
    shares = (f"{row[key]:.2%}" for key in ("top1", "top3"))
    return (name, f"{row['n']:,}", *shares, *(f"{row[key]:.3f}" for key in ("macro_f1", "nll", "ece")))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain text; cells that begin with a digit stand on the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        numeric = [
            ' class="n"' if cell[:1].isdigit() or (tag == "th" and i > 0) else ""
            for i, cell in enumerate(cells)
        ]
        return "".join(
            f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for cell, kind in zip(cells, numeric, strict=True)
        )

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table>\n<tr>{line(head, 'th')}</tr>\n{body}\n</table>"
