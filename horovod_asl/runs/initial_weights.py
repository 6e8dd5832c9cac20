"""With which weights a run began, where nothing is known of the photos that these were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

KNOWN_WEIGHTS = ("imagenet", "hands")
"""What `--pretrained` takes by name. It is decided here, not measured, that nobody whom a store shows was in their
training: ImageNet shows objects, and the hands of MediaPipe's landmark network were not published."""
_WEIGHT_FILES = (".safetensors", ".pt", ".pth")


def unknown_weights(facts: Mapping[str, Any], config: str) -> str | None:
    """The file of weights with which a run began, or a run before it, whose training photos are not known.

    Args:
        facts: its run.json.
        config: its config.yaml; empty where there is none.
    """
    if "unknown_weights" in facts:
        return None if facts["unknown_weights"] is None else str(facts["unknown_weights"])
    # Older versions left the name in the config alone, and there also of a file that a run had left.
    begun = facts.get("initialized_from")
    if begun:
        named = _pretrained_in(begun.get("config", ""))
        return named if named is not None and Path(named).suffix in _WEIGHT_FILES else None
    named = _pretrained_in(config)
    return None if named in KNOWN_WEIGHTS else named


def _pretrained_in(config: str) -> str | None:
    """The value of `pretrained` in a config as YAML."""
    model = yaml_in(config).get("model")
    named = model.get("pretrained") if isinstance(model, dict) else None
    return None if named is None else str(named)


def yaml_in(config: str) -> dict[str, Any]:
    """The mapping that a config as YAML holds; empty where it holds none."""
    import yaml

    content = yaml.safe_load(config)
    return content if isinstance(content, dict) else {}
