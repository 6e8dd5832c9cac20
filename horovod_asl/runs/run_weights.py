"""The weights in a run folder: those of the best epochs, and those of the newest checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from horovod_asl.errors import UserError
from horovod_asl.runs import checkpoint


class RunWeights:
    """The folders checkpoints/ and best/ of the run at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"

    def save_best(
        self, epoch: int, score: float, weights: checkpoint.Weights, *, keep: int, alone: bool = False
    ) -> None:
        """Keep the weights of `epoch` if it is among the best `keep`; the later of equals is better.

        Args:
            alone: it is the best, whatever the others' scores, and they go.
        """
        own = self.best / f"epoch-{epoch:05d}"
        checkpoint.save(own, weights=weights, facts={"epoch": epoch, "validation_top1": score})
        ranked = self._ranked()
        for folder in [one for one in ranked if one != own] if alone else ranked[keep:]:
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

    def _ranked(self) -> list[Path]:
        """Folders under best/, best first; one that can't be read comes last."""

        def rank(folder: Path) -> tuple[float, int]:
            try:
                manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
                return float(manifest["validation_top1"]), int(manifest["epoch"])
            except (OSError, ValueError, LookupError, TypeError):
                return (-1.0, -1)

        return sorted(self.best.glob("epoch-*"), key=rank, reverse=True)
