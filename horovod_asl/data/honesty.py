"""What prepare does about photos that stand on two sides of a split: refuse, drop from training, or (random)
report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from horovod_asl.data.chunks import PixelBank
from horovod_asl.data.leaks import Leaks, Rows, find_leaks
from horovod_asl.data.split import SplitRule
from horovod_asl.data.store_writer import IndexRow, Problem
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX


def settle_leaks(
    rows: Sequence[IndexRow], bank: PixelBank, split: SplitRule, *, drop: bool, say: Callable[[str], None]
) -> tuple[list[IndexRow], list[Problem]]:
    """The rows that may stay, and those dropped from the earlier side (train, validation), with the reason.

    UserError if there are leaks and neither `drop` nor a random split, which reports them and keeps
    everything.
    """
    splits = np.array([row.split for row in rows], dtype=object)
    leaks = _leaks(rows, splits, bank)
    if split.kind == "random":
        say(
            "warning: a random split puts neighbouring frames of one take on both sides, so its score says "
            f"little about another hand. Here: {leaks.summary(splits)}"
        )
        return list(rows), []
    if not len(leaks):
        return list(rows), []
    if not drop:
        raise UserError(_message(rows, leaks, splits))
    return _without(rows, leaks)


def _leaks(rows: Sequence[IndexRow], splits: NDArray[np.object_], bank: PixelBank) -> Leaks:
    def gather(wanted: Rows) -> NDArray[np.uint8]:
        return np.stack([bank.pixels(rows[row].sha256) for row in wanted])

    return find_leaks(
        splits,
        labels=np.array([CLASS_INDEX[row.label] for row in rows], np.int64),
        digests=np.array([row.sha256 for row in rows], dtype=object),
        hashes=np.array([int(row.phash, 16) for row in rows], np.uint64),
        gather=gather,
    )


def _message(rows: Sequence[IndexRow], leaks: Leaks, splits: NDArray[np.object_]) -> str:
    other, held = rows[leaks.other[0]], rows[leaks.held[0]]
    return (
        f"the split leaks: {leaks.summary(splits)}; for example {held.source}/{held.path} ({held.split}) is "
        f"{other.source}/{other.path} ({other.split}); leave one source out, put both recordings on one side "
        "(--group-by, --test, --validation), or take the copies out of training with --drop-duplicates"
    )


def _without(rows: Sequence[IndexRow], leaks: Leaks) -> tuple[list[IndexRow], list[Problem]]:
    reasons: dict[int, str] = {}
    for other, held, exact in zip(
        leaks.other.tolist(), leaks.held.tolist(), leaks.exact.tolist(), strict=True
    ):
        kind = "the same bytes as" if exact else "the same picture as"
        kept = rows[held]
        reasons.setdefault(other, f"dropped: {kind} {kept.source}/{kept.path} ({kept.split})")
    left = [row for number, row in enumerate(rows) if number not in reasons]
    dropped = [
        Problem(rows[number].source, rows[number].path, why) for number, why in sorted(reasons.items())
    ]
    return left, dropped
