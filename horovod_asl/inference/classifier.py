"""A run folder as a reader of photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from horovod_asl.command_line.progress import Report, no_report
from horovod_asl.distributed.base import Backend, Serial
from horovod_asl.engine.dataset import Dataset, map_tensors
from horovod_asl.engine.evaluate import PassOptions, scoring_autocast
from horovod_asl.engine.predictions import Predictions, predict_all
from horovod_asl.errors import UserError
from horovod_asl.hands.finder import finder_identity
from horovod_asl.inference.readers import CropReader, HandReader, PixelReader, Reader
from horovod_asl.inputs.pixels import Inputs, to_input, to_tensors
from horovod_asl.models import registry
from horovod_asl.models.hand_net import HandNet
from horovod_asl.runs.bundled_model import open_run
from horovod_asl.runs.checkpoint import Weights


@dataclass(frozen=True)
class Classifier:
    """The best weights of a run, ready to score or to read photos.

    Attributes:
        model: in evaluation mode, on the backend's device.
        classes: the names of its outputs, in order.
        image_size: side in pixels of the photos that it takes.
        epoch: the epoch that the weights are of, None for a run that has not finished one.
        facts: `run.json`.
        temperature: what the logits are divided by before they become probabilities (see `calibration`); 1 for a
            run without a validation split.
        unfinished: of a run that did not come to its end, that and how to go on, in words; None for any other.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_size: int
    epoch: int | None
    facts: dict[str, Any]
    backend: Backend
    temperature: float = 1.0
    unfinished: str | None = None

    @classmethod
    def from_run(cls, run: Path, backend: Backend | None = None) -> Classifier:
        """Load the best sound weights of the run folder or bundle `run`; UserError if it holds none."""
        backend = backend or Serial(torch.device("cpu"))
        folder = open_run(run)
        facts = folder.facts()
        manifest, weights = folder.best_weights()
        classifier = cls.of(
            facts, manifest, weights, backend, temperature=folder.temperature(manifest), name=str(run)
        )
        return replace(classifier, unfinished=folder.unfinished_note(manifest))

    @classmethod
    def of(
        cls,
        facts: dict[str, Any],
        manifest: dict[str, Any],
        weights: Weights,
        backend: Backend,
        *,
        temperature: float = 1.0,
        name: str,
    ) -> Classifier:
        """A predictor of what a run folder holds; UserError, with the run's `name`, where the weights do not fit."""
        model = registry.build_model(facts["model"], num_classes=len(facts["classes"]))
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise UserError(
                f"the weights in {name} do not fit {facts['model']}: {str(error).splitlines()[0]}"
            ) from error
        if isinstance(model, HandNet):
            model.tuned_blocks = facts.get("tuned_blocks", 0)  # what kept features are of
        model.to(backend.device).eval()
        classes, epoch = tuple(facts["classes"]), manifest.get("epoch")
        return cls(model, classes, facts["image_size"], epoch, facts, backend, temperature)

    @property
    def input_type(self) -> str:
        """What it reads of a photo: the whole, `photos`, or of its hand `pixels`, `landmarks` or `both`."""
        return str(self.facts.get("input", "photos"))  # runs from before there was a choice saw photos

    @property
    def reader(self) -> Reader:
        """What makes the network's input of a photo's bytes."""
        if self.input_type == "photos":
            return PixelReader(self.image_size)
        if self.input_type == "landmarks":
            return HandReader()
        return CropReader(self.facts["crop_size"], with_hand=self.input_type == "both")

    def other_finder(self, found_with: Mapping[str, Any] | None = None) -> str | None:
        """How hands are found for it and how they were in training, where that differs; None where it does not.

        Args:
            found_with: a store's `hand_settings`; None: found here and now.
        """
        learned = self.facts.get("hands")
        if learned is None or self.input_type == "photos":
            return None
        ways = found_with or finder_identity(), learned
        here, there = (f"finder {way['finder']} with bundle {way['bundle'][:12]}" for way in ways)
        return None if here == there else f"{here}, and in training by {there}"

    @property
    def _smallest_px(self) -> int:
        return registry.smallest_input_px(self.facts["model"])

    def predictions(
        self, photos: Dataset, *, already_sharded: bool = False, on_progress: Report = no_report
    ) -> Predictions:
        """The logits of all photos, over all ranks of the backend; `already_sharded`: each rank brings its own.

        `on_progress` gets the photos of this rank that are done, and in all.
        """
        return predict_all(
            registry.classifier(self.model) if photos.are_features else self.model,
            self.backend,
            photos,
            PassOptions(
                precision=self.facts["precision"], smallest_px=self._smallest_px, on_progress=on_progress
            ),
            already_sharded=already_sharded,
        )

    @torch.no_grad()
    def logits(self, images: npt.NDArray[np.generic], *, batch_size: int = 256) -> npt.NDArray[np.float32]:
        """What the network says, float32 (n, classes), of photos as `reader` reads them (n, …)."""
        parts = [
            self._batch_logits(images[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.classes)), np.float32)

    def inputs(self, images: npt.NDArray[np.generic]) -> Inputs:
        """What the network takes, on its device, of photos as for `logits`."""
        batch = map_tensors(
            lambda part: part.to(self.backend.device), to_tensors(np.ascontiguousarray(images))
        )
        return to_input(batch, smallest_px=self._smallest_px)

    def _batch_logits(self, images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        inputs = self.inputs(images)
        with scoring_autocast(self.backend.device, self.facts["precision"]):
            logits = self.model(inputs)
        result: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def probabilities(
        self, images: npt.NDArray[np.generic], *, batch_size: int = 256
    ) -> npt.NDArray[np.float32]:
        """float32 (n, classes) at the run's temperature, each row summing to 1, for photos as for `logits`."""
        logits = torch.from_numpy(self.logits(images, batch_size=batch_size))
        result: npt.NDArray[np.float32] = torch.softmax(logits / self.temperature, 1).numpy()
        return result

    def top(self, images: npt.NDArray[np.generic], count: int) -> list[list[tuple[str, float]]]:
        """For each photo its `count` likeliest classes with their probabilities, likeliest first."""
        probabilities = self.probabilities(images)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[k], float(row[k])) for k in best]
            for row, best in zip(probabilities, order, strict=True)
        ]
