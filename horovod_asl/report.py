"""What is drawn of a run or of several: curves, confusion matrix, per-class bars, figures of a benchmark."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

NAMES = {"train": "training recordings", "validation": "validation", "test": "held-out recordings"}
_BLUE, _ORANGE, _GRID = "#2f6db3", "#d9742b", "#e6e8eb"
_DARK_GRID = "#363c44"
_DARK: dict[Any, Any] = {
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e8eaed"
    ),
}


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy over epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    _draw_curve(left, history, "loss")
    _draw_curve(right, history, "accuracy")
    _save(figure, path)


def _draw_curve(axes: Axes, history: Sequence[Mapping[str, Any]], panel: str) -> None:
    keys, factor = ("train_loss", "validation_nll"), 1
    if panel == "accuracy":
        keys, factor = ("train_top1", "validation_top1"), 100
    epochs = [row["epoch"] for row in history]
    for key, colour, name in zip(keys, (_BLUE, _ORANGE), ("training (augmented)", "validation"), strict=True):
        if history and key in history[0]:
            values = [factor * row[key] for row in history]
            axes.plot(epochs, values, color=colour, marker="o" if len(epochs) < 3 else None, label=name)
    if panel == "loss":
        axes.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
        axes.legend(frameon=False, loc="upper right")
    else:
        axes.set(xlabel="epoch", ylabel="photos read rightly (%)", ylim=(0, 101))
        axes.legend(frameon=False, loc="lower right")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain_axes(axes)


def curve_svg(history: Sequence[Mapping[str, Any]], panel: str, *, dark: bool) -> bytes:
    """One of the two panels as SVG without a background, for a light page or a dark one."""
    drawn = io.BytesIO()
    with matplotlib.rc_context(
        {**(_DARK if dark else {}), "figure.facecolor": "none", "svg.hashsalt": panel}
    ):
        figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
        _draw_curve(axes, history, panel)
        axes.grid(axis="y", color=_DARK_GRID if dark else _GRID)
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    return drawn.getvalue()


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
        ("top1", 100, f"{NAMES[rows[0]['scored_split']]}, top-1 (%)", "{:.1f}", _ORANGE),
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
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
