"""`STORE.partial`: where a store is built, and how it takes its name all at once.

- One prepare at a time works on a store: it holds the lock `.STORE.partial.lock` beside the folder (see `locks`),
  which stays where it is while the folder comes and goes.
- Decoded chunks stay in `STORE.partial/chunks` until the store is finished, so an interrupted prepare loses
  little.
- The store is built in `STORE.partial/store` and renamed. An older store is set aside in
  `STORE.partial/previous` first; if the process dies between the two renames the next prepare puts it back.
- Whatever else lies in a store or a work folder is the user's: then nothing is replaced or removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from horovod_asl.errors import UserError
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import MANIFEST, PROBLEMS, foreign_files
from horovod_asl.system.files import full_disk, is_full, sync
from horovod_asl.system.locks import locked


@dataclass(frozen=True)
class WorkFolder:
    """The locked folder in which the store at `store` is built."""

    store: Path
    root: Path

    @property
    def chunks(self) -> Path:
        """Decoded photos of this and of interrupted runs."""
        return self.root / "chunks"

    @property
    def draft(self) -> Path:
        """The new store, while it is written."""
        return self.root / "store"

    @property
    def previous(self) -> Path:
        """The store that is being replaced, between two renames."""
        return self.root / "previous"

    def clear_draft(self) -> Path:
        """The draft folder, emptied. UserError if it could not take the store's name, before it is filled."""
        refuse_to_replace(self.store)
        shutil.rmtree(self.draft, ignore_errors=True)
        self.draft.mkdir()
        return self.draft

    def commit(self) -> None:
        """The draft becomes the store; what it replaces is deleted afterwards."""
        refuse_to_replace(self.store)
        sync(self.draft)
        if self.store.exists():
            self.store.rename(self.previous)
        self.draft.rename(self.store)
        sync(self.store.parent)

    def recover(self) -> None:
        """After a kill between the renames of `commit`, put the older store back."""
        if self.previous.exists() and not self.store.exists():
            self.previous.rename(self.store)
        shutil.rmtree(self.previous, ignore_errors=True)


@contextmanager
def work_folder(store: Path, *, log: Callable[[str], None]) -> Iterator[WorkFolder]:
    """Lock and enter the work folder of `store`; it is removed at the end unless an error leaves work to
    resume.

    UserError if something that is no store has that name, or the place cannot be written.
    """
    refuse_foreign(store)
    root = store.with_name(store.name + ".partial")
    held = ExitStack()
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_name(f".{root.name}.lock")
        held.enter_context(locked(lock, f"another prepare is at work in {root}", log=log))
        root.mkdir(exist_ok=True)
    except OSError as error:
        held.close()
        raise (
            _out_of_room(root)
            if is_full(error)
            else UserError(f"{root} cannot be written ({error.strerror}): choose another place for the store")
        ) from error
    try:
        _refuse_foreign_work(root)
        folder = WorkFolder(store, root)
        folder.recover()
        folder.chunks.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(root)
    except OSError as error:
        if not is_full(error):
            raise
        raise _out_of_room(root) from error
    finally:
        held.close()


def refuse_current_folder(store: Path) -> None:
    """UserError if `store` is the current folder or above it: a store takes its name by a rename."""
    here = Path.cwd()
    if here.is_relative_to(store.resolve()):
        raise UserError(
            f"{store} is the current folder or above it, and a store replaces the folder of its name: name a new "
            f"folder, such as {store / 'store'}"
        )


def refuse_foreign(store: Path) -> None:
    """UserError if something that is no store stands at `store`; an empty folder is removed."""
    if store.exists() and not Store.exists(store) and (not store.is_dir() or any(store.iterdir())):
        raise UserError(
            f"{store} exists and is no store ({MANIFEST} is missing): choose another name or move it away"
        )
    if store.is_dir() and not any(store.iterdir()):
        try:
            store.rmdir()
        except OSError as error:
            raise UserError(
                f"{store} is empty, but a store cannot take its place ({error.strerror}; a mount point?): name a new "
                f"folder, such as {store / 'store'}"
            ) from error


def refuse_to_replace(store: Path) -> None:
    """UserError if the store at `store` shares its folder with files that are not its own."""
    if store.is_dir() and (others := foreign_files(store)):
        raise UserError(
            f"{store} is to be replaced, but files that are not the store's lie in it: {_listed(others)}; "
            "move them away and run the same prepare again, or choose another name for the store"
        )


def _refuse_foreign_work(root: Path) -> None:
    """The work folder is removed at the end: its name may not be that of a folder of the user's."""
    ours = {"chunks", "store", "previous", PROBLEMS}
    names = {entry.name for entry in root.iterdir()} - ours
    if others := sorted(name for name in names if not name.startswith("known-")):
        raise UserError(
            f"{root} is where the store would be made, but other files lie in it: {_listed(others)}; "
            "move them away or choose another name for the store"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _out_of_room(root: Path) -> UserError:
    return full_disk(
        root,
        "a store needs twice its size while it is made; free some room and run the same prepare again, it goes on "
        "where this one stopped",
    )
