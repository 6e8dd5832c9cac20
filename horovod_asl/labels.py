"""The 29 classes of the ASL Alphabet, in the order of every label, logit and table row (one source of truth).

The order is that of the public set's sorted folder names: A–Z, then `del`, `nothing`, `space`.
J and Z are movements; a photo shows one moment of them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from types import MappingProxyType

CLASSES: tuple[str, ...] = (*string.ascii_uppercase, "del", "nothing", "space")
MOVEMENTS: tuple[str, ...] = ("J", "Z")
NUM_CLASSES: int = len(CLASSES)
CLASS_INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(CLASSES)})

_BY_FOLDED_NAME = {name.casefold(): name for name in CLASSES}


def canonical_class(name: str) -> str | None:
    """The class that a folder name means (`a`, `A`, `Space` → `A`, `A`, `space`), or None if it means none."""
    return _BY_FOLDED_NAME.get(name.strip().casefold())
