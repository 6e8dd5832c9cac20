"""Which ranks keep the others waiting, from what each last reported of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What a rank last said of itself: `collectives` counts those that it has come to, `heard_s` is when."""

    rank: int
    host: str
    step: int
    collectives: int
    heard_s: float


def diagnose(reports: dict[int, Report], world_size: int, *, now_s: float, silent_after_s: float) -> str:
    """Which ranks keep the others waiting, in words; empty if none stands out."""
    absent = [rank for rank in range(world_size) if rank not in reports]
    if absent:
        return f"nothing was heard of rank {_numbers(absent)}"
    silent = [report for report in reports.values() if now_s - report.heard_s > silent_after_s]
    if silent:
        return "; ".join(
            f"rank {report.rank} on {report.host} is silent since {now_s - report.heard_s:.0f} s, last heard of "
            f"in step {report.step}: its process, its host or the network has stopped"
            for report in silent[:8]
        )
    furthest = max(report.collectives for report in reports.values())
    behind = [report for report in reports.values() if report.collectives < furthest]
    return "; ".join(
        f"rank {report.rank} on {report.host} is alive in step {report.step} but does not come to where the "
        "others wait"
        for report in behind[:8]
    )


def _numbers(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (" …" if len(ranks) > 8 else "")
