"""What every case of the benchmark shares: the photos, a store of them, how often to repeat, where the peers are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.measure import Measured, Quiet, Side, side, take_turns
from benchmarks.stores import make_store
from horovod_asl.errors import UserError
from horovod_asl.system.cores import usable_cores

PEERS = Path(__file__).with_name("peers")


@dataclass
class Bench:
    """A benchmark under way.

    Attributes:
        photos: the folder of class folders that is measured with.
        work: a folder for stores and runs, which goes afterwards.
        rounds: how often each side is run.
        small: sizes that show that everything runs, not how fast.
    """

    photos: Path
    work: Path
    rounds: int = 3
    small: bool = False
    say: Callable[[str], None] = print
    quiet: Quiet = field(default_factory=Quiet)

    def size(self, usual: int, small: int) -> int:
        """`usual`, or `small` where only a look is taken."""
        return small if self.small else usual

    def turns(self, *sides: Side, rounds: int | None = None) -> dict[str, Measured]:
        """`measure.take_turns` with this benchmark's rounds."""
        return take_turns(sides, rounds=rounds or self.rounds, say=self.say, quiet=self.quiet)

    @cached_property
    def store(self) -> Path:
        """A store of the photos at 64 px, prepared when it is first asked for."""
        self.say("preparing a store of the photos")
        path = self.work / "store"
        make_store(self.photos, path, say=self.say)
        return path

    @cached_property
    def run(self) -> Path:
        """A run of small_cnn, trained for a moment: for what reads photos with it."""
        path = self.work / "run"
        words = (
            "--store",
            self.store,
            "--run-folder",
            path,
            *["--epochs", "1", "--samples", "145", "--device", "cpu"],
        )
        self.turns(self.command("train", *words), rounds=1)
        return path

    def ours(self, name: str, label: str, *words: object, ranks: int = 1) -> Side:
        """A side of `benchmarks.sides`; on several ranks under horovodrun."""
        return side(label, *horovodrun(ranks), *sides_command(name, *words))

    def command(self, *words: object, label: str = "ours") -> Side:
        """A command of `horovod-asl` as a side, of which only the wall time is known."""
        return side(label, sys.executable, "-m", "horovod_asl", *words, answers=False)

    def peer(self, script: str, label: str, *words: object, ranks: int = 1) -> Side:
        """A script of benchmarks/peers."""
        return side(label, *horovodrun(ranks), sys.executable, PEERS / script, *words)

    @cached_property
    def class_folders(self) -> Path:
        """The folder that holds the class folders themselves, as ImageFolder wants it."""
        from horovod_asl.labels import CLASSES

        names = set(CLASSES)
        found = [self.photos, *sorted(path for path in self.photos.rglob("*") if path.is_dir())]
        for folder in found:
            if len(names & {path.name for path in folder.iterdir() if path.is_dir()}) > 1:
                return folder
        raise UserError(f"no class folders (A … Z, del, nothing, space) in {self.photos}")


def horovodrun(ranks: int) -> Sequence[str]:
    """The words that start a program on so many ranks of this machine; none for one."""
    if ranks == 1:
        return ()
    beside = Path(sys.executable).with_name("horovodrun")
    return (str(beside), "-np", str(ranks), "-H", f"localhost:{ranks}")


def torchrun(ranks: int) -> Sequence[str]:
    """The same under torch's own launcher."""
    beside = Path(sys.executable).with_name("torchrun")
    return (str(beside), "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(ranks))


def sides_command(*words: object) -> tuple[str, ...]:
    """The command that runs a side of `benchmarks.sides`."""
    return (sys.executable, "-m", "benchmarks.sides", *map(str, words))


def independent(words: Sequence[object], processes: int) -> Side:
    """A side of so many processes that know nothing of each other and share this machine's cores."""
    command = sides_command(*words, *_serial(processes))
    return Side("independent", (command,) * processes)


def in_pace(words: Sequence[object], place: Path) -> Side:
    """A side of two that train alone, but wait for each other at each step's end.

    `words` are store, model, batch and steps; the two meet at `place`.
    """
    command = sides_command("steps-in-pace", place, *words, *_serial(2))
    return Side("in pace", (command,) * 2)


def _serial(processes: int) -> tuple[object, ...]:
    """The flags of one of so many processes that train alone on their share of the cores."""
    return ("--backend", "serial", "--threads-per-rank", max(1, usable_cores() // processes))
