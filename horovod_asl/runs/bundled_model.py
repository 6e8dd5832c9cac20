"""The bundled model: a finished run in a folder of a few small files, one of which ships with the package.

run.json                 the run's facts, and under `bundle` the epoch, the temperature and the SHA-256 of the weights
config.yaml              the config that it was trained with, but for the folders of that machine
weights.safetensors      float16 where that is exact (see `compact`)
model.onnx               the same network for ONNX Runtime, pixels in and logits out
one_pass.onnx            one of its four passes, for films (hand_net alone)
trained_on.sha256        as in a run folder
MODEL_CARD.md            what it is, what it was trained on, how it scores and where it fails

The name `default` means the one that ships, where there is no folder of that name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from horovod_asl.config import without_folders
from horovod_asl.errors import UserError
from horovod_asl.runs.checkpoint import Weights, read_manifest
from horovod_asl.runs.compact import load_compact, save_compact
from horovod_asl.runs.run_folder import CONFIG, FACTS, TRAINED_ON, RunFolder
from horovod_asl.system.files import file_digest
from horovod_asl.system.locks import locked

DEFAULT = "default"
BUNDLE = Path(__file__).parents[1] / "bundled_model"
WEIGHTS, ONNX, ONE_PASS, CARD = "weights.safetensors", "model.onnx", "one_pass.onnx", "MODEL_CARD.md"
LARGEST_BYTES = 10_000_000
"""Of the weights and of the ONNX file each: what ships with the package stays small."""
_FILES = {FACTS, CONFIG, TRAINED_ON, WEIGHTS, ONNX, ONE_PASS, CARD}


class Bundle(RunFolder):
    """A bundle as a run folder that can be read and scored, but not resumed."""

    def unfinished(self) -> str | None:
        """Of which epoch the weights are, where they were put here before their run came to its end."""
        stood: str | None = self.facts().get("bundle", {}).get("unfinished")
        return stood

    def unfinished_note(self, manifest: Mapping[str, Any]) -> str | None:
        """The same as a sentence."""
        stood = self.unfinished()
        return stood and f"{self.path} was made of a run that was not finished ({stood})"

    @property
    def weights_sha256(self) -> str | None:
        """What `run.json` says that the SHA-256 of the weights is; None where this is no bundle."""
        digest: str | None = self.facts().get("bundle", {}).get("weights_sha256")
        return digest

    def best_weights(self) -> tuple[dict[str, Any], Weights]:
        """What `run.json` says of the weights, and the weights; UserError if they are damaged."""
        manifest: dict[str, Any] = self.facts().get("bundle", {})
        file = self.path / WEIGHTS
        if not file.is_file() or file_digest(file) != self.weights_sha256:
            raise UserError(
                f"{file} is missing or damaged: install horovod_asl again, or bundle the run again"
            )
        return manifest, load_compact(file)


def open_run(path: Path) -> RunFolder:
    """The run folder or bundle at `path`, or the bundle that ships for `default`.

    Raises:
        UserError: `default`, and nothing is in the bundle.
    """
    if _means_default(path):
        if not (BUNDLE / FACTS).is_file():
            raise UserError(
                f"this horovod_asl comes without a model ({BUNDLE} holds none): name the folder of a run that "
                "`horovod-asl train` made"
            )
        return Bundle(BUNDLE)
    return Bundle(path) if (path / WEIGHTS).is_file() else RunFolder(path)


def is_bundled(run: RunFolder) -> bool:
    """Whether this is the model that ships."""
    return run.path == BUNDLE


def names_run_folder(path: Path) -> bool:
    """Whether `open_run` is to open `path`: a folder, or `default`."""
    return path.is_dir() or _means_default(path)


def run_of_weights(file: Path) -> RunFolder | None:
    """The run or bundle that left this file of weights, and still holds it; None for any other file.

    Raises:
        UserError: it is a run's, and is not what the run wrote.
    """
    file = file.resolve()
    if file.name != WEIGHTS:
        return None
    folder = file.parent
    if (folder / FACTS).is_file():
        bundle = Bundle(folder)
        return bundle if file_digest(file) == bundle.weights_sha256 else None
    run = RunFolder(folder.parent.parent)
    if folder.parent not in (run.best, run.checkpoints) or not (run.path / FACTS).is_file():
        return None
    read_manifest(folder)
    return run


def names_run(path: Path) -> bool:
    """Whether `path` stands for a run: `default`, or a folder with one in it."""
    return _means_default(path) or (path / FACTS).is_file() or RunFolder(path).holds_run()


@contextlib.contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Within, an empty folder to fill; afterwards it is `folder`, in place of a bundle that was there.

    Raises:
        UserError: `folder` holds other files than a bundle's, cannot be made, or a file came out too large.
    """
    folder = folder.absolute()  # `.` has no name
    _refuse_foreign(folder)
    held = contextlib.ExitStack()
    try:
        lock = folder.with_name(f".{folder.name}.lock")
        held.enter_context(locked(lock, f"another export writes {folder}"))
    except OSError as error:
        raise _no_place(folder, error) from error
    with held:
        yield from _filled(folder)


def _filled(folder: Path) -> Iterator[Path]:
    partial, replaced = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "replaced"))
    for left in (partial, replaced):
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir()
    except OSError as error:
        raise _no_place(folder, error) from error
    try:
        yield partial
        for name in (WEIGHTS, ONNX, ONE_PASS):
            if (partial / name).exists():
                _refuse_large(partial / name)
        if folder.exists():
            folder.rename(replaced)
        try:
            partial.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
    finally:
        for left in (partial, replaced):
            shutil.rmtree(left, ignore_errors=True)


def _no_place(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"no bundle can be made at {folder} ({error.strerror}): name a folder in one that is there and writable"
    )


def put_weights(bundle: Path, run: RunFolder, temperature: float, *, half: bool = False) -> None:
    """Write into a new bundle what it keeps of a run besides the ONNX file and the card.

    Args:
        temperature: what its logits are to be divided by.
        half: round the weights to float16, which halves the files and moves logits in the third digit.

    Raises:
        UserError: the weights are too large, as a file or for float16.
    """
    manifest, weights = run.best_weights()
    if half:
        weights = {name: _rounded(tensor) for name, tensor in weights.items()}
    save_compact(bundle / WEIGHTS, weights)
    known = {
        "epoch": manifest.get("epoch"),
        "temperature": temperature,
        "rounded_to": "float16" if half else None,
        "unfinished": run.unfinished(),
        "weights_sha256": file_digest(bundle / WEIGHTS),
    }
    _refuse_large(bundle / WEIGHTS)
    facts = {name: fact for name, fact in run.facts().items() if name != "store"}
    facts["precision"] = "fp32"  # on every device it is read as by ONNX Runtime, whatever its steps were in
    if facts.get("initialized_from"):
        facts["initialized_from"] = facts["initialized_from"] | {
            "run": Path(facts["initialized_from"]["run"]).name
        }
    unknown = run.unknown_weights()
    facts["unknown_weights"] = unknown and Path(unknown).name
    RunFolder(bundle).write_facts(facts | {"bundle": known})
    if (run.path / CONFIG).is_file():
        RunFolder(bundle).create(without_folders(run.config()))
    if (run.path / TRAINED_ON).is_file():
        shutil.copyfile(run.path / TRAINED_ON, bundle / TRAINED_ON)


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.half().to(tensor.dtype)
    if not rounded.isfinite().all():
        raise UserError("a weight is too large for float16: leave --half out")
    return rounded


def _means_default(path: Path) -> bool:
    return str(path) == DEFAULT and not path.is_dir()


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder for the bundle")
    others = sorted({file.name for file in folder.iterdir()} - _FILES) if folder.exists() else []
    if others:
        raise UserError(
            f"{folder} holds other files than a bundle's ({', '.join(others[:3])}): name a new folder"
        )


def _refuse_large(file: Path) -> None:
    size = file.stat().st_size
    if size > LARGEST_BYTES:
        raise UserError(
            f"{file.name} would have {size / 1e6:.1f} MB, and a bundle takes {LARGEST_BYTES / 1e6:.0f} MB a file: "
            "train a smaller network, or export the ONNX file alone"
        )
