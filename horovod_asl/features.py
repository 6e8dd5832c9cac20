"""A frozen backbone's features: computed once, where every epoch would compute the same ones again.

Without augmentation a photo gives a frozen backbone the same input in each epoch, so the head's input is the same
too: training the head on features that are kept takes the steps that training the whole network would, but for the
rounding of sums (a test holds the weights of the two side by side). What is random stays random: a dropout before
the head draws in every step, as it would have. With `--views` the photos come in several versions, augmented by
draws that depend on the seed, the version and the photo alone.

Features are computed in fp32 whatever the steps are in: one file serves trainings in any precision.
Those of all photos lie in one file per machine, float32 (n, width), mapped by its ranks. Without
`--features-file` it is already removed from its folder, so it goes when the last of them ends. A `--features-file`
is filled by one training at a time; others wait, and then use what it computed.
`TrainConfig.trains_on_features` says when all this is done.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from horovod_asl import models
from horovod_asl.backends import Backend
from horovod_asl.config import TrainConfig
from horovod_asl.data.mapping import refuses_maps
from horovod_asl.data.transforms import DRAWS, Inputs, to_input
from horovod_asl.engine import Photos, augmented, each
from horovod_asl.errors import UserError
from horovod_asl.files import Holder, Lock, full_disk, is_full, write_atomically
from horovod_asl.hand_network import HandNet, TunedTail
from horovod_asl.stopping import StopSignal

FEATURES_VERSION = 1
"""Raise when the same photo, view and weights would give other features: kept files are then refused."""
_PHOTOS_PER_PASS = 256
_PHOTOS_PER_BATCH = 8  # a CPU's caches like it: larger ones are slower
_PASSES_PER_NOTE = 8
_SAY_EVERY_S = 60.0


def of_photos(
    model: nn.Module,
    backend: Backend,
    photos: Photos,
    config: TrainConfig,
    stop: StopSignal,
    *,
    views: int = 1,
    kept: Kept | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Photos | None:
    """The photos as features of `model`'s backbone, `views` versions of each: those of the first, then of the next.

    Float32 (views · n, width); for hand_net records of such features and of the hand. Each rank computes its share.
    Every rank must come here. None where some rank was asked to stop meanwhile.

    Args:
        model: the network; or, of photos that are what enters hand_net's last blocks, its `TunedTail`.
        kept: a file in which they stay for other runs, and from which an interrupted pass goes on.

    Raises:
        UserError: the folder for temporary files has too little room on some machine, or the file is of another pass.
    """
    extract = _Extractor(model, backend.device, config, photos)
    if kept is not None:
        kept = replace(kept, about={**kept.about, "row": str(extract.dtype)})
    count = views * len(photos)
    with _alone(kept, count, extract.dtype, backend, stop) as makes_file:
        if makes_file is None:
            return None
        table = _shared_table(backend, count, extract.dtype, kept, makes_file=makes_file)
        if not _fill(table, extract, backend, stop, kept, on_progress, makes_notes=makes_file):
            return None
    records: npt.NDArray[Any] = np.asarray(table)
    whole = records["features"] if records.dtype.names == ("features",) else records
    return Photos(
        whole.__getitem__,
        np.tile(photos.labels, views),
        are_features=True,
        times=None if photos.times is None else np.tile(photos.times, views),
    )


@contextlib.contextmanager
def _alone(
    kept: Kept | None, count: int, dtype: np.dtype[Any], backend: Backend, stop: StopSignal
) -> Iterator[bool | None]:
    """Within, no other training fills the kept file, and this rank makes the file that it maps if the value is true.

    None where some rank was asked to stop while they waited. The first rank of each machine locks the file that it
    sees. Where machines share a disk, that is one file: one of them makes it, and its lock is everybody's. Nobody
    keeps one lock while it waits for another, or two trainings might wait for each other. All ranks come here each
    second, so the watchdog sees them alive.
    """
    if kept is None:
        yield backend.local_rank == 0
        return
    lock = Lock(kept.path.with_name(f".{kept.path.name}.lock"), lambda line: print(line, flush=True))
    started, next_s = time.monotonic(), 0.0
    try:
        while True:
            holder = _try(lock, kept, count, dtype) if backend.local_rank == 0 else None
            found = backend.gather((lock.token, holder, stop.received))
            own = {token for token, _, _ in found}
            others = [other for _, other, _ in found if other is not None and other.token not in own]
            if not others:
                yield backend.local_rank == 0 and holder is None
                return
            lock.release()
            if any(stops for _, _, stops in found):
                yield None
                return
            waited_s = time.monotonic() - started
            if backend.rank == 0 and waited_s >= next_s:
                so_far = f", {waited_s / 60:.0f} min so far" if next_s else ""
                print(f"{kept.path} is being filled by {others[0]}; waiting for it{so_far}", flush=True)
                next_s += _SAY_EVERY_S
            time.sleep(1)
    finally:
        lock.release()


def _try(lock: Lock, kept: Kept, count: int, dtype: np.dtype[Any]) -> Holder | None:
    """Lock a file that is still to be filled; whoever holds the lock, else None."""
    try:
        if kept.rows_done() == count and kept.path.stat().st_size == count * dtype.itemsize:
            return None
        kept.path.parent.mkdir(parents=True, exist_ok=True)
        return lock.take()
    except (UserError, OSError):
        return None  # `_make_file` comes upon the same and says it on all ranks


def _fill(
    table: np.memmap[Any, Any],
    extract: _Extractor,
    backend: Backend,
    stop: StopSignal,
    kept: Kept | None,
    on_progress: Callable[[int, int], None],
    *,
    makes_notes: bool,
) -> bool:
    """Write what is missing, over all ranks; False where some rank was asked to stop meanwhile."""
    block = _PHOTOS_PER_PASS * backend.world_size
    done = 0 if kept is None else min(backend.gather(kept.rows_done()))
    for number, start in enumerate(range(done, len(table), block)):
        backend.heartbeat()
        on_progress(start, len(table))
        if kept is not None and makes_notes and number % _PASSES_PER_NOTE == 0:
            _note(kept, table, start)
        if float(backend.sum(torch.tensor(float(stop.is_asked), device=backend.device))) > 0:
            return False
        rows = np.arange(start, min(start + block, len(table)))
        own = rows[backend.rank :: backend.world_size]
        part = np.zeros(len(rows), table.dtype)
        if len(own):
            part[own - start] = extract(own)
        summed = backend.sum(torch.from_numpy(part.view(np.int32)).to(backend.device))
        if backend.local_rank == 0:  # each row is one rank's, and zero on the others: nothing was rounded
            table[rows] = summed.cpu().numpy().view(table.dtype)
    if kept is not None and makes_notes and done < len(table):
        _note(kept, table, len(table))
    on_progress(len(table), len(table))
    backend.barrier()
    return True


def _note(kept: Kept, table: np.memmap[Any, Any], rows: int) -> None:
    """Write down that so many rows are there, once they are on the disk: after a crash the rest would be zeros."""
    try:
        table.flush()
        kept.note(rows)
    except OSError as error:
        if not is_full(error):
            raise
        raise full_disk(kept.path.parent, "free some room, or name another --features-file") from error


@dataclass(frozen=True)
class Kept:
    """Features in a file that stays, and beside it (`.json`) what they are of and how many rows are there.

    Attributes:
        about: what decides the features; a file of others is refused.
    """

    path: Path
    about: Mapping[str, Any]

    def rows_done(self) -> int:
        """Rows that are there, 0 for a file that is still to be made; UserError if they are of something else."""
        note = self._note
        if not self.path.exists():
            return 0
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            about, rows = content["about"], int(content["rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"--features-file {self.path} is there and is none of ours, or what it holds ({note.name}) cannot be "
                "read: name another file, or remove it"
            ) from error
        if about != json.loads(json.dumps(self.about)):
            raise UserError(
                f"{self.path} holds features of other photos, views or weights: name another file with "
                f"--features-file, or remove it and {note.name}"
            )
        return rows

    def note(self, rows: int) -> None:
        """Write down that so many rows are there."""
        write_atomically(self._note, json.dumps({"about": self.about, "rows": rows}))

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


class _Extractor:
    """The backbone as it is fastest for inference: BatchNorm folded into the convolutions, NHWC on a CPU.

    `dtype` is of the record that is kept of a photo: its `features`, and the `hand` where the network reads one.
    """

    def __init__(self, model: nn.Module, device: torch.device, config: TrainConfig, photos: Photos) -> None:
        self._see = model.see if isinstance(model, (HandNet, TunedTail)) else _Folded(model)
        self._device, self._config, self._photos = device, config, photos
        self._smallest_px = models.SMALLEST_INPUT_PX.get(config.model.name, 0)
        first = self._seen(np.zeros(1, np.int64))
        self._names = ("features", "hand")[: len(first)]
        # The maps before tuned blocks are large, and half precision is finer than what the blocks make of them.
        halved = isinstance(model, HandNet) and model.tuned_blocks > 0
        kinds = {"features": np.float16 if halved else np.float32, "hand": np.float32}
        fields = [(name, kinds[name], part.shape[1:]) for name, part in zip(self._names, first, strict=True)]
        self.dtype = np.dtype(fields)

    def __call__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The records of `rows` of all views, (len(rows),)."""
        records = np.empty(len(rows), self.dtype)
        for start in range(0, len(rows), _PHOTOS_PER_BATCH):
            chosen = slice(start, start + _PHOTOS_PER_BATCH)
            for name, part in zip(self._names, self._seen(rows[chosen]), strict=True):
                records[name][chosen] = part.cpu().numpy()
        return records

    @torch.no_grad()
    def _seen(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, ...]:
        photo, view = rows % len(self._photos), rows // len(self._photos)
        images, _ = self._photos.batch(photo, self._device)
        batch = to_input(images, smallest_px=self._smallest_px)
        changed = np.flatnonzero(view > 0)
        if len(changed):
            uniform = torch.from_numpy(
                np.stack([_view_draws(self._config.seed, *pair) for pair in zip(view, photo, strict=True)])
            )
            other = augmented(images, uniform, self._config.augment, smallest_px=self._smallest_px)
            batch = _where(torch.from_numpy(view > 0).to(self._device), other, batch)
        seen = self._see(each(_nhwc, batch))  # type: ignore[arg-type]
        return tuple(part.float() for part in (seen if isinstance(seen, tuple) else (seen,)))


class _Folded:
    """What enters the head of a network of torchvision's kind, its BatchNorm folded."""

    def __init__(self, model: nn.Module) -> None:
        from torch.fx.experimental.optimization import fuse

        self._network: nn.Module = fuse(copy.deepcopy(model).eval())
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._seen: list[Tensor] = []
        entry = models.tail_of(self._network)[0]
        entry.register_forward_pre_hook(lambda module, inputs: self._seen.append(inputs[0]))

    def __call__(self, batch: Tensor) -> Tensor:
        """Features (n, width)."""
        self._seen.clear()
        self._network(batch)
        return self._seen[0].flatten(1)


def _nhwc(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _where(chosen: Tensor, changed: Inputs, kept: Inputs) -> Inputs:
    """Of each tensor the rows of `changed` that are `chosen`, and those of `kept` else."""

    def one(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b)

    if isinstance(changed, tuple):
        return tuple(one(a, b) for a, b in zip(changed, kept, strict=True))
    assert isinstance(kept, Tensor)
    return one(changed, kept)


def _view_draws(seed: int, view: int, photo: int) -> npt.NDArray[np.float32]:
    """The draws of a version of a photo, as `transforms.draws` makes those of a step."""
    return np.random.default_rng([seed, 2, view, photo]).random(DRAWS, np.float32)


def _shared_table(
    backend: Backend, photos: int, dtype: np.dtype[Any], kept: Kept | None, *, makes_file: bool
) -> np.memmap[Any, Any]:
    """Records (photos,), one array for all ranks of a machine: the first of them makes it, the others map it."""
    made, fault = _make_file(photos * dtype.itemsize, kept) if makes_file else (None, None)
    told = backend.gather((platform.node(), made, fault))
    faults = [text for _, _, text in told if text is not None]
    if faults:
        if made is not None and kept is None:
            made.unlink()
        raise UserError(faults[0])
    if kept is None:
        path = made or next(file for host, file, _ in told if file is not None and host == platform.node())
    else:
        path = kept.path
        if backend.local_rank == 0 and not makes_file:
            path.touch()  # another host made it: NFS may remember that it was not there, and a touch asks anew
    table: np.memmap[Any, Any] = np.memmap(path, dtype, "r+", shape=(photos,))
    backend.barrier()
    if made is not None and kept is None:
        made.unlink()
    return table


def _make_file(size_bytes: int, kept: Kept | None) -> tuple[Path | None, str | None]:
    """A file whose room is taken already, or why there is none."""
    path = None
    try:
        if kept is not None and kept.rows_done() > 0 and kept.path.stat().st_size == size_bytes:
            with kept.path.open("r+b") as file:
                _require_maps(file, kept.path)
            return kept.path, None
        if kept is None:
            handle, name = tempfile.mkstemp(prefix="horovod_asl-features-")
            path = Path(name)
        else:
            kept.path.parent.mkdir(parents=True, exist_ok=True)
            kept.note(0)  # first: a file without a note is none of ours
            path, handle = kept.path, os.open(kept.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        with os.fdopen(handle, "r+b") as file:
            _reserve(file, size_bytes)
            _require_maps(file, path)
    except UserError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        return None, str(error)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        where = "a temporary file" if kept is None else str(kept.path)
        return None, (
            f"no room for the features of the frozen backbone on {platform.node()}: they take "
            f"{size_bytes / 2**30:.2f} GiB in {where} ({error}); name another folder in "
            f"{'TMPDIR' if kept is None else '--features-file'}"
        )
    return path, None


def _reserve(file: BinaryIO, size_bytes: int) -> None:
    """Take the room of a new file now: written through a map, a full disk would end the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    block = bytes(1 << 20)
    for start in range(0, size_bytes, len(block)):
        file.write(block[: size_bytes - start])
    file.flush()


def _require_maps(file: BinaryIO, path: Path) -> None:
    """UserError where the file cannot be mapped: the ranks of a machine share it, so that memory is no way out."""
    try:
        mmap.mmap(file.fileno(), 0).close()
    except OSError as error:
        if not refuses_maps(error):
            raise
        raise UserError(
            f"the file system of {path.parent} on {platform.node()} refuses memory maps, which the features of the "
            "frozen backbone need: name a folder on a local disk in TMPDIR, or a file there with --features-file"
        ) from error
