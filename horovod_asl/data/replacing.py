"""What a prepare does to the store that is already there: nothing, or a replacement, and what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horovod_asl.data.decode import DECODER_VERSION
from horovod_asl.data.store import INDEX, PROBLEMS, Store
from horovod_asl.data.store_writer import Content, index_text, problems_text


def is_current(existing: Store | None, content: Content) -> bool:
    """Whether the store that is there is what writing `content` would give."""
    return (
        existing is not None
        and existing.manifest["decoder"] == DECODER_VERSION
        and existing.image_size == content.image_size
        and existing.hand_settings == content.hands
        and existing.manifest["poor_copies"] == content.poor_copies
        and existing.manifest["sources"] == content.sources
        and existing.manifest["split_rule"] == content.split_rule
        and (existing.path / INDEX).read_bytes() == index_text(content.rows)
        and (existing.path / PROBLEMS).read_bytes() == problems_text(content.problems)
    )


def what_changes(existing: Store, content: Content) -> list[str]:
    """For the user: how `content` differs from the store it replaces, in sources, split, size and photos lost."""
    before, after = existing.manifest, content
    facts = {
        "sources": (_sources(before["sources"]), _sources(after.sources)),
        "split": (_split(before["split_rule"]), _split(after.split_rule)),
        "image size": (f"{existing.image_size} px", f"{after.image_size} px"),
        "copies": (str(before["poor_copies"]), str(after.poor_copies)),
        "hands": (_hands(existing.hand_settings), _hands(after.hands)),
    }
    changes = [f"{name} {was} → {will}" for name, (was, will) in facts.items() if was != will]
    lost = len(set(existing.digests) - {row.sha256 for row in content.rows})
    return [*changes, *([f"{lost} of its {len(existing)} photos are not in the new one"] if lost else [])]


def _sources(described: list[dict[str, Any]]) -> str:
    return ", ".join(f"{source['name']} by {source['group_by']}" for source in described)


def _hands(settings: Mapping[str, Any] | None) -> str:
    return (
        "none"
        if settings is None
        else ", ".join(f"{name} {str(value)[:12]}" for name, value in settings.items())
    )


def _split(rule: Mapping[str, Any]) -> str:
    """The rule's kind, and what was asked for besides."""
    unused = set() if rule["kind"] == "random" else {"fraction"}
    asked = {name: value for name, value in rule.items() if name not in {"kind", *unused} and value}
    return " ".join([rule["kind"], *(f"{name}={_plain(value)}" for name, value in asked.items())])


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
