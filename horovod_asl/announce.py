"""What a run says before its first step and after its last: its settings in a line, the commands to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from horovod_asl.cli import command


def settings_line(settings: Mapping[str, Any]) -> str:
    """The settings that a person compares runs by, of those in run.json: at most 66 characters, so that the line has
    80 columns with the rank that horovodrun puts before it.

    `horovod/mpi, 2 ranks, cpu fp32, batch 64, adamw lr 0.00141`
    """
    library = settings.get("controller", settings.get("collective"))
    devices, ranks = settings["replicas"], settings["world_size"]
    device = str(settings["device"]).partition(":")[0]
    parts = [
        settings["backend"] + (f"/{library}" if library else ""),
        _counted(ranks, "rank") if ranks > 1 or devices == 1 else _counted(devices, "replica"),
        f"{device} {settings['precision']}",
        f"batch {settings['global_batch']}",
        f"{settings['optimizer']} lr {settings['peak_learning_rate']:.3g}",
    ]
    return ", ".join(parts)


def settings_lines(settings: Mapping[str, Any]) -> list[str]:
    """`settings_line` as `session` still takes it."""
    return [settings_line(settings)]


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" + ("s" if number != 1 else "")


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
