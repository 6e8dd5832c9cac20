"""The files of a store: their names and columns, the manifest, the marks of copies, and digests."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from horovod_asl.errors import UserError
from horovod_asl.system.files import file_digest

SCHEMA = 4
SHARD_PHOTOS = 4096
INDEX_FIELDS = ("source", "path", "sha256", "class", "recording", "split", "phash")
PROBLEM_FIELDS = ("source", "path", "reason")
MANIFEST, LABELS, SPLIT_CODES = "store.json", "labels.npy", "splits.npy"
INDEX, PROBLEMS, HANDS = "index.csv", "problems.csv", "hands.npy"


COPIES_KEY = "poor_copies"
"""In the manifest: degraded copies of each photo. This key and the mark are older than the name: stores keep them."""
COPY_MARK = "#poor"
"""Then a number: what the path of a copy has behind that of its photo (see `prepare.degrade`)."""
_COPY = re.compile(rf"(.*){COPY_MARK}\d", re.DOTALL)
_SHARD = re.compile(r"(images|crops)-\d{5,}\.npy")
_MANIFEST_KEYS = {
    "schema",
    "digest",
    "image_size",
    "classes",
    "counts",
    "sources",
    "files",
    "hands",
    COPIES_KEY,
}


def shard_name(number: int, what: str = "images") -> str:
    """`images-00007.npy` for shard 7."""
    return f"{what}-{number:05d}.npy"


def is_copy(path: str) -> bool:
    """Whether this path in a store is a copy's."""
    return _COPY.fullmatch(path) is not None


def original_of(path: str) -> str:
    """The path of the photo of which this is a copy; of a photo its own."""
    copied = _COPY.fullmatch(path)
    return path if copied is None else copied[1]


def foreign_files(folder: Path) -> list[str]:
    """The names in a store's folder that are no files of a store, sorted: a user's own, which nobody may delete."""
    own = {MANIFEST, LABELS, SPLIT_CODES, INDEX, PROBLEMS, HANDS}
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if not (entry.is_file() and (entry.name in own or _SHARD.fullmatch(entry.name)))
    )


def whole_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over what the store means: everything in `store.json` but the digest itself and where it was
    made."""
    meaning = {key: value for key, value in manifest.items() if key not in ("digest", "made_with")}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def read_csv(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV with exactly these columns; UserError for others."""
    with csv_rows(path, fields) as rows:
        return [dict(zip(fields, row, strict=True)) for row in rows]


@contextmanager
def csv_rows(path: Path, fields: tuple[str, ...]) -> Iterator[Iterator[list[str]]]:
    """The rows below the header, which must name exactly these columns; UserError if not."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != fields:
            raise UserError(f"{path} has other columns than {', '.join(fields)}: run prepare again")
        yield rows


def read_manifest(folder: Path) -> dict[str, Any]:
    """`store.json`. UserError if it is missing, damaged or of another schema."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        unfinished = folder.with_name(folder.name + ".partial").exists()
        hint = "an unfinished prepare is beside it; run the same prepare again" if unfinished else "make one"
        raise UserError(
            f"{folder} is no store: {hint} with `horovod-asl prepare SOURCE {shlex.quote(str(folder))}`"
        ) from None
    except ValueError as error:
        raise UserError(f"{folder / MANIFEST} is damaged ({error}): run prepare again") from None
    damaged = UserError(f"{folder / MANIFEST} is damaged: run prepare again")
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise damaged
    if manifest["schema"] != SCHEMA:  # first: another schema has other keys
        raise UserError(
            f"{folder} is a store of schema {manifest['schema']}, this version reads {SCHEMA}: run "
            f"prepare again"
        )
    if not manifest.keys() >= _MANIFEST_KEYS:
        raise damaged
    return manifest


def check_file(path: Path, entry: dict[str, Any], *, verify: bool) -> None:
    """UserError unless a file has the size, and with `verify` the digest, that the manifest names."""
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
        raise UserError(f"{path} {found}: the store is damaged, run prepare again")
    if verify and file_digest(path) != entry["sha256"]:
        raise UserError(f"{path} does not match its digest: the store is damaged, run prepare again")
