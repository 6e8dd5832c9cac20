"""What a worker does: read some photos, decode those that are new, leave the pixels in a file of the work
folder.

A chunk file is one structured array (sha256, phash, pixels) that NumPy maps, so the results survive a kill
and nothing large goes through a pipe. Every worker – on another host too – must therefore see the store's
folder. A chunk is not forced to the disk (that is a tenth of a worker's time): its name ends with the CRC-32 of
its records, and a later run takes it only if they still have it, so a power cut costs chunks but never a pixel.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.photos.decode import PhotoError, check_size, decode_photo
from horovod_asl.photos.hashing import phash
from horovod_asl.photos.origins import Origin
from horovod_asl.store.mapping import open_arrays

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """Photos for one worker; `known` is the file of digests that need no decoding, `target` how the file to
    write begins."""

    origins: tuple[Origin, ...]
    image_size: int
    max_megapixels: float
    known: str
    target: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """For each photo its SHA-256 (empty if bad) and the reason it is bad (empty if good); how many were
    decoded."""

    digests: tuple[str, ...]
    reasons: tuple[str, ...]
    decoded: int


def decode_chunk(task: ChunkTask) -> ChunkResult:
    """Run in a worker: write a chunk file (if any photo is new) and say what became of each
    photo."""
    known = _known_digests(task.known)
    records = np.empty(len(task.origins), chunk_dtype(task.image_size))
    fresh: dict[str, int] = {}
    digests, reasons = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd metadata; what matters raises
        for origin in task.origins:
            try:
                data = origin.read()
                digest = hashlib.sha256(data).hexdigest()
                if digest in known:
                    check_size(data, task.max_megapixels)  # it may have been decoded under another limit
                elif digest not in fresh:
                    pixels = decode_photo(data, task.image_size, max_megapixels=task.max_megapixels)
                    records["pixels"][len(fresh)] = pixels
                    fresh[digest] = len(fresh)
                digests.append(digest)
                reasons.append("")
            except PhotoError as error:
                digests.append("")
                reasons.append(str(error))
    if fresh:
        _write_chunk(task.target, records[: len(fresh)], fresh)
    return ChunkResult(tuple(digests), tuple(reasons), len(fresh))


def chunk_dtype(image_size: int) -> np.dtype[Any]:
    """One record of a chunk file."""
    return np.dtype(
        [("sha256", "S64"), ("phash", np.uint64), ("pixels", np.uint8, (image_size, image_size, 3))]
    )


class PixelBank:
    """Decoded photos by SHA-256, wherever they lie: chunk files and an older store, all mapped."""

    def __init__(self) -> None:
        self._arrays: list[list[Pixels]] = []
        self._places: dict[str, tuple[int, int, int]] = {}
        self._hashes: dict[str, int] = {}

    def add(
        self, digests: Sequence[str], hashes: NDArray[np.uint64], shards: list[Pixels], shard_photos: int
    ) -> None:
        """Photos of `shards` (each of `shard_photos` but the last), in the order of `digests`."""
        self._arrays.append(shards)
        for row, (digest, value) in enumerate(zip(digests, hashes.tolist(), strict=True)):
            self._places[digest] = (len(self._arrays) - 1, *divmod(row, shard_photos))
            self._hashes[digest] = value

    def add_chunks(self, folder: Path, image_size: int, *, pattern: str, check: bool) -> None:
        """Every whole chunk file in `folder` of this pattern and picture size; damaged ones, as far as they show
        or `check` finds them, are removed."""
        for path in sorted(folder.glob(pattern)):
            records = read_records(path, chunk_dtype(image_size), check=check)
            if records is None:
                path.unlink()
                continue
            digests = [text.decode() for text in records["sha256"].tolist()]
            self.add(digests, np.array(records["phash"]), [records["pixels"]], len(records))

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def pixels(self, digest: str) -> Pixels:
        """uint8 (H, W, 3)."""
        array, shard, row = self._places[digest]
        return cast(Pixels, self._arrays[array][shard][row])

    def hash(self, digest: str) -> int:
        """The perceptual hash, 64 bits."""
        return self._hashes[digest]


def write_known(path: Path, digests: Iterable[str]) -> None:
    """The file of digests that workers need not decode."""
    with path.open("wb") as file:
        _write_npy(file, np.array(sorted(digests), dtype="S64"))


@lru_cache(maxsize=1)
def _known_digests(path: str) -> frozenset[str]:
    try:
        return frozenset(text.decode() for text in np.load(path).tolist())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not visible to this worker: under MPI the store must lie on a file system that "
            f"all hosts share"
        ) from error


def _write_chunk(target: str, records: NDArray[Any], digests: Iterable[str]) -> None:
    """Complete the records, whose pixels are there, and write them."""
    records["sha256"] = [digest.encode() for digest in digests]
    records["phash"] = phash(records["pixels"])
    write_records(target, records)


def write_records(target: str, records: NDArray[Any]) -> None:
    """Leave records in a file that begins as `target` does, under a name that tells when they are whole."""
    temporary = Path(f"{target}.writing")
    with temporary.open("wb") as file:
        _write_npy(file, records)
    temporary.rename(f"{target}-{_checksum(records)}.npy")


def _write_npy(file: BinaryIO, array: NDArray[Any]) -> None:
    """As `np.save` does, whose error on a full disk says neither that nor has an errno."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.view(np.uint8).data)


def read_records(path: Path, dtype: np.dtype[Any], *, check: bool) -> NDArray[Any] | None:
    """The records of a file; None if it is damaged, as far as it shows or `check` finds, or holds others."""
    try:
        records = open_arrays([path], are_all=False)[0]
    except (ValueError, EOFError, OSError):
        return None
    is_whole = records.dtype == dtype
    if check:
        is_whole = is_whole and path.stem.endswith(f"-{_checksum(records)}")
    return records if is_whole else None


def _checksum(records: NDArray[Any]) -> str:
    return f"{zlib.crc32(records.view(np.uint8).data):08x}"
