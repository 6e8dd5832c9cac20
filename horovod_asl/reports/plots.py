"""What is drawn of a run or of several: curves, confusion matrix, per-class bars."""

from __future__ import annotations

import io
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
BLUE, ORANGE, _GRID = "#2f6db3", "#d9742b", "#e6e8eb"
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
    save(figure, path)


def _draw_curve(axes: Axes, history: Sequence[Mapping[str, Any]], panel: str) -> None:
    keys, factor = ("train_loss", "validation_nll"), 1
    if panel == "accuracy":
        keys, factor = ("train_top1", "validation_top1"), 100
    epochs = [row["epoch"] for row in history]
    for key, colour, name in zip(keys, (BLUE, ORANGE), ("training (augmented)", "validation"), strict=True):
        if history and key in history[0]:
            values = [factor * row[key] for row in history]
            axes.plot(epochs, values, color=colour, marker="o" if len(epochs) < 3 else None, label=name)
    if panel == "loss":
        axes.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
        axes.legend(frameon=False, loc="upper right")
    else:
        axes.set(xlabel="epoch", ylabel="photos correctly classified (%)", ylim=(0, 101))
        axes.legend(frameon=False, loc="lower right")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)


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
    save(figure, path)


def plot_per_class(scores: Mapping[str, Any], title: str, path: Path) -> None:
    """Recall and precision of every class that occurs, worst recall first."""
    rows = [(name, row) for name, row in scores["per_class"].items() if row["n"]]
    rows.sort(key=lambda item: item[1]["recall"])
    figure, axes = plt.subplots(figsize=(10, 3.8), layout="constrained")
    places = np.arange(len(rows))
    axes.bar(places, [100 * row["recall"] for _, row in rows], color=BLUE, width=0.7, label="recall")
    axes.plot(
        places,
        [100 * row["precision"] for _, row in rows],
        "o",
        color=ORANGE,
        markersize=4,
        label="precision",
    )
    axes.set_xticks(places, [name for name, _ in rows])
    axes.set(ylabel="%", ylim=(0, 104), xlim=(-0.6, len(rows) - 0.4))
    axes.set_title(f"{title}: worst class first", loc="left", fontsize=11)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    plain_axes(axes)
    save(figure, path)


def plot_comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Photos per second and accuracy of the same job under several backends."""
    names = [f"{row['backend']}\n{row['replicas']} replica{'s' * (row['replicas'] > 1)}" for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    panels = (
        ("photos_per_second", 1, "photos/s", "{:,.0f}", BLUE),
        ("top1", 100, f"{NAMES[rows[0]['scored_split']]}, top-1 (%)", "{:.1f}", ORANGE),
    )
    for panel, (key, factor, label, form, colour) in zip(axes, panels, strict=True):
        bars = panel.bar(names, [factor * row[key] for row in rows], color=colour, width=0.6)
        panel.bar_label(bars, fmt=form, padding=2)
        panel.set(ylabel=label)
        panel.margins(y=0.15)
        plain_axes(panel)
    save(figure, path)


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
        xlabel="photos answered (%)", ylabel="of these correctly classified (%)", xlim=(0, 101), ylim=(None, 101)
    )
    axes.set_title("Held out, surest answers first", loc="left", fontsize=11)
    plain_axes(axes)
    figure.legend(frameon=False, loc="outside right center", fontsize=9)  # beside the lines, however many
    save(figure, path)


def most_confused(scores: Mapping[str, Any], count: int = 8) -> list[tuple[str, str, int, int]]:
    """The pairs (shown, read as, photos, photos of the class) that cost the most photos."""
    confusion = np.array(scores["confusion"])
    totals = confusion.sum(1)
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(wrong, axis=None)[::-1][:count]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    classes = scores["classes"]
    return [(classes[i], classes[j], int(wrong[i, j]), int(totals[i])) for i, j in places if wrong[i, j]]


def plain_axes(axes: Axes) -> None:
    """Leave the upper and the right edge out, and put a faint grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)


def save(figure: Any, path: Path) -> None:
    """Write the figure as a picture, and forget it."""
    figure.savefig(path, dpi=120)
    plt.close(figure)
