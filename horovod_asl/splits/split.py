"""Honest splits: a recording (one take of one person) goes to one side as a whole.

The default (`auto`), for each source: where its folders make a split (`split_folders`), they are obeyed. Otherwise
the people of its recordings (`recordings.person_of`; a take of nobody named is by itself) in their order: the last is
test; the one before is validation if at least two remain for training, otherwise there is no validation. A source of
one recording is all training. `recordings` ignores the folders.
`random` exists for comparison with published figures only: neighbours of training frames are then in the test
set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from horovod_asl.command_line.checks import require_range
from horovod_asl.errors import UserError
from horovod_asl.splits.recordings import person_of, recording_order

SPLITS = ("train", "validation", "test")

Recording = tuple[str, str]
"""(source name, recording name)"""


@dataclass(frozen=True)
class SplitRule:
    """How photos come to train, validation and test; `kind` is `auto`, `recordings` or `random`, `fraction` is for
    `random` only, `seed` for what is drawn."""

    kind: str = "auto"
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    test_source: str | None = None
    fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        require_range("--seed", self.seed, 0)
        if not 0 < self.fraction < 0.5:
            raise UserError(
                f"--fraction {self.fraction} must lie between 0 and 0.5: that fraction is test, as much validation"
            )

    @property
    def names_recordings(self) -> bool:
        """Whether --validation or --test says which recordings are held out: then no default does."""
        return bool(self.validation or self.test)


def split_recordings(
    recordings: Mapping[str, Sequence[str]],
    *,
    folders: Mapping[Recording, str] = MappingProxyType({}),
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
    test_source: str | None = None,
) -> dict[Recording, str]:
    """The split of each recording, given the recordings of each source.

    `folders` holds the sides that a source's own folders say, in place of the default. `validation` and `test` name
    recordings or people (`SOURCE/REC`, or `REC` in every source that has it); where either is given, the default and
    the folders are off and all others are training. `test_source` makes that source the test split; what would be
    test of the others then becomes validation (those named by `test` stay test). UserError for names that don't
    exist, a recording on two sides, or nothing left to train on.
    """
    rule = _named(recordings, validation, test) if validation or test else {**_default(recordings), **folders}
    if test_source is not None:
        rule = _hold_out(rule, recordings, test_source, keep_test=bool(test))
    if "train" not in rule.values():
        raise UserError(
            "no recording is left for training: hold out fewer with --validation, --test or --test-source"
            + (", or have the photos' folders ignored with --split recordings" if folders else "")
        )
    return rule


def random_split(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.str_]:
    """Splits (n,) drawn per class and photo: `fraction` test, as much validation, the rest training. Not
    honest."""
    splits = np.full(len(labels), "train", dtype="<U10")
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held = round(len(rows) * fraction)
        splits[rows[:held]] = "test"
        splits[rows[held : 2 * held]] = "validation"
    return splits


def balanced_subset(
    labels: NDArray[np.int64], recordings: Sequence[Recording], count: int, seed: int
) -> NDArray[np.int64]:
    """Rows, ascending, of a subset of `count` photos: classes alike, and within a class recordings alike.

    A class that has too few gives all it has, and the subset is smaller: the others don't make up for it.
    Within a class they do: a recording that has too few leaves its share to the others.
    """
    generator = np.random.default_rng(seed)
    by_class = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    quotas = _share(count, [count] * len(by_class), generator)
    chosen = []
    for quota, rows in zip(quotas, by_class.values(), strict=True):
        groups: dict[Recording, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(recordings[row], []).append(row)
        parts = [groups[key] for key in sorted(groups)]
        for part, size in zip(parts, _share(quota, [len(p) for p in parts], generator), strict=True):
            chosen.append(generator.choice(part, size, replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _share(total: int, capacities: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Divide `total` over bins as evenly as their capacities allow; who gets the remainder is drawn."""
    shares = [0] * len(capacities)
    left = min(total, sum(capacities))
    while left:
        open_bins = [i for i, capacity in enumerate(capacities) if shares[i] < capacity]
        each = left // len(open_bins)
        if not each:
            open_bins = generator.permutation(open_bins)[:left].tolist()
            each = 1
        for i in open_bins:
            taken = min(each, capacities[i] - shares[i])
            shares[i] += taken
            left -= taken
    return shares


def _default(recordings: Mapping[str, Sequence[str]]) -> dict[Recording, str]:
    rule: dict[Recording, str] = {}
    for source, names in recordings.items():
        people = recording_order([person_of(name) for name in names])
        splits = dict.fromkeys(people, "train")
        if len(people) >= 2:
            splits[people[-1]] = "test"
        if len(people) >= 4:
            splits[people[-2]] = "validation"
        rule.update({(source, name): splits[person_of(name)] for name in recording_order(names)})
    return rule


def _named(
    recordings: Mapping[str, Sequence[str]], validation: Sequence[str], test: Sequence[str]
) -> dict[Recording, str]:
    held_validation = {found for name in validation for found in _resolve(recordings, name, "--validation")}
    held_test = {found for name in test for found in _resolve(recordings, name, "--test")}
    if both := held_validation & held_test:
        raise UserError(f"{'/'.join(min(both))} is named by both --validation and --test: name it once")
    everything = [(source, name) for source, names in recordings.items() for name in recording_order(names)]
    return {
        key: "test" if key in held_test else "validation" if key in held_validation else "train"
        for key in everything
    }


def _resolve(recordings: Mapping[str, Sequence[str]], name: str, flag: str) -> list[Recording]:
    everything = [(s, r) for s, names in recordings.items() for r in names]
    found = [
        (s, r) for s, r in everything if name in (r, f"{s}/{r}", person_of(r), f"{s}/{person_of(r)}")
    ]
    if not found:
        known = ", ".join(f"{s}/{r}" for s, names in recordings.items() for r in recording_order(names))
        raise UserError(f"{flag} {name}: no such recording; there are {known}")
    return found


def _hold_out(
    rule: Mapping[Recording, str],
    recordings: Mapping[str, Sequence[str]],
    test_source: str,
    *,
    keep_test: bool,
) -> dict[Recording, str]:
    if test_source not in recordings:
        raise UserError(f"--test-source {test_source}: no such source; there are {', '.join(recordings)}")
    moved = {"train": "train", "validation": "validation", "test": "test" if keep_test else "validation"}
    return {key: "test" if key[0] == test_source else moved[split] for key, split in rule.items()}
