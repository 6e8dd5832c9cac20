"""Zip archives, which are read as they are, and the way on with archives that are not."""

from __future__ import annotations

import shlex
import tarfile
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from horovod_asl.errors import UserError

_UNPACK = {".7z": "7z x", ".rar": "unrar x", ".gz": "tar xf", ".bz2": "tar xf", ".xz": "tar xf", ".zst": "tar xf"}
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", *_UNPACK)
_METHODS = ("ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA", "ZIP_ZSTANDARD")  # the last since Python 3.14
_READABLE = {getattr(zipfile, name) for name in _METHODS if hasattr(zipfile, name)}
_DEFLATE64 = 9
_ENCRYPTED = 0x1
"""The bit of a member's flags."""


@lru_cache(maxsize=4)
def open_zip(path: str) -> zipfile.ZipFile:
    """One open archive per process: reading the directory of 87,000 members takes longer than reading a photo."""
    return zipfile.ZipFile(path)


def members_of_zip(path: Path) -> dict[str, str]:
    """The posix name of each member, and its name in the archive: some Windows programs part folders by `\\`.

    UserError if the archive is damaged, encrypted, or packed by a method that Python cannot read.
    """
    try:
        members = open_zip(str(path)).infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise UserError(f"{path} is encrypted: {_unpack('7z x', path)}, which asks for its password")
    if odd := [member for member in members if member.compress_type not in _READABLE]:
        method = "Deflate64 (Windows, large files)" if odd[0].compress_type == _DEFLATE64 else "an unusual method"
        raise UserError(f"{path} is packed with {method}, which Python does not read: {_unpack('7z x', path)}")
    names = [member.filename for member in members]
    if any("/" in name for name in names):
        return {name: name for name in names}
    return {name.replace("\\", "/"): name for name in names}


def is_archive(path: str) -> bool:
    """Whether the name ends as that of an archive, of any kind."""
    return path.lower().endswith(_ARCHIVE_SUFFIXES)


def refuse_archive(path: Path) -> None:
    """UserError, with the command that unpacks it, for an archive that is not read as it is."""
    command = _UNPACK.get(path.suffix.lower())
    if path.suffix.lower() in (".tar", ".tgz") or tarfile.is_tarfile(path):
        command = "tar xf"
    if command:
        raise UserError(f"{path} is an archive that is not read as it is (a zip is): {_unpack(command, path)}")


def archives_line(path: Path, names: Iterable[str]) -> str:
    """What to do about archives among the files of a source that holds no photo; empty if there is none."""
    inner = sorted(name for name in names if is_archive(name))
    if not inner:
        return ""
    more = f" and {len(inner) - 1} more" if len(inner) > 1 else ""
    if path.is_dir():
        return f"{path} holds no photo in class folders, but the archive {inner[0]}{more}: unpack it, or name it"
    return (
        f"{path} holds no photo in class folders, but another archive, {inner[0]}{more}: unpack the outer one "
        f"(unzip {shlex.quote(str(path))}), then name the inner one"
    )


def _unpack(command: str, path: Path) -> str:
    return f"unpack it ({command} {shlex.quote(str(path))}), then name the folder"
