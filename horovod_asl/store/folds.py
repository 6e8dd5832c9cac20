"""Leave one source, one person or one recording out at a time: who is tested, who validates, who is trained on.

A source is what `prepare NAME=FOLDER` named. Whether its recordings are so many people or takes of one, photos do not
tell, so the user does: `signers` names the sources whose recordings are people; any other source is one signer. Where
one person has several recordings (`anna/1`, `anna/2`; see `recordings.person_of`), they stay together.

A fold's validation recording comes from what stays for training, never from what is held out and never at random
from frames. It is the first of these that there is:

1. the last person of the source that has the most people left, at least two: somebody who is not in training, as
   those who are held out are not;
2. the last recording of the source that has the most left, at least two: another take of a signer in training;
3. the last source, where at least three are left;
4. none: the last epoch's weights are then kept, and their temperature is 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.splits.leaks import find_leaks
from horovod_asl.splits.recordings import person_of, recording_order
from horovod_asl.splits.split import SPLITS, Recording
from horovod_asl.store.store import Store

Kind = Literal["source", "signer"]
Recordings = Mapping[str, Sequence[str]]
"""The recordings of each source, in their order."""

CROSSVAL = "crossval"
"""The kind of the `split_rule` of a fold's run."""
NO_VALIDATION = "none"
LEFT_OUT = 255
"""In place of a split's code: a photo that is on none of the sides."""

Groups = dict[str, list[Recording]]


@dataclass(frozen=True)
class Fold:
    """One training of a cross-validation.

    Attributes:
        reason: how `validation` was chosen, in words.
        folder: the name of its run folder.
        same_signer: whether somebody who is held out is in training or validation too, in another recording.
    """

    held_out: str
    test: tuple[Recording, ...]
    validation: tuple[Recording, ...]
    train: tuple[Recording, ...]
    reason: str
    folder: str
    same_signer: bool = False

    @property
    def rule(self) -> dict[str, object]:
        """What stands as `split_rule` in the facts of its run."""
        return {"kind": CROSSVAL, "test": names_of(self.test), "validation": names_of(self.validation)}


def same_command(out: Path) -> str:
    """The command that resumes the folds under `out`, in words."""
    return f"the same `horovod-asl crossval … --out {out}`"


def names_of(recordings: Sequence[Recording]) -> list[str]:
    """`source/recording` of each."""
    return [f"{source}/{name}" for source, name in recordings]


def recordings_of(store: Store) -> dict[str, list[str]]:
    """The recordings of each source of a store."""
    pairs = set(zip(store.sources, store.recordings, strict=True))
    return {
        source: recording_order([name for own, name in pairs if own == source])
        for source in sorted({source for source, _ in pairs})
    }


def plan_folds(
    recordings: Recordings,
    *,
    by: Kind,
    signers: Sequence[str] = (),
    only: Sequence[str] = (),
    validate_on: Sequence[str] = (),
) -> list[Fold]:
    """The folds, one for each source or signer, or for each name in `only`: groups, or `source/recording`.

    `validate_on` names groups or recordings that come before the rule above: the first that can be spared. `none`
    among them stands for no validation.

    Raises:
        UserError: a name that does not exist or is named twice, nobody left to train on, or `by` signer where no
            source's recordings were said to be people.
    """
    _refuse_unknown_sources(recordings, signers)
    if by == "signer" and not signers:
        raise UserError(
            "--by signer: say which sources have a person in each recording, as in --signers "
            f"{next(iter(recordings))}; where every source is one person, use --by source"
        )
    groups = _groups(recordings, by, signers)
    named = _every_name(recordings, signers)
    held_out = groups if not only else {name: _named(named | groups, name, "--only") for name in only}
    if len(held_out) < len(only):
        raise UserError("--only names a group twice")
    wanted = [
        (name, [] if name == NO_VALIDATION else _named(named | groups, name, "--validate-on"))
        for name in validate_on
    ]
    folders = _folders(named | groups)
    return [
        _fold(recordings, name, test, signers, wanted, folder=folders[name])
        for name, test in held_out.items()
    ]


def _folders(names: Iterable[str]) -> dict[str, str]:
    """The name of the run folder for every fold that a store can have: `/` becomes `-`.

    Where several names give the same (`a-b` and `a/b`; `A` and `a` on a file system that ignores case), all but the
    first get digits of their SHA-256, whichever folds are asked for.
    """
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names):
        folder = name.replace("/", "-")
        if folder.casefold() in taken:
            folder += "-" + hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
        taken.add(folder.casefold())
        folders[name] = folder
    return folders


def _refuse_unknown_sources(recordings: Recordings, signers: Sequence[str]) -> None:
    unknown = [name for name in signers if name not in recordings]
    if unknown:
        raise UserError(f"--signers {unknown[0]}: no such source; there are {', '.join(recordings)}")


def _groups(recordings: Recordings, by: Kind, signers: Sequence[str]) -> Groups:
    groups: Groups = {}
    for source, names in recordings.items():
        whole = [(source, name) for name in names]
        if by == "signer" and source in signers:
            groups |= _people(source, names)
        else:
            groups[source] = whole
    return groups


def _every_name(recordings: Recordings, signers: Sequence[str]) -> Groups:
    named = _groups(recordings, "source", signers)
    for source, names in recordings.items():
        named |= {f"{source}/{name}": [(source, name)] for name in names} | _people(source, names)
    return named


def _people(source: str, names: Sequence[str]) -> Groups:
    """The recordings of each person of a source, by `source/person`."""
    people: Groups = {}
    for name in names:
        people.setdefault(f"{source}/{person_of(name)}", []).append((source, name))
    return people


def _named(groups: Groups, name: str, flag: str) -> list[Recording]:
    if name not in groups:
        raise UserError(f"{flag} {name}: no such source or recording; there are {', '.join(groups)}")
    return groups[name]


def _fold(
    recordings: Recordings,
    name: str,
    test: Sequence[Recording],
    signers: Sequence[str],
    wanted: Sequence[tuple[str, Sequence[Recording]]],
    *,
    folder: str,
) -> Fold:
    left = [
        (source, own) for source, names in recordings.items() for own in names if (source, own) not in test
    ]
    if not left:
        raise UserError(
            f"nobody is left to train on without {name}: prepare a store of several sources, or hold out "
            "single recordings with --only SOURCE/RECORDING"
        )
    validation, reason = _validation(left, test, signers, wanted)
    train = tuple(one for one in left if one not in validation)
    same_signer = not {_signer(one, signers) for one in left}.isdisjoint(_signer(one, signers) for one in test)
    return Fold(name, tuple(test), tuple(validation), train, reason, folder, same_signer)


def _signer(recording: Recording, signers: Sequence[str]) -> str:
    source, name = recording
    return f"{source}/{person_of(name)}" if source in signers else source


def _validation(
    left: Sequence[Recording],
    test: Sequence[Recording],
    signers: Sequence[str],
    wanted: Sequence[tuple[str, Sequence[Recording]]],
) -> tuple[Sequence[Recording], str]:
    for name, chosen in wanted:
        if not set(chosen) & set(test) and set(chosen) < set(left):
            return chosen, f"{name}, as asked for"
    by_source: dict[str, list[Recording]] = {}
    for one in left:
        by_source.setdefault(one[0], []).append(one)
    units = {
        source: list(_people(source, [name for _, name in own]).values())
        if source in signers
        else [[one] for one in own]
        for source, own in by_source.items()
    }
    for kind, reason in (
        (True, "a person who is not in training"),
        (False, "another take of a signer in training"),
    ):
        sources = [
            own for source, own in units.items() if len(own) >= 2 and (source in signers) is kind
        ]
        if sources:
            return max(sources, key=len)[-1], reason
    if len(by_source) >= 3:
        return list(by_source.values())[-1], "a source that is not in training"
    return [], "nothing can be spared for validation"


def split_codes(store: Store, fold: Fold) -> NDArray[np.uint8]:
    """The side of each photo in this fold, as an index into `SPLITS`, uint8 (n,).

    A photo that is also, byte for byte or encoded anew, on a later side (train < validation < test) is `LEFT_OUT`.
    """
    pairs = list(zip(store.sources, store.recordings, strict=True))
    side = {one: code for code, part in enumerate((fold.train, fold.validation, fold.test)) for one in part}
    codes = np.array([side[pair] for pair in pairs], np.uint8)
    rows = store.rows("all")
    leaks = find_leaks(
        np.array(SPLITS, object)[codes[rows]],
        store.digests[rows],
        store.hashes[rows],
        lambda chosen: store.gather(rows[chosen]),
    )
    codes[rows[leaks.other]] = LEFT_OUT
    codes[codes[store.originals] == LEFT_OUT] = LEFT_OUT  # and the copies of these
    return codes


def held_out_rows(store: Store, fold: Fold) -> NDArray[np.int64]:
    """The rows of those who are held out, int64, ascending, without copies."""
    test = set(fold.test)
    held_out = np.array([pair in test for pair in zip(store.sources, store.recordings, strict=True)], bool)
    return np.flatnonzero(held_out & ~store.copies).astype(np.int64)


def with_fold(store: Store, fold: Fold, codes: NDArray[np.uint8]) -> Store:
    """The store with this fold's sides, as `split_codes` gives them, in place of its own."""
    return store.with_splits(codes, fold.rule)
