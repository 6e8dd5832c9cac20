"""What is in a store, as counts: per class, per recording, per split, duplicates, and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_asl.hands.record import ATTEMPTS, LATE_ATTEMPT
from horovod_asl.labels import CLASS_INDEX
from horovod_asl.splits.leaks import find_leaks
from horovod_asl.splits.recordings import recording_order
from horovod_asl.splits.split import SPLITS
from horovod_asl.store.store import Store


@dataclass(frozen=True)
class Inspection:
    """Counts of photos. `asdict` of it is the JSON of `inspect --json`."""

    store: str
    digest: str
    image_size: int
    photos: int
    copies: int
    """Of them, for training (`prepare --degraded-copies`): nowhere else counted."""
    splits: dict[str, int]
    classes: dict[str, dict[str, int]]
    """Class → split → photos."""
    recordings: list[dict[str, Any]]
    """source, recording, split → photos, classes present."""
    duplicates: dict[str, Any]
    left_out: dict[str, int]
    """Reason → photos."""
    hands: list[dict[str, Any]]
    """source, whether the photos are `signs` or `nothing` → photos, found, unconfirmed (seen, but not confirmed); of
    those found late (see `hands.LATE_ATTEMPT`), dark (in a copy that was given light) and right."""
    hands_by_class: dict[str, dict[str, int]]
    """Class → photos, found; empty for a store without hands."""


def inspect_store(store: Store) -> Inspection:
    """Count everything; the search for near duplicates compares hashes and then thumbnails (see `leaks`)."""
    splits = Counter(store.splits[store.rows("all")])
    return Inspection(
        store=str(store.path),
        digest=store.digest,
        image_size=store.image_size,
        photos=len(store.rows("all")),
        copies=int(store.copies.sum()),
        splits={name: splits[name] for name in SPLITS},
        classes=_per_class(store),
        recordings=_per_recording(store),
        duplicates=_duplicates(store),
        left_out=dict(Counter(row["reason"].partition(":")[0] for row in store.problems()).most_common()),
        hands=_hands(store),
        hands_by_class=_hands_by_class(store),
    )


def _per_class(store: Store) -> dict[str, dict[str, int]]:
    counts = {
        split: np.bincount(
            store.labels[~store.copies & (store.splits == split)], minlength=len(store.classes)
        )
        for split in SPLITS
    }
    return {
        name: {split: int(counts[split][label]) for split in SPLITS}
        for label, name in enumerate(store.classes)
    }


def _per_recording(store: Store) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = []
    for source in store.source_names:
        from_source = (store.sources == source) & ~store.copies
        for recording in recording_order(store.recordings[from_source].tolist()):
            inside = from_source & (store.recordings == recording)
            row: dict[str, Any] = {"source": source, "recording": recording}
            row |= {split: int((store.splits[inside] == split).sum()) for split in SPLITS}
            row["classes"] = len(np.unique(store.labels[inside]))
            table.append(row)
    return table


def _hands(store: Store) -> list[dict[str, Any]]:
    """Empty for a store without hands. In a photo of `nothing`, what was found is mostly a false find."""
    if store.hand_settings is None:
        return []
    hands, empty = store.hands, store.labels == CLASS_INDEX["nothing"]
    table: list[dict[str, Any]] = []
    for source in store.source_names:
        for of, chosen in (("signs", ~empty), ("nothing", empty)):
            own = hands[chosen & (store.sources == source) & ~store.copies]
            if len(own):
                counts = {"found": int(own["found"].sum()), "unconfirmed": int(own["doubtful"].sum())}
                found, attempt = own["found"], own["attempt"]
                counts["late"] = int((found & (attempt % ATTEMPTS >= LATE_ATTEMPT)).sum())
                counts["dark"] = int((found & (attempt >= ATTEMPTS)).sum())
                counts["right"] = int((found & own["right"]).sum())
                table.append({"source": source, "of": of, "photos": len(own), **counts})
    return table


def _hands_by_class(store: Store) -> dict[str, dict[str, int]]:
    if store.hand_settings is None:
        return {}
    found = store.hands["found"]
    of_class = {name: ~store.copies & (store.labels == label) for label, name in enumerate(store.classes)}
    return {
        name: {"photos": int(own.sum()), "found": int(found[own].sum())}
        for name, own in of_class.items()
        if own.any()
    }


def _duplicates(store: Store) -> dict[str, Any]:
    """Photos that repeat bytes of another; and pairs of splits with the same photo on both sides."""
    rows = store.rows("all")
    splits, digests, hashes = store.splits[rows], store.digests[rows], store.hashes[rows]
    repeats = len(rows) - len(set(digests))
    leaks = find_leaks(splits, digests, hashes, lambda chosen: store.gather(rows[chosen]))
    across = [
        {
            "split": splits[held],
            "photo": f"{store.sources[rows[held]]}/{store.paths[rows[held]]}",
            "also_in": splits[other],
            "as": f"{store.sources[rows[other]]}/{store.paths[rows[other]]}",
            "exact": bool(exact),
        }
        for other, held, exact in zip(leaks.other, leaks.held, leaks.exact, strict=True)
    ]
    return {
        "repeated_bytes": repeats,
        "across_splits": leaks.summary(splits),
        "exact_pairs": int(leaks.exact.sum()),
        "near_pairs": int((~leaks.exact).sum()),
        "pairs": across,
    }
