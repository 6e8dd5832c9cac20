"""Refuse a flag's value where it is declared, in one line that names the flag."""

from __future__ import annotations

from horovod_asl.errors import UserError

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 2048
"""Of stored and of drawn pictures, the side in pixels."""


def require_range(
    flag: str, value: float | None, low: float, high: float | None = None, *, unit: str = ""
) -> None:
    """UserError unless low ≤ value ≤ high (None: no upper limit); a value of None is one that was not given."""
    if value is None or (value >= low and (high is None or value <= high)):  # nan is neither
        return
    bounds = f"be at least {low}" if high is None else f"lie between {low} and {high}"
    raise UserError(f"{flag} {value} must {bounds}{unit and f' {unit}'}")
