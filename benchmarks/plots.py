"""The benchmark's plots: its figures against their goals, and efficiency over ranks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from horovod_asl.reports.plots import BLUE, ORANGE, plain_axes, save


def plot_figures(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Figures on a logarithmic scale: each one's distance from its goal.

    `rows`: of each figure its `name`, its `value` as text, and `reached`, by how many times it is on the right side
    of its goal (below 1: missed).
    """
    figure, axes = plt.subplots(figsize=(11, 0.46 * len(rows) + 1.3), layout="constrained")
    beyond = np.log2([row["reached"] for row in rows])
    places = np.arange(len(rows))[::-1]
    axes.barh(places, beyond, color=[BLUE if value >= 0 else ORANGE for value in beyond], height=0.62)
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
    plain_axes(axes)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    save(figure, path)


def plot_scaling(found: Mapping[str, Any], title: str, path: Path) -> None:
    """Efficiency over ranks: measured on this machine, and predicted over a network, beside published figures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    marks = dict(zip(found["backends"], "os^v", strict=False))
    models = list(dict.fromkeys(row["model"] for row in found["predictions"]))
    colours = dict(zip(models, (BLUE, ORANGE, "#4a9a5b"), strict=False))
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
        plain_axes(axes)
        axes.legend(frameon=False, loc="lower left", fontsize=8)
    save(figure, path)
