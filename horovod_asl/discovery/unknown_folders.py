"""Folders beside the class folders whose name is no class, in one line."""

from __future__ import annotations

from collections.abc import Mapping

from horovod_asl.command_line.flags import nearest
from horovod_asl.labels import CLASSES

_NAMED_FOLDERS = 5


def no_class_words(unknown: Mapping[str, int]) -> str:
    """What is to be said of folders whose name is no class, by their photos: one clause, however many there are."""
    counts = {name: f"{count:,} photo{'s' * (count != 1)}" for name, count in unknown.items()}
    named = [(name, photos, nearest(name, CLASSES)) for name, photos in counts.items()]
    if len(named) == 1:
        ((name, photos, near),) = named
        return f"folder {name} ({photos}) is no class{f' (did you mean {near}?)' if near else ''}"
    listed = [
        f"{name} ({photos}{f', did you mean {near}?' if near else ''})"
        for name, photos, near in named[:_NAMED_FOLDERS]
    ]
    more = f" and {len(named) - _NAMED_FOLDERS:,} more" if len(named) > _NAMED_FOLDERS else ""
    return f"{len(named):,} folders ({sum(unknown.values()):,} photos) are no class: {', '.join(listed)}{more}"
