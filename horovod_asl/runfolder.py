"""A run folder: what was asked for, what came out, and the weights; enough to score, predict, resume and export.

config.yaml              the config as it was run (`--config` reads it)
run.json                 facts: sources, image size, classes, settings in force, versions
trained_on.sha256        the first 16 digits of the SHA-256 of every photo of training, sorted, one per line
metrics.jsonl            one line per epoch; tensorboard/ holds the same as curves
checkpoints/step-*       resumable: weights, optimizer, position (the newest two)
best/epoch-*             weights of the best epochs on the validation split (`--keep-top`)
result.json              the scores of the best weights per split, the temperature fitted on validation (null without
                         one), and SHA-256 digests of parameters (statistics of BatchNorm left out):
                         `weights_digest` of the last step's, `best_weights_digest` of `epoch`'s
answers.npz              what the best weights answer to the photos of each split that was scored, in the order of the
                         store: `test_logits`, float32 (n, classes), and `test_labels`, int64 (n,); `validation_…`
report.html, *.png       what a person looks at
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from horovod_asl import checkpoint
from horovod_asl.cli import flags_of_file, parse, to_yaml
from horovod_asl.config import TrainConfig
from horovod_asl.errors import UserError

CONFIG, FACTS, METRICS, RESULT = "config.yaml", "run.json", "metrics.jsonl", "result.json"
ANSWERS = "answers.npz"
TRAINED_ON = "trained_on.sha256"
_DIGITS = 16  # 64 bits: among 87,000 photos two share them with a chance of 1 in 5 · 10⁹

# What a start leaves that failed before its config was saved.
_LEFTOVERS = {name for file in (CONFIG, FACTS, METRICS, TRAINED_ON) for name in (file, f".{file}.partial")}


class RunFolder:
    """The files of one run, by name. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"

    @classmethod
    def default_path(cls, model: str) -> Path:
        """`runs/<date>-<time>-<model>` in the working folder."""
        return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{model}"

    def holds_run(self) -> bool:
        """Whether a run began here."""
        return (self.path / CONFIG).is_file()

    def claim(self) -> None:
        """Make the folder; one that holds a run, or anything else that is not ours, is refused."""
        if self.holds_run():
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume {self.path}, or name another"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(file.name for file in self.path.iterdir() if file.name not in _LEFTOVERS)
        except OSError as error:
            reason = "a file of that name is there" if self.path.is_file() else error.strerror
            raise UserError(
                f"{self.path} cannot be made a run folder ({reason}): name another with --run-folder"
            ) from error
        if others:
            raise UserError(
                f"{self.path} is no run and holds other files ({', '.join(others[:3])}): name a new folder with "
                "--run-folder"
            )

    def create(self, config: TrainConfig) -> None:
        """Save the config: from here on the folder, which `claim` made, holds a run.

        Other ranks may be at their first step by now, whose ledger is no reason to refuse the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / CONFIG, to_yaml(config))

    def config(self) -> TrainConfig:
        """The config of the run in this folder."""
        if not self.holds_run():
            raise UserError(
                f"{self.path} holds no run (no {CONFIG}); a run folder is made by `horovod-asl train`"
            )
        flags = flags_of_file(TrainConfig, self.path / CONFIG)
        return parse(TrainConfig, flags, prog="horovod-asl train", description=None)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Save what inference and a reader need to know besides the config."""
        write_atomically(self.path / FACTS, json.dumps(facts, indent=1))

    def facts(self) -> dict[str, Any]:
        """What `write_facts` saved."""
        try:
            facts: dict[str, Any] = json.loads((self.path / FACTS).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is not a run folder that can be used: {FACTS}: {error}") from error
        return facts

    def write_training_photos(self, digests: Iterable[str]) -> None:
        """Save which photos are trained on, by the SHA-256 of their files."""
        short = sorted({digest[:_DIGITS] for digest in digests})
        write_atomically(self.path / TRAINED_ON, "".join(f"{digest}\n" for digest in short))

    def training_photos(self) -> list[str] | None:
        """The lines of `trained_on.sha256`; None for a run that did not save it."""
        try:
            return (self.path / TRAINED_ON).read_text().split()
        except FileNotFoundError:
            return None

    def were_in_training(self, digests: Iterable[str]) -> list[bool] | None:
        """Of photos with these SHA-256: which were trained on; None for a run that did not save it."""
        lines = self.training_photos()
        if lines is None:
            return None
        trained = set(lines)
        return [digest[:_DIGITS] in trained for digest in digests]

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One JSON line per epoch. Written whole, so that a resumed run drops what it will do again."""
        write_atomically(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in history))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The final scores per split."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=1))

    def result(self) -> dict[str, Any]:
        """What `write_result` saved of a run that ended."""
        result: dict[str, Any] = json.loads((self.path / RESULT).read_text())
        return result

    def write_answers(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Save logits and labels of the splits that were scored."""
        partial = self.path / f".{ANSWERS}.partial"
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(self.path / ANSWERS)

    def answers(self) -> dict[str, npt.NDArray[Any]]:
        """What `write_answers` saved; UserError where an older version trained the run and did not."""
        try:
            with np.load(self.path / ANSWERS) as arrays:
                return dict(arrays)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} is trained, but its answers cannot be read ({error}): remove that folder, and it is "
                "trained anew"
            ) from error

    def temperature(self, manifest: Mapping[str, Any]) -> float:
        """The temperature fitted for the weights of this manifest (see `best_weights`); 1 where there is none."""
        fitted = manifest.get("temperature")
        if fitted is None and (self.path / RESULT).is_file():
            result = self.result()
            fitted = result.get("temperature") if result.get("epoch") == manifest.get("epoch") else None
        return 1.0 if fitted is None else float(fitted)

    def save_best(self, epoch: int, score: float, weights: checkpoint.Weights, *, keep: int) -> None:
        """Keep the weights of `epoch` if it is among the best `keep`; the later of equals is better."""
        checkpoint.save(
            self.best / f"epoch-{epoch:05d}",
            weights=weights,
            facts={"epoch": epoch, "validation_top1": score},
        )
        for folder in self._ranked()[keep:]:
            checkpoint.remove(folder)

    def final_weights(self) -> checkpoint.Weights:
        """The tensors of the newest sound resumable checkpoint: of a finished run, those of its last step."""
        found = checkpoint.newest_sound(self.checkpoints)
        if found is None:
            raise UserError(f"{self.path} holds no checkpoint: its run was stopped before the first")
        return checkpoint.load_weights(found[0])

    def best_weights(self) -> tuple[dict[str, Any], checkpoint.Weights]:
        """The manifest and tensors of the best sound checkpoint, else of the newest resumable one."""
        resumable = sorted(self.checkpoints.glob("step-*"), reverse=True)
        found = checkpoint.first_sound([*self._ranked(), *resumable])
        if found is None:
            raise UserError(
                f"{self.path} holds no weights yet: its run was stopped before the first checkpoint"
            )
        folder, manifest = found
        return manifest, checkpoint.load_weights(folder)

    def write_ledger(self, line: Mapping[str, Any]) -> None:
        """Append a JSON line to this process's file under ledger/."""
        folder = self.path / "ledger"
        folder.mkdir(exist_ok=True)
        with (folder / f"{platform.node()}-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _ranked(self) -> list[Path]:
        """Folders under best/, best first; one that can't be read comes last."""

        def rank(folder: Path) -> tuple[float, int]:
            try:
                manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
                return float(manifest["validation_top1"]), int(manifest["epoch"])
            except (OSError, ValueError, LookupError, TypeError):
                return (-1.0, -1)

        return sorted(self.best.glob("epoch-*"), key=rank, reverse=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`: a reader sees the old or the new content, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="surrogateescape") as file:  # file names may be no UTF-8
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
