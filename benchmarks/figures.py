"""A figure of the benchmark: a measured ratio, its two sides and its goal, and how table, JSON and plot show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import Measured


@dataclass(frozen=True)
class Goal:
    """What a figure should reach: at least, or at most, `bound`."""

    kind: Literal["≥", "≤"]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether the value is on the right side of the bound."""
        return value >= self.bound if self.kind == "≥" else value <= self.bound


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        id: P1 to P11.
        what: the two sides in words, ours first.
        value: the ratio, or another number in `unit`.
        unit: `×`, `%`, `s`, `GB/s`, …
        goal: None where the figure is only reported.
        sides: the numbers that it is made of, by name, units in the names.
        rounds: what each side printed in each round.
    """

    id: str
    what: str
    value: float
    unit: str = "×"
    goal: Goal | None = None
    sides: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where there is no goal."""
        if self.goal is None:
            return ""
        return "met" if self.goal.is_met(self.value) else "missed"


def per_second(
    id: str,
    what: str,
    ours: Measured,
    theirs: Measured,
    *,
    goal: Goal,
    key: str = "seconds",
    per: str = "photos",
) -> Figure:
    """Our pieces of work per second ÷ theirs; `per` is the key that counts the pieces."""
    rates = {f"{one.name} {per}/s": one.median(per) / one.median(key) for one in (ours, theirs)}
    mine, reference = rates.values()
    return Figure(id, what, mine / reference, "×", goal, rates, _rounds(key, ours, theirs))


def faster(
    id: str, what: str, ours: Measured, theirs: Measured, *, goal: Goal | None, key: str = "wall_seconds"
) -> Figure:
    """Their time ÷ ours, for the same work."""
    return _of_times(id, what, theirs.median(key) / ours.median(key), ours, theirs, goal, key)


def share(
    id: str, what: str, ours: Measured, theirs: Measured, *, goal: Goal, key: str = "seconds"
) -> Figure:
    """Our time ÷ theirs, where theirs is the least that the work can take."""
    return _of_times(id, what, ours.median(key) / theirs.median(key), ours, theirs, goal, key)


def _of_times(
    id: str, what: str, value: float, ours: Measured, theirs: Measured, goal: Goal | None, key: str
) -> Figure:
    times = {f"{one.name} s": one.median(key) for one in (ours, theirs)}
    return Figure(id, what, value, "×", goal, times, _rounds(key, ours, theirs))


def _rounds(key: str, *sides: Measured) -> dict[str, list[float]]:
    return {one.name: one.values(key) for one in sides}


def against_goals(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """What `plots.plot_figures` draws: the figures that have a goal, and by how much each is beyond it."""
    rows = []
    for figure in figures:
        if figure.goal is None:
            continue
        reached = (
            figure.value / figure.goal.bound if figure.goal.kind == "≥" else figure.goal.bound / figure.value
        )
        value = (
            f"{_number(figure.value)} {figure.unit} (goal {figure.goal.kind} {_number(figure.goal.bound)})"
        )
        rows.append({"name": f"{figure.id}  {figure.what}", "value": value, "reached": max(reached, 1e-3)})
    return rows


def table(figures: Sequence[Figure]) -> str:
    """The figures, two lines each: id, value, goal and what; below, the numbers that it is made of."""
    lines = []
    for figure in figures:
        value = f"{_number(figure.value)} {figure.unit}"
        goal = f"{figure.goal.kind} {_number(figure.goal.bound)} {figure.verdict}" if figure.goal else ""
        lines.append(f"{figure.id:<4}{value:>12}  {goal:<14}{figure.what}")
        if figure.sides:
            numbers = ", ".join(f"{name} {_number(number)}" for name, number in figure.sides.items())
            lines.append(f"{'':<32}{numbers}")
    return "\n".join(lines)


def write_json(path: Path, figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """The figures with every round, and the machine and versions that they are of."""
    rows = [asdict(figure) | {"verdict": figure.verdict} for figure in figures]
    text = json.dumps({"about": about, "figures": rows}, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
