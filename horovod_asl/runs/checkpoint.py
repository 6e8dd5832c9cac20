"""Checkpoints that are whole or absent: written aside, synced, renamed; verified by digest when read.

A checkpoint is a folder: `weights.safetensors`, for resumable ones `state.pt` (read with `weights_only=True`),
and `manifest.json` with the SHA-256 of both, facts such as the step, and a digest of its own. A folder without
a manifest that matches is damaged, and the newest sound one before it is taken, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file

from horovod_asl.command_line.config_file import require_known_schema
from horovod_asl.config import SCHEMA
from horovod_asl.errors import UserError
from horovod_asl.system.files import file_digest, sync

WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"

State = dict[str, Any]
Weights = Mapping[str, torch.Tensor]


def save(folder: Path, *, weights: Weights, state: State | None = None, facts: Mapping[str, Any]) -> None:
    """Write the checkpoint `folder` at once: after a crash it is there whole, or not there.

    Args:
        folder: must not exist, or is replaced.
        weights: the tensors to evaluate with.
        state: what a resume needs besides; tensors, numbers, strings, lists and dicts only.
        facts: JSON values for the manifest, which gets the `schema` besides.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, weights, state, facts)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk its part is in the way of everything else
        raise
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _write(partial: Path, weights: Weights, state: State | None, facts: Mapping[str, Any]) -> None:
    """The files of a checkpoint, and those and their folder flushed to the disk."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (partial / WEIGHTS).touch()
    mode = (partial / WEIGHTS).stat().st_mode
    save_file(tensors, partial / WEIGHTS)
    (partial / WEIGHTS).chmod(mode)  # safetensors puts one in its place that the owner alone may read
    if state is not None:
        with (partial / STATE).open("wb") as file:  # by its path, torch would not say that a disk is full
            torch.save(on_cpu(state), file)
    digests = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
    manifest = {"schema": SCHEMA, **facts, "sha256": digests}
    manifest |= {"manifest_sha256": _manifest_digest(manifest)}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*partial.iterdir(), partial]:
        sync(path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint after its files' digests were checked.

    Raises:
        UserError: a file is missing or differs from its digest.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        found = {name: file_digest(folder / name) for name in manifest["sha256"]}
        found[MANIFEST] = _manifest_digest(manifest)
        expected = {**manifest["sha256"], MANIFEST: manifest["manifest_sha256"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"the checkpoint {folder} is damaged: {type(error).__name__}: {error}") from error
    for name, digest in found.items():
        if digest != expected[name]:
            raise UserError(f"the checkpoint {folder} is damaged: {name} does not match its digest")
    return manifest


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint whose manifest was read."""
    # As bytes: `load_file` maps the file, which some file systems refuse, and takes no path that is not UTF-8.
    return load((folder / WEIGHTS).read_bytes())


def load_state(folder: Path) -> State:
    """The resume state of a checkpoint whose manifest was read."""
    state: State = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return state


def load_newest(parent: Path) -> State | None:
    """State of the newest sound checkpoint under `parent`, its weights under `weights`; None without any."""
    found = newest_sound(parent)
    return None if found is None else {**load_state(found[0]), "weights": load_weights(found[0])}


def newest_sound(parent: Path, pattern: str = "step-*") -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint under `parent` that is whole, with its manifest; None where there is none at all.

    Raises:
        UserError: there are checkpoints, and every one is damaged.
    """
    return first_sound(sorted(parent.glob(pattern), reverse=True))


def first_sound(folders: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    """The first of `folders` that is whole, with its manifest; each damaged one before it is warned of.

    Raises:
        UserError: all are damaged, or that one was written by a newer version.
    """
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except UserError as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
        else:
            require_known_schema(manifest, folder / MANIFEST)
            return folder, manifest
    if folders:
        raise UserError(f"every checkpoint in {folders[0].parent} is damaged; start the run anew")
    return None


def remove(folder: Path) -> None:
    """Delete a checkpoint, its manifest first, so that a crash in between leaves none that looks whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def keep_newest(parent: Path, count: int, pattern: str = "step-*") -> None:
    """Remove all but the newest `count` checkpoints."""
    for folder in sorted(parent.glob(pattern))[:-count]:
        remove(folder)


def weights_digest(weights: Weights) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors: equal if and only if the weights are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.view(torch.uint8).numpy().tobytes() if array.ndim else array.numpy().tobytes())
    return digest.hexdigest()


def on_cpu(value: Any) -> Any:
    """`value` with its tensors on the CPU, so that it can be read where there is no GPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return [on_cpu(item) for item in value] if isinstance(value, (list, tuple)) else value


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
