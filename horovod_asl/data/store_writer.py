"""Write a finished store from decoded photos. Nothing here depends on who decoded what, so the digest does
not either."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from horovod_asl import __version__
from horovod_asl.data.chunks import PixelBank
from horovod_asl.data.decode import DECODED_WITH, DECODER_VERSION
from horovod_asl.data.split import SPLITS
from horovod_asl.data.store import (
    INDEX,
    INDEX_FIELDS,
    LABELS,
    MANIFEST,
    PROBLEM_FIELDS,
    PROBLEMS,
    SCHEMA,
    SHARD_PHOTOS,
    file_digest,
    shard_name,
    whole_digest,
)
from horovod_asl.data.workfolder import WorkFolder
from horovod_asl.labels import CLASS_INDEX, CLASSES


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


def index_text(rows: Iterable[IndexRow]) -> bytes:
    """The contents of `index.csv`."""
    return _csv_text(INDEX_FIELDS, rows)


def problems_text(problems: Iterable[Problem]) -> bytes:
    """The contents of `problems.csv`."""
    return _csv_text(PROBLEM_FIELDS, problems)


def write_store(work: WorkFolder, content: Content, bank: PixelBank) -> None:
    """Write the store in its work folder, every file flushed to the disk, and let it take its name."""
    _write_files(work.clear_draft(), content, bank)
    work.commit()


def _write_files(folder: Path, content: Content, bank: PixelBank) -> None:
    rows = content.rows
    names = [LABELS, INDEX, PROBLEMS]
    _write_array(folder / LABELS, np.array([CLASS_INDEX[row.label] for row in rows], np.int64))
    _write_bytes(folder / INDEX, index_text(rows))
    _write_bytes(folder / PROBLEMS, problems_text(content.problems))
    for number, start in enumerate(range(0, len(rows), SHARD_PHOTOS)):
        digests = [row.sha256 for row in rows[start : start + SHARD_PHOTOS]]
        _write_shard(folder / shard_name(number), digests, bank, content.image_size)
        names.append(shard_name(number))
    manifest = _manifest(content)
    manifest["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in sorted(names)
    }
    manifest["digest"] = whole_digest(manifest)
    _write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _manifest(content: Content) -> dict[str, Any]:
    splits = Counter(row.split for row in content.rows)
    return {
        "schema": SCHEMA,
        "decoder": DECODER_VERSION,
        "made_with": {"horovod_asl": __version__, "numpy": np.__version__, **DECODED_WITH},
        "classes": list(CLASSES),
        "image_size": content.image_size,
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


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _write_shard(path: Path, digests: Sequence[str], bank: PixelBank, image_size: int) -> None:
    pixels = np.empty((len(digests), image_size, image_size, 3), np.uint8)
    for row, digest in enumerate(digests):
        pixels[row] = bank.pixels(digest)
    _write_array(path, pixels)
