"""What a run says before its first step and after its last: its settings, the commands that resume or use it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from horovod_asl.command_line.cli import command
from horovod_asl.command_line.progress import Display
from horovod_asl.config import TrainConfig
from horovod_asl.distributed.base import Backend
from horovod_asl.runs.bundled_model import DEFAULT
from horovod_asl.runs.preemption import Outcome
from horovod_asl.runs.run_folder import RunFolder, training_unknown
from horovod_asl.splits.recordings import listed
from horovod_asl.training.trainer import Trainer


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


def announce_run(
    facts: Mapping[str, Any],
    trained_on: Sequence[str],
    display: Display,
    trainer: Trainer,
    resume_hint: str,
    *,
    ranks_changed: bool,
) -> None:
    """Say before the first step what is trained on what, and in which folder.

    Args:
        resume_hint: how to resume the run where it is interrupted.
        ranks_changed: it goes on from what was committed before ranks came or went.
    """
    display.log(settings_line(facts["settings"]))
    display.log(wrapped(f"train on {len(trainer.train):,} photos: {listed(trained_on)}"))
    _announce_first_weights(facts, display, trainer)
    _announce_validation(facts, display, trainer)
    if trainer.config.trains_on_features:
        display.log("the features of frozen layers are computed once")
    if ranks_changed:
        display.log(f"ranks came or went: resuming with {trainer.backend.world_size} from the last commit")
    _announce_other_epochs(trainer, display)
    position, total = trainer.position, trainer.plan.total_steps
    display.log(f"run folder {trainer.folder.path}, from step {position.step} of {total}")
    if trainer.backend.world_size > 1:  # whose launcher may end them before they can say it
        display.log(f"if it is interrupted, {resume_hint}")


def _announce_first_weights(facts: Mapping[str, Any], display: Display, trainer: Trainer) -> None:
    initialized_from = facts["initialized_from"]
    if initialized_from is not None:
        seen = listed(initialized_from["trained_on"])
        named = (
            "the bundled model"
            if initialized_from["run"] == DEFAULT
            else f"the run {initialized_from['run']}"
        )
        display.log(wrapped(f"first weights: those of {named}, which was trained on {seen}"))
    if trainer.config.model.name == "hand_net" and trainer.config.model.pretrained is None:
        display.log("first weights: random. --pretrained hands or default reads new people better")
    if facts["unknown_weights"] is not None:
        display.log(f"note: {training_unknown(facts['unknown_weights'])}")


def _announce_validation(facts: Mapping[str, Any], display: Display, trainer: Trainer) -> None:
    if trainer.validation is None:
        display.log("no validation split: the last epoch's weights are kept")
    else:
        display.log(
            wrapped(f"validate on {len(trainer.validation):,} photos: {listed(facts['validated_on'])}")
        )
        if trainer.config.last_epoch:
            display.log("the last epoch's weights are kept, whatever validation says")


def _announce_other_epochs(trainer: Trainer, display: Display) -> None:
    """Of a run that is extended or shortened."""
    position, total = trainer.position, trainer.plan.total_steps
    if position.history and position.step < total:
        began = trainer.folder.config().epochs if trainer.backend.rank == 0 else trainer.config.epochs
        if trainer.config.epochs != began:
            display.log(
                f"{trainer.config.epochs} epochs in place of {began}: from here the learning rate follows the "
                f"schedule of a run of {trainer.config.epochs} (now {trainer.plan.learning_rate(position.step):.2e})"
            )


def wrapped(line: str) -> str:
    """As wide as a terminal; what follows the first line is indented."""
    return textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def log_how_to_resume(outcome: Outcome, trainer: Trainer, display: Display, resume_hint: str) -> None:
    """Of a run that ends before its last step: why, and how to resume it."""
    why = {Outcome.PREEMPTED: "stopped by a signal", Outcome.INTERRUPTED: "stopped by Ctrl-C"}.get(
        outcome, "stopped"
    )
    display.log(f"{why} at step {trainer.position.step}; {resume_hint}")


def resume_command_of(config: TrainConfig, folder: RunFolder, backend: Backend) -> str:
    """The command that resumes the run in `folder`."""
    file = config.model.cache_file
    words = ("--cache-features", file) if file is not None else ()
    launched = f" (on {backend.world_size} ranks by the same launcher)" if backend.world_size > 1 else ""
    return f"{command('train', '--resume', folder.path, *words)}{launched}"


def how_to_begin_again(config: TrainConfig, folder: RunFolder, resume_hint: str) -> str:
    """Of a run that was asked to stop before its first step, while photos passed the frozen backbone."""
    why = "stopped while the photos passed the frozen backbone"
    if folder.holds_run():
        return f"{why}; {resume_hint}"
    file = config.model.cache_file
    return f"{why}; the same command " + (
        f"continues with them in {file}" if file else "begins with them again"
    )
