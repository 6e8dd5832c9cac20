"""The page's files, read once: what a request asks for is looked up by its name, and no path reaches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from horovod_asl.errors import UserError

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
# Not asked of the system, whose registry may call a module plain text: with `nosniff`, browsers then refuse it.
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    kind: str
    """Its media type."""


def page_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """All files of the page by their path below `folder`, with slashes.

    Raises:
        UserError: the page is not there.
    """
    if not (folder / INDEX).is_file():
        raise UserError(f"the page is missing ({folder / INDEX}): install horovod_asl again")
    return {
        path.relative_to(folder).as_posix(): PageFile(path.read_bytes(), _KINDS[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in _KINDS and path.is_file()
    }
