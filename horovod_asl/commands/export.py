"""Write a run as an ONNX file, for ONNX Runtime in any language; or put it into a bundle, as a model that ships.

    horovod-asl export runs/RUN hand.onnx                # any batch size
    horovod-asl export runs/RUN hand.onnx --batch 1      # a fixed one
    horovod-asl export default hand.onnx                 # the model that ships with the package
    horovod-asl export runs/RUN --bundle horovod_asl/bundled_model --scores massey.json homes.json --notes recipe.md

The graph takes what `predict` makes of a photo's bytes (RGB pixels uint8, the hand's landmarks, or both) and gives
logits; the order of the classes, the temperature and whether the run was finished are in its metadata. It computes in
float32, and weights that float16 holds exactly are stored so. Before the file gets its name, ONNX Runtime must give
torch's logits within 1e-4 (where the largest logit is over 10: 1e-5 of it).

A bundle holds the weights, the ONNX file (10 MB each at most), the facts of the run, which photos it was trained on
(by digest), and a model card: `evaluate` and `predict` take its folder in place of a run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from horovod_asl.command_line.cli import parse, require_writable
from horovod_asl.command_line.progress import Progress
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.inference.classifier import Classifier
    from horovod_asl.inference.onnx_export import Exported


@dataclass(frozen=True)
class ExportConfig:
    """Flags of `export`."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder, or `default` for the model that ships."""
    out: Positional[Annotated[Path | None, arg(metavar="[OUT]")]] = None
    """The .onnx file to write."""
    batch: int | None = None
    """Photos per call, fixed in the graph; none: any number."""
    bundle: Path | None = None
    """In place of OUT: the folder of the bundle to make, or to make anew."""
    scores: tuple[Path, ...] = ()
    """For the card of a bundle: what `evaluate --json` wrote of this model, or crossval.json of its recipe."""
    temperature: float | None = None
    """For a bundle: in place of the run's own, which has none where it trained on every photo."""
    half: bool = False
    """For a bundle: round the weights to float16. The files are half as large (not the ONNX file of a network with
    BatchNorm, which is folded into other weights), and logits move in the third digit."""
    notes: Path | None = None
    """For the card of a bundle: Markdown to add, such as the commands that prepared the photos."""

    def __post_init__(self) -> None:
        if (self.out is None) == (self.bundle is None):
            raise UserError("name one of the two: the .onnx file to write, or --bundle FOLDER")
        if self.out is not None and self.out.suffix != ".onnx":
            raise UserError(f"{self.out} is no name for an ONNX file: end it with .onnx")
        if self.batch is not None and (self.batch < 1 or self.bundle is not None):
            raise UserError(
                "--batch must be at least 1"
                if self.batch < 1
                else "--batch is not for --bundle: it takes any"
            )
        if self.out is not None and (self.scores or self.notes or self.half or self.temperature is not None):
            raise UserError(
                "--scores, --notes, --half and --temperature are for a bundle: name it with --bundle FOLDER"
            )
        if self.temperature is not None and not 0.05 <= self.temperature <= 20:
            raise UserError(f"--temperature must be between 0.05 and 20, not {self.temperature}")


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 on success."""
    config = parse(ExportConfig, argv, prog="horovod-asl export", description=__doc__)
    if config.out is not None:
        require_writable(config.out, "OUT")

    from horovod_asl.inference.classifier import Classifier
    from horovod_asl.inference.onnx_export import export_onnx, require_onnx

    require_onnx()
    classifier = Classifier.from_run(config.run)
    if classifier.unfinished is not None:
        print(f"note: {classifier.unfinished}", flush=True)
    if config.out is not None:
        with Progress("") as progress:
            exported = export_onnx(classifier, config.out, batch=config.batch, on_stage=progress.stage)
        _show(exported)
    elif config.bundle is not None:
        _make_bundle(config, config.bundle, classifier)
    return 0


def _make_bundle(config: ExportConfig, folder: Path, classifier: Classifier) -> None:
    from horovod_asl.inference.classifier import Classifier
    from horovod_asl.inference.model_card import model_card, read_scores
    from horovod_asl.inference.onnx_export import export_one_pass, export_onnx
    from horovod_asl.runs import bundled_model

    run = bundled_model.open_run(config.run)
    scores = [row for path in config.scores for row in read_scores(path)]
    notes = _read(config.notes) if config.notes is not None else ""
    with bundled_model.new_bundle(folder) as bundle, Progress("") as progress:
        bundled_model.put_weights(bundle, run, config.temperature or classifier.temperature, half=config.half)
        classifier = Classifier.from_run(bundle)  # of what is in the bundle, rounded or not
        exported = export_onnx(classifier, bundle / bundled_model.ONNX, on_stage=progress.stage)
        export_one_pass(classifier, bundle / bundled_model.ONE_PASS, on_stage=progress.stage)
        card = model_card(
            run,
            bundle=bundle,
            temperature=classifier.temperature,
            origin="fitted on validation" if config.temperature is None else "that was given to `export`",
            inputs=exported.inputs,
            scores=scores,
            notes=notes,
        )
        (bundle / bundled_model.CARD).write_text(card, encoding="utf-8")
    _show(exported)
    for name in (bundled_model.WEIGHTS, bundled_model.ONNX):
        print(f"{folder / name}  {(folder / name).stat().st_size / 1e6:.2f} MB")
    print(f"{folder / bundled_model.CARD}: read it, and say what it lacks with --notes")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--notes {path} cannot be read as text ({error})") from error


def _show(exported: Exported) -> None:
    inputs = ", ".join(f"{name} {kind}" for name, kind in exported.inputs.items())
    print(f"{exported.path.name}: {inputs} → logits")
    print(
        f"ONNX Runtime and torch on {exported.checked} drawn inputs: largest difference of a logit "
        f"{exported.difference:.1e}"
    )
