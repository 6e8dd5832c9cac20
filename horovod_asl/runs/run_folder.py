"""A run folder: what was asked for, what came out, and the weights; enough to score, predict, resume and export.

config.yaml              the config as it is run (`--config` reads it); a resume writes down what it changes
run.json                 facts: sources, image size, classes, settings in force, versions
trained_on.sha256        the first 16 digits of the SHA-256 of every photo of training, sorted, one per line
metrics.jsonl            one line per epoch; tensorboard/ holds the same as curves, tensorboard/steps points within
checkpoints/step-*       resumable: weights, optimizer, position (the newest two)
best/epoch-*             weights of the best epochs on the validation split (`--keep-top`)
result.json              the scores of the best weights per split, the temperature fitted on validation (null without
                         one), and SHA-256 digests of parameters (statistics of BatchNorm left out):
                         `weights_digest` of the last step's, `best_weights_digest` of `epoch`'s
result.epoch-N.json      what result.json said after N epochs, of a run that was extended then
predictions.npz          the best weights' logits for the photos of each split that was scored, in the order of the
                         store: `test_logits`, float32 (n, classes), and `test_labels`, int64 (n,); `validation_…`
report.html, *.png       what a person looks at
.lock                    who trains here now (see `locks`); gone when it ends
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from horovod_asl.command_line.cli import command, parse
from horovod_asl.command_line.config_file import flags_of_file, require_known_schema, to_yaml
from horovod_asl.config import SCHEMA, TrainConfig
from horovod_asl.errors import UserError
from horovod_asl.runs.initial_weights import unknown_weights, yaml_in
from horovod_asl.runs.run_weights import RunWeights
from horovod_asl.store.folds import CROSSVAL, same_command
from horovod_asl.system.files import write_atomically
from horovod_asl.system.locks import Lock

CONFIG, FACTS, METRICS, RESULT = "config.yaml", "run.json", "metrics.jsonl", "result.json"
PREDICTIONS = "predictions.npz"
_PREDICTIONS_OF_SCHEMA_1 = "answers.npz"
_RENAMED = {"begun_with": "initialized_from", "box": "bundle"}  # keys of run.json of schema 1
LOCK = ".lock"
TRAINED_ON = "trained_on.sha256"
_DIGITS = 16  # 64 bits: among 87,000 photos two share them with a chance of 1 in 5 · 10⁹

HEAD, NEXT, FEATURES = "head", "next.yaml", "features"
"""Of a run of two stages (`stages`): the folder of the first one's run, in it the config of the second, and the
features that both train on, for as long as they train."""
# What a start leaves that failed before its config was saved.
_LEFTOVERS = {HEAD} | {
    name for file in (CONFIG, FACTS, METRICS, TRAINED_ON, NEXT) for name in (file, f".{file}.partial")
}


class RunFolder(RunWeights):
    """The files of one run, by name. Only rank 0 writes."""

    @classmethod
    def default_path(cls, model: str) -> Path:
        """`runs/<date>-<time>-<model>` in the working folder."""
        return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{model}"

    @classmethod
    def new_default(cls, model: str) -> RunFolder:
        """The folder at `default_path`, made by this call alone; `…-2` where another run began in the same second."""
        first = cls.default_path(model)
        for number in count(1):
            path = first if number == 1 else first.with_name(f"{first.name}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError:
                pass  # `claim` gives the reason
            return cls(path)
        raise AssertionError("unreachable")

    def lock(self, log: Callable[[str], None]) -> Lock:
        """The lock of the process that trains here; `log` gets a line where a stale one was taken over."""
        return Lock(self.path / LOCK, log)

    def holds_run(self) -> bool:
        """Whether a run began here."""
        return (self.path / CONFIG).is_file()

    def begun_stage(self) -> Path:
        """The folder of the run to resume: this one, or that of the first stage while the second has not begun."""
        head = self.path / HEAD
        return head if not self.holds_run() and (head / CONFIG).is_file() else self.path

    def claim(self) -> None:
        """Make the folder; one that holds a run, or anything else that is not ours, is refused."""
        head = RunFolder(self.path / HEAD)
        if self.holds_run() or (head.holds_run() and not (head.path / RESULT).is_file()):
            raise UserError(
                f"{self.path} already holds a run; continue it with: {command('train', '--resume', self.path)}, or "
                "name another folder"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(
                file.name
                for file in self.path.iterdir()
                if file.name not in _LEFTOVERS and not file.name.startswith((LOCK, FEATURES, f".{FEATURES}"))
            )
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
        write_atomically(self.path / CONFIG, f"schema: {SCHEMA}\n{to_yaml(config)}")

    def config(self, *, to_train: bool = False) -> TrainConfig:
        """The config of the run in this folder.

        Args:
            to_train: the training is to go on: options that this version no longer has must have had their default.

        Raises:
            UserError: there is no config, it cannot be read, or it is of a newer version.
        """
        if not self.holds_run():
            raise UserError(
                f"{self.path} holds no run (no {CONFIG}); a run folder is made by `horovod-asl train`"
            )
        flags = flags_of_file(
            TrainConfig, self.path / CONFIG, refuse_retired=to_train, written_by=self._written_by()
        )
        return parse(TrainConfig, flags, prog="horovod-asl train", description=None)

    def _written_by(self) -> str:
        try:
            return f"version {self.facts()['versions']['horovod_asl']}"
        except (UserError, LookupError, TypeError):
            return "the version that wrote it"

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Save what inference and a reader need to know besides the config."""
        write_atomically(self.path / FACTS, json.dumps({"schema": SCHEMA, **facts}, indent=1))

    def facts(self) -> dict[str, Any]:
        """What `write_facts` saved, under the keys of today."""
        try:
            facts: dict[str, Any] = json.loads((self.path / FACTS).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is not a run folder that can be used: {FACTS}: {error}") from error
        require_known_schema(facts, self.path / FACTS)
        return {_RENAMED.get(key, key): fact for key, fact in facts.items()}

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

    def unknown_weights(self) -> str | None:
        """The file of weights with which this run began, or a run before it, whose training photos are
        not known; None: there is none."""
        return unknown_weights(self.facts(), (self.path / CONFIG).read_text() if self.holds_run() else "")

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One JSON line per epoch. Written whole, so that a resumed run drops what it will do again."""
        write_atomically(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in history))

    def metrics(self) -> list[dict[str, Any]]:
        """What `write_metrics` saved; no rows where it did not."""
        try:
            return [json.loads(line) for line in (self.path / METRICS).read_text().splitlines()]
        except (OSError, ValueError):
            return []

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The final scores per split."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=1))

    def result(self) -> dict[str, Any]:
        """What `write_result` saved of a run that ended."""
        result: dict[str, Any] = json.loads((self.path / RESULT).read_text())
        return result

    def set_result_aside(self) -> None:
        """Of a finished run that is to be extended: it is finished no longer, and what it came to is kept."""
        if (self.path / RESULT).is_file():
            aside = self.path / f"{Path(RESULT).stem}.epoch-{self.metrics()[-1]['epoch']}.json"
            if aside.exists():  # the first is of the training, a later one of nothing more
                (self.path / RESULT).unlink()
            else:
                (self.path / RESULT).replace(aside)

    def write_predictions(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Save logits and labels of the splits that were scored."""
        partial = self.path / f".{PREDICTIONS}.partial"
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(self.path / PREDICTIONS)

    def predictions(self) -> dict[str, npt.NDArray[Any]]:
        """What `write_predictions` saved; UserError where an older version trained the run and did not."""
        old = self.path / _PREDICTIONS_OF_SCHEMA_1
        try:
            with np.load(old if old.is_file() else self.path / PREDICTIONS) as arrays:
                return dict(arrays)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} is trained, but its predictions cannot be read ({error}): remove that folder, and it "
                "is trained anew"
            ) from error

    def unfinished(self) -> str | None:
        """Of a run that did not come to its end: how far it came, such as `epoch 3 of 12`; None for any other."""
        if not self.holds_run() or (self.path / RESULT).is_file():
            return None
        metrics = self.path / METRICS
        done = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
        return f"epoch {done} of {yaml_in((self.path / CONFIG).read_text()).get('epochs', '?')}"

    def unfinished_note(self, manifest: Mapping[str, Any]) -> str | None:
        """What `unfinished` means for the weights of this manifest (see `best_weights`), and how to go on."""
        stands = self.unfinished()
        if stands is None:
            return None
        weights = "its newest checkpoint" if manifest.get("epoch") is None else "its best epoch so far"
        return f"{self.path} is not finished ({stands}; {self._way_on()}): these are the weights of {weights}"

    def _way_on(self) -> str:
        if (self.facts().get("split_rule") or {}).get("kind") == CROSSVAL:
            return f"{same_command(self.path.parent)} resumes it"
        return f"resume it with `{command('train', '--resume', self.path)}`"

    def temperature(self, manifest: Mapping[str, Any]) -> float:
        """The temperature fitted for the weights of this manifest (see `best_weights`); 1 where there is none."""
        fitted = manifest.get("temperature")
        if fitted is None and (self.path / RESULT).is_file():
            result = self.result()
            fitted = result.get("temperature") if result.get("epoch") == manifest.get("epoch") else None
        return 1.0 if fitted is None else float(fitted)

    def write_ledger(self, line: Mapping[str, Any]) -> None:
        """Append a JSON line to this process's file under ledger/."""
        folder = self.path / "ledger"
        folder.mkdir(exist_ok=True)
        with (folder / f"{platform.node()}-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def training_unknown(file: str) -> str:
    """What `RunFolder.unknown_weights` means for a score, as half a sentence."""
    return f"these weights began from {file}, and who was in its training is not known"
