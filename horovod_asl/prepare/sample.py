"""The built-in synthetic sample as a store: prepared on first use, once per machine, before any rank talks."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from horovod_asl.command_line.cli import expand_home
from horovod_asl.errors import UserError
from horovod_asl.prepare.options import PhotoSelection, PrepareOptions, Reporter
from horovod_asl.prepare.pipeline import prepare_store
from horovod_asl.sources.sources import SyntheticOptions
from horovod_asl.store.store import Store

_VARIABLE = "HOROVOD_ASL_SAMPLE"
PATIENCE_SECONDS = 600.0
# Eight rooms and skins: six to train on, one to validate, one to test; 3,712 photos.
SAMPLE = SyntheticOptions(recordings=8, photos_per_class_per_recording=16, seed=0)


def sample_path() -> Path:
    """`$HOROVOD_ASL_SAMPLE`, or a folder in the user's cache, so that all checkouts share it."""
    given = os.environ.get(_VARIABLE)
    if given:
        return Path(expand_home(given))
    try:
        cache = expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except UserError as error:
        raise UserError(f"no place for the built-in sample ({error}): name one in {_VARIABLE}") from error
    return Path(cache) / "horovod_asl" / "synthetic-64px-v1"


def ensure_sample(local_rank: int) -> Path:
    """The path of the sample's store. Local rank 0 makes it if need be; the machine's other ranks wait for it.

    Called before the backend starts: MPI and Gloo do not survive forks well, and their timeouts do not know
    that somebody is drawing hands. If the maker fails, its launcher ends the ranks that wait.
    """
    path = sample_path()
    if local_rank == 0:
        if not Store.exists(path):
            print(
                "no --store given: drawing the built-in synthetic sample (once, under a minute) …", flush=True
            )
            _make(path)
        return path
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not Store.exists(path):
        if time.monotonic() > deadline:
            raise UserError(f"waited {PATIENCE_SECONDS:.0f} s for local rank 0 to make the sample in {path}")
        time.sleep(0.1)
    return path


def _make(path: Path) -> None:
    try:
        selection = PhotoSelection(("synthetic",), synthetic=SAMPLE)
        prepare_store(path, PrepareOptions(selection), reporter=Reporter(log=partial(print, flush=True)))
    except UserError as error:
        raise UserError(f"{error}; {_VARIABLE} names another place for the sample") from error
