"""What a run says before its first step and after its last: its settings in columns, the commands to go on with."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from horovod_asl.backends import Backend
from horovod_asl.boxed import DEFAULT
from horovod_asl.cli import command
from horovod_asl.config import TrainConfig
from horovod_asl.data.recordings import listed
from horovod_asl.progress import Display
from horovod_asl.runfolder import RunFolder, training_unknown
from horovod_asl.stopping import Outcome
from horovod_asl.trainer import Trainer

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


def announce_run(
    facts: Mapping[str, Any],
    trained_on: Sequence[str],
    display: Display,
    trainer: Trainer,
    go_on: str,
    *,
    ranks_changed: bool,
) -> None:
    """Say before the first step what is trained on what, and in which folder.

    Args:
        go_on: how to go on with the run where it is interrupted.
        ranks_changed: it goes on from what was committed before ranks came or went.
    """
    for line in settings_lines(facts["settings"]):
        display.say(line)
    display.say(wrapped(f"train on {len(trainer.train):,} photos: {listed(trained_on)}"))
    _announce_first_weights(facts, display, trainer)
    _announce_validation(facts, display, trainer)
    if trainer.config.trains_on_features:
        display.say("the features of frozen layers are computed once")
    if ranks_changed:
        display.say(f"ranks came or went: going on with {trainer.backend.world_size} from the last commit")
    _announce_other_epochs(trainer, display)
    position, total = trainer.position, trainer.total_steps
    display.say(f"run folder {trainer.folder.path}, from step {position.step} of {total}")
    if trainer.backend.world_size > 1:  # whose launcher may end them before they can say it
        display.say(f"if it is interrupted, {go_on}")


def _announce_first_weights(facts: Mapping[str, Any], display: Display, trainer: Trainer) -> None:
    begun_with = facts["begun_with"]
    if begun_with is not None:
        seen = listed(begun_with["trained_on"])
        named = "the bundled model" if begun_with["run"] == DEFAULT else f"the run {begun_with['run']}"
        display.say(wrapped(f"first weights: those of {named}, which was trained on {seen}"))
    if trainer.config.model.name == "hand_net" and trainer.config.model.pretrained is None:
        display.say("first weights: random. --pretrained hands or default reads new people better")
    if facts["unknown_weights"] is not None:
        display.say(f"note: {training_unknown(facts['unknown_weights'])}")


def _announce_validation(facts: Mapping[str, Any], display: Display, trainer: Trainer) -> None:
    if trainer.validation is None:
        display.say("no validation split: the last epoch's weights are kept")
    else:
        display.say(
            wrapped(f"validate on {len(trainer.validation):,} photos: {listed(facts['validated_on'])}")
        )
        if trainer.config.last_epoch:
            display.say("the last epoch's weights are kept, whatever validation says")


def _announce_other_epochs(trainer: Trainer, display: Display) -> None:
    """Of a run that is extended or shortened."""
    position, total = trainer.position, trainer.total_steps
    if position.history and position.step < total:
        began = trainer.folder.config().epochs if trainer.backend.rank == 0 else trainer.config.epochs
        if trainer.config.epochs != began:
            display.say(
                f"{trainer.config.epochs} epochs in place of {began}: from here the learning rate follows the "
                f"schedule of a run of {trainer.config.epochs} (now {trainer.learning_rate(position.step):.2e})"
            )


def wrapped(line: str) -> str:
    """As wide as a terminal; what follows the first line is indented."""
    return textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def say_how_to_go_on(outcome: Outcome, trainer: Trainer, display: Display, go_on: str) -> None:
    """Of a run that ends before its last step: why, and how to resume it."""
    why = {Outcome.PREEMPTED: "stopped by a signal", Outcome.INTERRUPTED: "stopped by Ctrl-C"}.get(
        outcome, "stopped"
    )
    display.say(f"{why} at step {trainer.position.step}; {go_on}")


def resume_command_of(config: TrainConfig, folder: RunFolder, backend: Backend) -> str:
    """The command that resumes the run in `folder`."""
    file = config.model.cache_file
    words = ("--cache-features", file) if file is not None else ()
    launched = f" (on {backend.world_size} ranks by the same launcher)" if backend.world_size > 1 else ""
    return f"{command('train', '--resume', folder.path, *words)}{launched}"


def how_to_begin_again(config: TrainConfig, folder: RunFolder, go_on: str) -> str:
    """Of a run that was asked to stop before its first step, while photos passed the frozen backbone."""
    why = "stopped while the photos passed the frozen backbone"
    if folder.holds_run():
        return f"{why}; {go_on}"
    file = config.model.cache_file
    return f"{why}; the same command " + (
        f"goes on with them in {file}" if file else "begins with them again"
    )
