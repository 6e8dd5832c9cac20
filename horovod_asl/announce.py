"""What a run says before its first step and after its last: its settings in columns, the commands to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from horovod_asl.cli import command

_GROUPS: dict[str, tuple[str, ...]] = {
    "ranks": ("backend", "world_size", "replicas"),
    "machine": ("device", "threads_per_rank", "photos_in", "precision"),
    "steps": ("steps", "global_batch", "accumulation_steps"),
    "learning": ("optimizer", "learning_rate", "peak_learning_rate", "weight_decay", "parameters"),
}
_OWN = "backend"  # what `Backend.describe` adds, whatever it is


def settings_lines(settings: Mapping[str, Any]) -> list[str]:
    """The settings in force, a line each, in groups: `steps     global_batch        128`."""
    known = {name for names in _GROUPS.values() for name in names}
    groups = _GROUPS | {_OWN: tuple(name for name in settings if name not in known)}
    lines = []
    for group, names in groups.items():
        held = [name for name in names if name in settings]
        lines += [
            f"{group if index == 0 else '':<9} {name:<19} {_short(settings[name])}"
            for index, name in enumerate(held)
        ]
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def next_step(run: Path, store: str, *, is_sample: bool) -> str:
    """Commands that work as they stand, and how real photos come in where there were none."""
    if not is_sample:
        return f"next: {command('evaluate', run, 'FOLDER_OF_PHOTOS', '--json', 'scores.json')}"
    return (
        f"next: {command('evaluate', run, store)}\n"
        "this was the synthetic sample, read as whole photos to show the training in\n"
        "minutes. Of real photos, prepare finds the hands, and train reads these:\n"
        f"  {command('prepare', 'path/to/asl_alphabet_train', 'stores/asl')}   (or the downloaded zip, or `kaggle`)\n"
        f"  {command('train', '--store', 'stores/asl')}   (all cores or GPUs: make train ARGS='--store stores/asl')"
    )
