"""Train, score and use an American Sign Language alphabet classifier on any number of machines.

From Python: `model = horovod_asl.load()`, then `model.read("photo.jpg").letter`. docs/api.md has more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from horovod_asl.inference.predictor import Predictor

__version__ = "0.1.0"


def load(run: str | PathLike[str] = "default", device: str = "auto", *, abstain: float = 0.0) -> Predictor:
    """A run, or the bundled model, as a `Predictor`: see `inference.predictor.load`. Imports torch."""
    from horovod_asl.inference import predictor

    return predictor.load(run, device, abstain=abstain)
