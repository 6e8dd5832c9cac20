"""`prepare_store` with its options side by side, for tests that set one or two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from horovod_asl.prepare.options import PhotoSelection, PrepareOptions, Reporter, StoreFormat, Tolerance
from horovod_asl.prepare.pipeline import PrepareReport, prepare_store
from horovod_asl.splits.split import SplitRule


def prepare_with(
    sources: Iterable[object],
    store: Path,
    *,
    split: SplitRule = SplitRule(),  # noqa: B008
    tolerance: Tolerance = Tolerance(),  # noqa: B008
    workers: int | None = 1,
    log: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> PrepareReport:
    """Prepare on one worker (a second one costs its start), silently; `options` are fields of `PhotoSelection` and
    `StoreFormat`."""
    names = {field.name for field in fields(StoreFormat)}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    selection = {name: value for name, value in chosen.items() if name not in names}
    report = prepare_store(
        store,
        PrepareOptions(
            PhotoSelection(tuple(map(str, sources)), **selection),
            StoreFormat(**{name: value for name, value in chosen.items() if name in names}),
            split,
            tolerance,
        ),
        workers=workers,
        reporter=Reporter(log=log),
    )
    assert report is not None
    return report
