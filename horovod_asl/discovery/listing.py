"""The names of all files in a folder or a zip, and where to read each of them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from horovod_asl.discovery.file_names import is_film, is_system_folder
from horovod_asl.errors import UserError
from horovod_asl.photos.archives import members_of_zip, refuse_archive
from horovod_asl.photos.origins import FileOrigin, Origin, ZipOrigin

_STORE_MARKS = ("store.json", "index.csv")  # store.MANIFEST and INDEX; that module imports this one


@dataclass(frozen=True)
class Listing:
    """The relative posix paths of files and folders in a place, and where to read each file."""

    files: list[str]
    folders: list[str]
    origin_of: Callable[[str], Origin]


def list_files(path: Path) -> Listing:
    """What is in the folder or the zip at `path`. UserError if it is neither, or cannot be read."""
    if path.is_dir():
        files, folders = _walk(path)
        inside = within(path)
        return Listing(files, folders, lambda name: FileOrigin(inside + name))
    if not path.exists():
        raise UserError(
            f"{path} does not exist: give a folder of class folders, a zip, `kaggle` or `synthetic`"
        )
    if not zipfile.is_zipfile(path):
        _refuse_file(path)
    members = members_of_zip(path)
    return Listing(
        files=[name for name in members if not name.endswith("/")],
        folders=[name.rstrip("/") for name in members if name.endswith("/")],
        origin_of=lambda name: ZipOrigin(str(path), members[name]),
    )


def within(folder: Path) -> str:
    """What stands before the name of a file in `folder`: a Path for each of 87,000 takes seconds."""
    return str(folder / "_")[:-1]


def _refuse_file(path: Path) -> None:
    refuse_archive(path)
    if is_film(path.name):
        raise UserError(f"{path} is one video: give a folder of videos (A.mp4, B.mp4 …, or A/take1.mp4 …)")
    if path.suffix.lower() == ".zip":
        raise UserError(f"{path} is damaged, no readable zip: download it again")
    raise UserError(
        f"{path} is a file but no readable zip: give a folder of class folders, or download the zip again"
    )


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Relative posix paths of all files and folders but those of systems (which may not even be readable) and stores
    that were made here; links to folders are followed, a loop is not entered twice."""
    files: list[str] = []
    folders: list[str] = []
    seen: set[str] = set()
    for parent, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(parent)
        is_store = all(mark in names for mark in _STORE_MARKS) and Path(parent) != root
        if real in seen or is_store:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not is_system_folder(name)]
        inside = within(Path(parent).relative_to(root))
        files += [inside + name for name in names]
        folders += [inside + name for name in subfolders]
    return files, folders


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): mend its permissions") from error
