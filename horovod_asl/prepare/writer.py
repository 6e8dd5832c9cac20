"""Write a finished store from decoded photos. Nothing here depends on who decoded what, so the digest does
not either."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from horovod_asl import __version__
from horovod_asl.hands.record import HAND_DTYPE
from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.photos.decode import DECODED_WITH, DECODER_VERSION
from horovod_asl.prepare.chunks import PixelBank
from horovod_asl.prepare.hand_stage import HandBank
from horovod_asl.splits.split import SPLITS
from horovod_asl.store.store_files import (
    COPIES_KEY,
    HANDS,
    INDEX,
    INDEX_FIELDS,
    LABELS,
    MANIFEST,
    PROBLEM_FIELDS,
    PROBLEMS,
    SCHEMA,
    SHARD_PHOTOS,
    SPLIT_CODES,
    shard_name,
    whole_digest,
)
from horovod_asl.store.work_folder import WorkFolder

_BYTES_AT_ONCE = 2**22
_THREADS = 4
"""Shards that are written at the same time: copying, digests and the disk's flush leave the interpreter's lock."""


class IndexRow(NamedTuple):
    """One photo of the store: a row of `index.csv`, in its columns' order."""

    source: str
    path: str
    sha256: str
    label: str
    recording: str
    split: str
    phash: str


class Problem(NamedTuple):
    """A photo that was left out, and why: a row of `problems.csv`."""

    source: str
    path: str
    reason: str


@dataclass(frozen=True)
class Content:
    """All that a store says, but for the pixels, which are found by SHA-256."""

    rows: tuple[IndexRow, ...]
    problems: tuple[Problem, ...]
    image_size: int
    sources: list[dict[str, Any]]
    split_rule: dict[str, Any]
    hands: dict[str, Any] | None = None
    """How the hands were found; None: they were not asked for."""
    degraded_copies: int = 0
    """Of each photo among the rows (see `prepare.degrade`)."""


def index_text(rows: Iterable[IndexRow]) -> bytes:
    """The contents of `index.csv`."""
    return _csv_text(INDEX_FIELDS, rows)


def problems_text(problems: Iterable[Problem]) -> bytes:
    """The contents of `problems.csv`."""
    return _csv_text(PROBLEM_FIELDS, problems)


def write_store(work: WorkFolder, content: Content, bank: PixelBank, hands: HandBank | None = None) -> None:
    """Write the store in its work folder, every file flushed to the disk, and let it take its name."""
    _write_files(work.clear_draft(), content, bank, hands)
    work.commit()


def _write_files(folder: Path, content: Content, bank: PixelBank, hands: HandBank | None) -> None:
    rows = content.rows
    labels = np.array([CLASS_INDEX[row.label] for row in rows], np.int64)
    splits = np.array([SPLITS.index(row.split) for row in rows], np.uint8)
    contents: dict[str, Iterable[bytes | memoryview]] = {
        LABELS: [_npy_header(labels.shape, labels.dtype), labels.data],
        SPLIT_CODES: [_npy_header(splits.shape, splits.dtype), splits.data],
        INDEX: [index_text(rows)],
        PROBLEMS: [problems_text(content.problems)],
    }
    for number, start in enumerate(range(0, len(rows), SHARD_PHOTOS)):
        digests = [row.sha256 for row in rows[start : start + SHARD_PHOTOS]]
        contents[shard_name(number)] = _shard_parts(digests, bank.pixels, content.image_size)
        if hands is not None:
            contents[shard_name(number, "crops")] = _shard_parts(digests, hands.crop, hands.crop_size)
    if hands is not None:
        records = np.array([hands.hand(row.sha256) for row in rows], HAND_DTYPE)
        contents[HANDS] = [_npy_header(records.shape, records.dtype), records.view(np.uint8).data]
    with ThreadPoolExecutor(_THREADS) as threads:
        entries = threads.map(_write_parts, [folder / name for name in contents], contents.values())
        files = dict(zip(contents, entries, strict=True))
    manifest = _manifest(content)
    manifest["files"] = {name: files[name] for name in sorted(files)}
    manifest["digest"] = whole_digest(manifest)
    _write_parts(folder / MANIFEST, [(json.dumps(manifest, indent=1) + "\n").encode()])


def _manifest(content: Content) -> dict[str, Any]:
    splits = Counter(row.split for row in content.rows)
    return {
        "schema": SCHEMA,
        "decoder": DECODER_VERSION,
        "made_with": {"horovod_asl": __version__, "numpy": np.__version__, **DECODED_WITH},
        "classes": list(CLASSES),
        "image_size": content.image_size,
        "hands": content.hands,
        COPIES_KEY: content.degraded_copies,
        "counts": {
            "photos": len(content.rows),
            "problems": len(content.problems),
            **{name: splits[name] for name in SPLITS},
        },
        "sources": content.sources,
        "split_rule": content.split_rule,
    }


def _csv_text(fields: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", errors="surrogateescape")  # file names may be any bytes


def _shard_parts(
    digests: Sequence[str], pixels_of: Callable[[str], NDArray[np.uint8]], image_size: int
) -> Iterator[bytes | memoryview]:
    """The bytes of the .npy file of these photos, some megabytes at a time: a shard of large ones fills a memory."""
    shape = (image_size, image_size, 3)
    yield _npy_header((len(digests), *shape), np.dtype(np.uint8))
    step = max(1, _BYTES_AT_ONCE // (image_size * image_size * 3))
    for start in range(0, len(digests), step):
        pixels = np.stack([pixels_of(digest) for digest in digests[start : start + step]])
        yield pixels.data.cast("B")


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    buffer = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file, flushed to the disk; its entry in the manifest, from the digest taken on the way."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}
