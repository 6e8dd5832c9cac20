"""What a prepare does to the store that is already there: nothing, or a replacement, and what that changes.

A store of another data set is not replaced: hours of finding hands would go with it. It is another one if under half
of the photos in the old store, by the SHA-256 of their files, are in the new.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from horovod_asl.errors import UserError
from horovod_asl.photos.decode import DECODER_VERSION, PhotoError
from horovod_asl.prepare.writer import Content, index_text, problems_text
from horovod_asl.sources.sources import DRAWN, SourcePhoto
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import COPIES_KEY, INDEX, MANIFEST, PROBLEMS, is_copy

_SURE = 20
"""If half of the old photos were among the new, a sample would miss them all once in e^20."""
_MOST_SAMPLED = 2000


def refuse_if_surely_another_set(store: Path, photos: Sequence[SourcePhoto]) -> None:
    """UserError if the store at `store` is surely of another data set: too few new photos, or a sample of them of
    which none is in it. Reads that sample alone; `refuse_another_set` decides in the end."""
    old = _digests(store)
    if not old:
        return
    count = -(-_SURE * 2 * len(photos) // len(old))
    rows = np.random.default_rng(0).permutation(len(photos))[:count].tolist()
    is_sampled = count <= _MOST_SAMPLED and not any(_digest(photos[row]) in old for row in rows)
    if is_sampled or 2 * len(photos) < len(old):
        raise _another_set(store, old)


def refuse_another_set(store: Path, digests: Iterable[str]) -> None:
    """UserError if under half of the photos of the store at `store` are among these SHA-256."""
    old = _digests(store)
    if 2 * len(old.intersection(digests)) < len(old):
        raise _another_set(store, old)


def _another_set(store: Path, old: set[str]) -> UserError:
    return UserError(
        f"{store} would lose over half of its {len(old)} photos: choose another name for the new store, or give up "
        "the old one with --replace"
    )


def _digests(store: Path) -> set[str]:
    """Those of a store's photos, copies and drawn ones aside; of a damaged or older store as far as it can be read.

    Drawn photos can be drawn again, and have other bytes in another size.
    """
    drawn = _drawn_sources(store)
    try:
        with (store / INDEX).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = (row for row in csv.DictReader(file) if not is_copy(row["path"]))
            return {row["sha256"] for row in rows if row["source"] not in drawn}
    except (OSError, csv.Error, KeyError, TypeError):
        return set()


def _drawn_sources(store: Path) -> set[str]:
    try:
        sources = json.loads((store / MANIFEST).read_text(encoding="utf-8"))["sources"]
        return {source["name"] for source in sources if source["group_by"] == DRAWN}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _digest(photo: SourcePhoto) -> str:
    try:
        return hashlib.sha256(photo.origin.read()).hexdigest()
    except PhotoError:
        return ""


def holds_hands(store: Path) -> bool:
    """Whether a whole store with hands is at `store`."""
    try:
        return Store.open(store).hand_settings is not None
    except UserError:
        return False


def is_current(existing: Store | None, content: Content) -> bool:
    """Whether the store that is there is what writing `content` would give."""
    return (
        existing is not None
        and existing.manifest["decoder"] == DECODER_VERSION
        and existing.image_size == content.image_size
        and existing.hand_settings == content.hands
        and existing.manifest[COPIES_KEY] == content.degraded_copies
        and existing.manifest["sources"] == content.sources
        and existing.manifest["split_rule"] == content.split_rule
        and (existing.path / INDEX).read_bytes() == index_text(content.rows)
        and (existing.path / PROBLEMS).read_bytes() == problems_text(content.problems)
    )


def what_changes(existing: Store, content: Content) -> list[str]:
    """For the user: how `content` differs from the store it replaces, in sources, split, size and photos lost."""
    before, after = existing.manifest, content
    facts = {
        "sources": (_sources(before["sources"]), _sources(after.sources)),
        "split": (_split(before["split_rule"]), _split(after.split_rule)),
        "image size": (f"{existing.image_size} px", f"{after.image_size} px"),
        "copies": (str(before[COPIES_KEY]), str(after.degraded_copies)),
        "hands": (_hands(existing.hand_settings), _hands(after.hands)),
    }
    changes = [f"{name} {was} → {will}" for name, (was, will) in facts.items() if was != will]
    lost = len(set(existing.digests) - {row.sha256 for row in content.rows})
    return [*changes, *([f"{lost} of its {len(existing)} photos are not in the new one"] if lost else [])]


def _sources(described: list[dict[str, Any]]) -> str:
    return ", ".join(f"{source['name']} by {source['group_by']}" for source in described)


def _hands(settings: Mapping[str, Any] | None) -> str:
    return (
        "none"
        if settings is None
        else ", ".join(f"{name} {str(value)[:12]}" for name, value in settings.items())
    )


def _split(rule: Mapping[str, Any]) -> str:
    """The rule's kind, and what was asked for besides."""
    unused = set() if rule["kind"] == "random" else {"fraction"}
    asked = {name: value for name, value in rule.items() if name not in {"kind", *unused} and value}
    return " ".join([rule["kind"], *(f"{name}={_plain(value)}" for name, value in asked.items())])


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
