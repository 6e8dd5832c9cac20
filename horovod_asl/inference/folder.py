"""Photos straight from a folder or a list, decoded by the store's own decoder, for `evaluate` and `predict`.

Short lists go to threads, which start at once; long ones to processes, which do not share the interpreter's
lock. On two busy cores, 216 photos took 0.1–0.2 s with threads and 0.3–0.5 s with processes, 1,500 photos
0.7–0.9 s with either, 10,005 photos 4.9 s and 4.1 s (a loop of Pillow's open and resize: 0.2, 1.2 and 8.7 s).
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.command_line.progress import Report, no_report
from horovod_asl.discovery.class_names import USUAL, ClassNames, refuse_idle_classes
from horovod_asl.discovery.file_names import ignored_line, mixed_line, refuse_idle
from horovod_asl.discovery.find_photos import FoundPhoto, find_photos, pictures_in
from horovod_asl.discovery.unknown_folders import no_class_words
from horovod_asl.errors import UserError
from horovod_asl.inference.readers import Reader
from horovod_asl.photos.decode import PhotoError
from horovod_asl.photos.origins import FileOrigin, Origin
from horovod_asl.photos.workers import process_pool
from horovod_asl.splits.split_folders import split_folders
from horovod_asl.system.cores import usable_cores

NO_LABEL = -1


@dataclass(frozen=True)
class LoadedPhotos:
    """Decoded photos in the order of their paths; those that could not be used are in `problems` with a
    reason."""

    images: NDArray[Any]
    """What the reader made of them: uint8 (n, H, W, 3), float32 (n, 50, 3), or records `reading_dtype` (n,)."""
    labels: NDArray[np.int64]
    """int64 (n,): 0–28, or NO_LABEL throughout for photos that came without."""
    paths: list[str]
    digests: list[str]
    """SHA-256 of each file's bytes, hexadecimal."""
    problems: list[tuple[str, str]]
    strays: int = 0
    """Pictures in folders whose name is no class, which are left out; of several ranks, rank 0 counts them."""
    notes: tuple[str, ...] = ()
    """What a user is to know of the folder besides, a line each."""

    def __len__(self) -> int:
        return len(self.paths)


def load_folder(
    folder: str | Path,
    *,
    reader: Reader,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    split: str | None = None,
    exclude: Sequence[str] = (),
    classes: ClassNames = USUAL,
    log: Callable[[str], None] = lambda line: None,
    on_progress: Report = no_report,
) -> LoadedPhotos:
    """The photos of class folders (any of the 29), or of a zip or flat test folder: whatever `prepare` reads.

    Of several ranks each decodes every `world_size`-th photo. Pictures in folders of unknown
    classes are counted, and a note names the folders. `split` keeps to the folders of one side (`train`,
    `validation`, `test`), or names `all`; `exclude` leaves out files. UserError if there is no class folder, no such
    side, or nothing that a pattern excludes. `classes` says what names of folders and of files mean; rank 0 gives
    `log` a line of it before the photos are read, and
    `on_progress` gets the photos of this rank that are read, and in all.
    """
    found = find_photos(Path(folder), exclude, classes)
    refuse_idle(exclude, found.excluded)
    refuse_idle_classes(classes, found.class_lines)
    for line in (*found.class_lines, *found.film_lines) if rank == 0 else ():
        log(f"{folder}: {line}")
    photos, note = _of_split(folder, found.photos, split)
    own = photos[rank::world_size]
    loaded = _load(
        [str(Path(folder) / photo.path) for photo in own],
        [photo.origin for photo in own],
        [photo.label for photo in own],
        reader=reader,
        workers=workers,
        on_progress=on_progress,
    )
    strays = Counter(name for _, name in found.strays) if rank == 0 else Counter()
    unknown = f"left out: {folder}: {no_class_words(strays)}; rename what is to be scored" if strays else ""
    ignored = f"{folder}: {ignored_line(found.other_files)}" if found.other_files else ""
    mixed = mixed_line([photo.path for photo in photos]) if rank == 0 else ""
    hint = f"note: {folder}: {mixed}" if mixed else ""
    notes = tuple(line for line in (unknown, note, ignored, hint) if line)
    return replace(loaded, strays=strays.total(), notes=notes)


def _of_split(
    folder: str | Path, photos: Sequence[FoundPhoto], split: str | None
) -> tuple[Sequence[FoundPhoto], str]:
    """The photos of one side, and a line that says which folders were read."""
    own = split_folders(photos)
    if own is None:
        if split is not None:
            raise UserError(
                f"--split {split}: {folder} is no store and has no splits; leave --split out, or make a store of it "
                "with `horovod-asl prepare`"
            )
        return photos, ""
    folders = ", ".join(f"{name}/" for name in own.names)
    if split is None:
        return photos, f"note: all of {folder} is scored, {folders} alike; --split test scores one side"
    if split == "all":
        return photos, ""
    chosen = [photo for photo, side in zip(photos, own.sides, strict=True) if side == split]
    if not chosen:
        raise UserError(
            f"--split {split}: {folder} has no {split} photos; its folders {folders} are its split"
        )
    return chosen, f"{folder}: {len(chosen)} of {len(photos)} photos are its {split} split"


def load_photos(paths: Sequence[str | Path], *, reader: Reader, workers: int | None = None) -> LoadedPhotos:
    """Photos by name, each tried whatever it is called; a folder or a zip stands for the pictures in it."""
    named = [one for path in paths for one in named_photos(Path(path))]
    labels = [NO_LABEL] * len(named)
    return _load(
        [name for name, _ in named],
        [origin for _, origin in named],
        labels,
        reader=reader,
        workers=workers,
    )


def named_photos(path: Path) -> list[tuple[str, Origin]]:
    """The photos that `path` stands for, by name: the pictures in a folder or zip, or itself, whatever it is."""
    is_zip = path.suffix.lower() == ".zip" and path.is_file()
    return pictures_in(path) if path.is_dir() or is_zip else [(str(path), FileOrigin(str(path)))]


def _load(
    paths: Sequence[str],
    origins: Sequence[Origin],
    labels: Sequence[int],
    *,
    reader: Reader,
    workers: int | None,
    on_progress: Report = no_report,
) -> LoadedPhotos:
    images = np.empty((len(paths), *reader.shape), reader.dtype)
    kept: list[int] = []
    digests: list[str] = []
    problems: list[tuple[str, str]] = []
    with _pool(len(paths), workers or usable_cores(), reader) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd metadata; what matters raises
        results = pool.map(
            _read, origins, [reader] * len(paths), chunksize=min(64, reader.processes_from // 4)
        )
        for row, result in enumerate(results):
            on_progress(row, len(paths))
            if isinstance(result, PhotoError):
                problems.append((paths[row], str(result)))
            else:
                images[len(kept)], digest = result
                digests.append(digest)
                kept.append(row)
    return LoadedPhotos(
        images=images[: len(kept)],
        labels=np.array([labels[row] for row in kept], np.int64),
        paths=[paths[row] for row in kept],
        digests=digests,
        problems=problems,
    )


def _pool(photos: int, workers: int, reader: Reader) -> AbstractContextManager[Executor]:
    return process_pool(workers) if photos >= reader.processes_from else ThreadPoolExecutor(workers)


def _read(origin: Origin, reader: Reader) -> tuple[NDArray[Any], str] | PhotoError:
    try:
        data = origin.read()
        return reader(data), hashlib.sha256(data).hexdigest()
    except PhotoError as error:
        return error
