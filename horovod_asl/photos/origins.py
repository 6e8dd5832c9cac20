"""Where a photo's bytes are: a file, or a member of a zip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import FileIO
from typing import Protocol

from horovod_asl.photos.archives import open_zip
from horovod_asl.photos.decode import PhotoError

MAX_FILE_MEGABYTES = 256
"""A file above this is not read: no photo is that large."""


class Origin(Protocol):
    """Where a photo's bytes are; picklable, so that a worker on any rank reads them itself."""

    def read(self) -> bytes:
        """The file's bytes; PhotoError if they cannot be read."""


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """A file on a disk that every worker sees."""

    path: str

    def read(self) -> bytes:
        """The file's bytes; PhotoError if it cannot be read or is larger than MAX_FILE_MEGABYTES."""
        try:
            with FileIO(self.path) as file:
                _refuse_large(os.fstat(file.fileno()).st_size)
                return file.readall()
        except OSError as error:
            raise PhotoError(f"cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class ZipOrigin:
    """A member of a zip archive, read without unpacking the archive."""

    archive: str
    member: str

    def read(self) -> bytes:
        """The member's bytes; PhotoError if it is damaged, encrypted or too large."""
        try:
            archive = open_zip(self.archive)
            _refuse_large(archive.getinfo(self.member).file_size)
            return archive.read(self.member)
        except PhotoError:
            raise
        except Exception as error:  # zipfile and zlib raise half a dozen kinds on damaged members
            raise PhotoError(f"damaged in the zip: {error}") from error


def _refuse_large(size_bytes: int) -> None:
    if size_bytes > MAX_FILE_MEGABYTES * 2**20:
        raise PhotoError(f"too large: {size_bytes / 2**20:.0f} MB, the limit is {MAX_FILE_MEGABYTES}")
