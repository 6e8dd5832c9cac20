"""The store: photos decoded once, in files that NumPy and a text editor can read. This is the reader.

    STORE/images-00000.npy   (n_i, H, W, 3) uint8, 4096 photos in each but the last
    STORE/labels.npy         (n,) int64, index into `classes`
    STORE/splits.npy         (n,) uint8, index into `split.SPLITS`: what a rank needs of the index, without its text
    STORE/index.csv          one row per photo: source, path, sha256, class, recording, split, phash
    STORE/problems.csv       photos that were left out: source, path, reason
    STORE/hands.npy          (n,) `record.HAND_DTYPE`: landmarks, handedness, box; not after `prepare --no-hands`
    STORE/crops-00000.npy    (n_i, C, C, 3) uint8, the square around the hand, or the whole picture; likewise
    STORE/store.json         schema, decoder, image_size, classes, counts, sources, split rule, digests

The files are mapped, so the page cache holds one copy for all ranks of a machine.
"""

from __future__ import annotations

import copy
import hashlib
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.splits.split import SPLITS
from horovod_asl.store.mapping import open_arrays
from horovod_asl.store.store_files import (
    COPIES_KEY,
    HANDS,
    INDEX,
    INDEX_FIELDS,
    LABELS,
    MANIFEST,
    PROBLEM_FIELDS,
    PROBLEMS,
    SHARD_PHOTOS,
    SPLIT_CODES,
    check_file,
    csv_rows,
    read_csv,
    read_manifest,
    shard_name,
    whole_digest,
)

NO_SIDE = "left out"
"""What `Store.splits` says of a photo that is on no side of a fold."""

Strings = NDArray[np.object_]


class Store:
    """A finished store, opened for reading. Rows are 0 … len(store) - 1, in order of source and path."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.digest: str = manifest["digest"]
        self.image_size: int = manifest["image_size"]
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.source_names: tuple[str, ...] = tuple(source["name"] for source in manifest["sources"])

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a finished store is at `path` (it may still be of another schema: `open` tells)."""
        return (Path(path) / MANIFEST).is_file()

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Store:
        """The store at `path`, its schema, files and sizes checked; with `verify` their digests too (reads
        all).

        UserError if it is missing, unfinished, of another schema, incomplete or damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        for name, entry in manifest["files"].items():
            check_file(folder / name, entry, verify=verify)
        if verify and whole_digest(manifest) != manifest["digest"]:
            raise UserError(
                f"{folder / MANIFEST} was changed by hand: its digest does not match; run prepare again"
            )
        return cls(folder, manifest)

    def __len__(self) -> int:
        return int(self.manifest["counts"]["photos"])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class indices, int64 (n,)."""
        labels: NDArray[np.int64] = np.load(self.path / LABELS)
        return labels

    @cached_property
    def sources(self) -> Strings:
        """The source's name for each photo, str (n,)."""
        return self._column("source")

    @cached_property
    def paths(self) -> Strings:
        """Path within its source for each photo, str (n,)."""
        return self._column("path")

    @cached_property
    def recordings(self) -> Strings:
        """Recording within its source for each photo, str (n,)."""
        return self._column("recording")

    @cached_property
    def splits(self) -> Strings:
        """`train`, `validation` or `test` for each photo, `left out` for one that a fold leaves out, str (n,)."""
        names = np.array([*SPLITS, NO_SIDE], object)
        return names[np.minimum(self.split_codes, len(SPLITS))]

    @cached_property
    def split_codes(self) -> NDArray[np.uint8]:
        """Each photo's split as an index into `SPLITS`, uint8 (n,); of a fold also `folds.LEFT_OUT`."""
        codes: NDArray[np.uint8] = np.load(self.path / SPLIT_CODES)
        return codes

    @property
    def split_digest(self) -> str:
        """SHA-256 of `split_codes`, hexadecimal: which photo is on which side, of this store or of a fold of it."""
        return hashlib.sha256(np.asarray(self.split_codes, np.uint8).tobytes()).hexdigest()

    @cached_property
    def digests(self) -> Strings:
        """SHA-256 of the bytes of each photo, hexadecimal, str (n,)."""
        return self._column("sha256")

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Perceptual hash of each photo, uint64 (n,) (see `hashing.phash`)."""
        return np.array([int(text, 16) for text in self._column("phash")], np.uint64)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Rows of a split (or `all`), int64, ascending, without copies; empty if the store has no such photos."""
        if split == "all":
            return np.flatnonzero(~self.copies).astype(np.int64)
        if split not in SPLITS:
            raise UserError(f"{split!r} is no split: use one of {', '.join(SPLITS)} or all")
        return np.flatnonzero((self.split_codes == SPLITS.index(split)) & ~self.copies).astype(np.int64)

    @property
    def training_rows(self) -> NDArray[np.int64]:
        """Rows to train on, int64, ascending: those of `train`, and their copies (`prepare --degraded-copies`)."""
        return np.flatnonzero(self.split_codes == SPLITS.index("train")).astype(np.int64)

    @cached_property
    def copies(self) -> NDArray[np.bool_]:
        """Which rows are copies of photos for training (see `prepare.degrade`), bool (n,)."""
        copied: NDArray[np.bool_] = self.originals != np.arange(len(self))
        return copied

    @property
    def originals(self) -> NDArray[np.int64]:
        """For each row that of the photo of which it is a copy, or its own: a photo's copies stand behind it."""
        together = 1 + int(self.manifest[COPIES_KEY])
        return np.arange(len(self), dtype=np.int64) // together * together

    def with_splits(self, codes: NDArray[np.uint8], rule: dict[str, Any]) -> Store:
        """This store with other sides, in memory alone: an index into `SPLITS` per photo, and what they follow."""
        other = copy.copy(self)
        other.__dict__.pop("splits", None)  # cached from the old codes
        other.__dict__["split_codes"] = codes  # where the cached property looks first
        other.manifest = self.manifest | {"split_rule": rule}
        return other

    def gather(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """A copy of the photos at `rows`, in that order: uint8 (len(rows), H, W, 3). IndexError outside 0 … n
        - 1."""
        return self._gather(self.shards, self.image_size, rows)

    @property
    def hand_settings(self) -> dict[str, Any] | None:
        """How hands were found (finder, bundle, crop size in pixels); None in a store without them."""
        settings: dict[str, Any] | None = self.manifest["hands"]
        return settings

    @cached_property
    def hands(self) -> NDArray[Any]:
        """What is known of each photo's hand: `HAND_DTYPE` (n,), mapped. UserError in a store without hands."""
        self.require_hands()
        return open_arrays([self.path / HANDS])[0]

    def gather_crops(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """A copy of the crops at `rows`: uint8 (len(rows), C, C, 3). UserError in a store without hands."""
        return self._gather(self.crop_shards, self.require_hands()["crop_size"], rows)

    @property
    def crop_size(self) -> int | None:
        """Side of the crops in pixels; None in a store without hands."""
        return None if self.hand_settings is None else int(self.hand_settings["crop_size"])

    def require_hands(self) -> dict[str, Any]:
        """`hand_settings`; UserError in a store without hands."""
        if self.hand_settings is None:
            raise UserError(f"{self.path} holds no hands: run its prepare again with --hands")
        return self.hand_settings

    def _gather(
        self, shards: list[NDArray[np.uint8]], size: int, rows: NDArray[np.integer[Any]]
    ) -> NDArray[np.uint8]:
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} … {rows.max()} of a store of {len(self)} photos")
        out = np.empty((len(rows), size, size, 3), np.uint8)
        for place, row in enumerate(
            rows.tolist()
        ):  # faster than an index array per shard, which copies twice
            out[place] = shards[row // SHARD_PHOTOS][row % SHARD_PHOTOS]
        return out

    def problems(self) -> list[dict[str, str]]:
        """Photos that were left out: source, path, reason."""
        return read_csv(self.path / PROBLEMS, PROBLEM_FIELDS)

    @cached_property
    def shards(self) -> list[NDArray[np.uint8]]:
        """The image files in order, mapped where that can be (see `mapping`), each uint8 (n_i, H, W, 3)."""
        return self._map_shards("images")

    @cached_property
    def crop_shards(self) -> list[NDArray[np.uint8]]:
        """The crop files in order, likewise, each uint8 (n_i, C, C, 3)."""
        return self._map_shards("crops")

    def _map_shards(self, what: str) -> list[NDArray[np.uint8]]:
        count = -(-len(self) // SHARD_PHOTOS)
        files = [self.path / shard_name(number, what) for number in range(count)]
        return open_arrays(files)

    @property
    def is_mapped(self) -> bool:
        """Whether the photos and crops that were opened are mapped, and not in memory."""
        opened = [array for name in ("shards", "crop_shards") for array in self.__dict__.get(name, [])]
        return all(isinstance(array.base, np.memmap) for array in opened)

    def _column(self, name: str) -> Strings:
        """A column of the index, read when it is asked for: a rank that trains needs none."""
        with csv_rows(self.path / INDEX, INDEX_FIELDS) as rows:
            return np.fromiter(map(itemgetter(INDEX_FIELDS.index(name)), rows), dtype=object, count=len(self))
