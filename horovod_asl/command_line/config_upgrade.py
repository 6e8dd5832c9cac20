"""Configs of earlier versions in the words of this one: runs, recipes and the bundled model keep being read.

freeze_backbone, tuned_blocks     train: head | last-N
views, features_file, keep_maps   cache_features
epoch_share                       epochs, as a fraction of one
config.RETIRED                    gone
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horovod_asl.config import RETIRED
from horovod_asl.config_groups import TEMPORARY

_TRANSLATED = frozenset({"freeze_backbone", "tuned_blocks", "views", "features_file", "keep_maps", "epoch_share"})


def upgraded(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config of any version, with or without sections, and the options in it that nothing stands for today.

    Args:
        content: what the YAML file holds; it stays as it is.
    """
    rest, old = _parted(content)
    gone = {name: old[name] for name in RETIRED if old.get(name, RETIRED[name]) != RETIRED[name]}
    new: dict[str, Any] = {}
    if old.get("tuned_blocks") or old.get("freeze_backbone"):
        blocks = old.get("tuned_blocks")
        new["train"] = f"last-{blocks}" if blocks else "head"
    if old.get("features_file") or old.get("views"):
        new["cache_features"] = old.get("features_file") or TEMPORARY
    if (old.get("views") or 1) > 1:
        gone["views"] = old["views"]
    share = old.get("epoch_share", 1.0)
    if share != 1.0 and _found(rest, "epochs") == 1:
        new["epochs"] = share
        _scale(rest, "warmup_epochs", share)
        rest.pop("epochs", None)
    elif share != 1.0:
        gone["epoch_share"] = share
    return {**rest, **new}, gone


def _parted(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys that are known today, in their sections, and those of earlier versions, without."""
    rest: dict[str, Any] = {}
    old: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if isinstance(value, dict):
            rest[key], inner = _parted(value)
            old |= inner
        elif name in RETIRED or name in _TRANSLATED:
            old[name] = value
        else:
            rest[key] = value
    return rest, old


def _found(content: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in content.items() if str(key).replace("-", "_") == name), None)


def _scale(content: dict[str, Any], name: str, factor: float) -> None:
    """Multiply a number, in whatever section it stands."""
    for key, value in content.items():
        if isinstance(value, dict):
            _scale(value, name, factor)
        elif str(key).replace("-", "_") == name:
            content[key] = value * factor
