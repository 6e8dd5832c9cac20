"""Measure this machine: our sides against their peers, in turns, as a table, JSON and a plot.

    python -m benchmarks ~/asl_alphabet_train --out results
    python -m benchmarks ~/asl_alphabet_train --only P1 P4
    python -m benchmarks --scaling --ranks 1 2 4              # backends over ranks, fitted and predicted
    python -m benchmarks --small                              # does everything run?

It runs in a checkout; from another folder, `python path/to/benchmarks` with the same words.
PHOTOS is a folder of class folders with JPEGs; without one, photos are drawn and written as JPEGs first. Every side
of every ratio is a process of its own; sides take turns, and the figures are medians over rounds. Where other
processes use the cores, nothing is reported. docs/performance.md says what each figure means.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from horovod_asl.__main__ import run
from horovod_asl.command_line.cli import parse
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_LONGEST_WORK_FOLDER = 70  # the sides' sockets lie in it, and their paths may have about 100 characters
NAMES = tuple(f"P{number}" for number in range(1, 12))


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of `python -m benchmarks`."""

    photos: Positional[Annotated[Path | None, arg(metavar="[PHOTOS]")]] = None
    """A folder of class folders of JPEGs; none: photos are drawn."""
    only: tuple[str, ...] = ()
    """Figures to measure: P1 to P11; none: all."""
    rounds: int = 3
    """How often each side is run; figures are medians."""
    out: Path | None = None
    """The folder for benchmark.json and benchmark.png; none: a table alone."""
    small: bool = False
    """Small sizes, one round: shows that everything runs here, not how fast."""
    scaling: bool = False
    """Measure ranks under each backend instead, fit the ring's cost, and predict many ranks."""
    ranks: tuple[int, ...] = ()
    """With --scaling: the numbers of ranks; none: 1, 2, … up to twice the cores."""
    backends: tuple[str, ...] = ("horovod", "ddp")
    """With --scaling: the backends."""
    network_gbit_per_second: float = 25.0
    """With --scaling: the network between the machines that are predicted for."""
    network_latency_us: float = 20.0
    """With --scaling: its latency from rank to rank, in microseconds."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in NAMES]
        if unknown:
            raise UserError(f"--only {unknown[0]}: there are {', '.join(NAMES)}")
        if any(count < 1 for count in self.ranks) or (self.ranks and max(self.ranks) < 2):
            raise UserError(f"--ranks {' '.join(map(str, self.ranks))}: a fit needs a number above 1")
        other = [name for name in self.backends if name not in ("horovod", "ddp")]
        if other:
            raise UserError(f"--backends {other[0]}: there are horovod and ddp")
        if self.rounds < 1:
            raise UserError(f"--rounds must be at least 1, not {self.rounds}")


def main(argv: Sequence[str]) -> int:
    """Measure, and show; 0 whatever the figures are."""
    config = parse(BenchmarkConfig, argv, prog="python -m benchmarks", description=__doc__)
    if not sys.platform.startswith("linux"):
        raise UserError(f"the benchmark reads Linux's counters of time and memory: {sys.platform} has others")
    if config.out is not None:
        try:
            config.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out {config.out} cannot be a folder ({error.strerror}): name another"
            ) from error
    if config.photos is not None and not config.photos.is_dir():
        raise UserError(f"no folder of photos at {config.photos}")
    with tempfile.TemporaryDirectory(prefix="horovod_asl-benchmark-") as work:
        if len(work) > _LONGEST_WORK_FOLDER:
            raise UserError("the path of TMPDIR is too long for sockets: name a shorter one, such as /tmp")
        bench = _bench(config, Path(work))
        bench.quiet.require()
        _measure_scaling(config, bench) if config.scaling else _measure(config, bench)
    return 0


def _bench(config: BenchmarkConfig, work: Path) -> Bench:
    from benchmarks.bench import Bench
    from benchmarks.measure import Quiet
    from benchmarks.photos import draw_photos

    # Also a busy machine shows that everything runs.
    quiet = Quiet(busy_share=math.inf) if config.small else Quiet()
    photos = config.photos or draw_photos(work / "photos", count=290 if config.small else 10_005, say=_say)
    rounds = 1 if config.small else config.rounds
    return Bench(photos.resolve(), work, rounds=rounds, small=config.small, say=_say, quiet=quiet)


def _measure(config: BenchmarkConfig, bench: Bench) -> None:
    from benchmarks.cases import CASES
    from benchmarks.figures import Figure, against_goals, table, write_json

    figures: list[Figure] = []
    for name in config.only or NAMES:
        _say(f"{name}: {(CASES[name].__doc__ or '').splitlines()[0].partition(': ')[2]}")
        figures += CASES[name](bench)
        if config.out is not None:  # after each: an hour's figures are not lost with the last one
            write_json(config.out / "benchmark.json", figures, _about(config, bench))
    print(f"\n{_machine_line()}\n{table(figures)}")
    if config.out is not None:
        from benchmarks.plots import plot_figures

        plot_figures(against_goals(figures), _machine_line(), config.out / "benchmark.png")
        print(f"\n{config.out / 'benchmark.json'}, {config.out / 'benchmark.png'}")


def _measure_scaling(config: BenchmarkConfig, bench: Bench) -> None:
    from benchmarks.scaling import ranks as scaling
    from benchmarks.scaling.ring import Ring

    network = Ring(config.network_latency_us / 1e6, config.network_gbit_per_second * 1e9 / 8)
    ranks = config.ranks or scaling.ranks_to_measure()
    found = scaling.summary(scaling.measure(bench, backends=config.backends, ranks=ranks), network)
    print("\n".join(["", _machine_line(), *scaling.lines(found)]))
    if config.out is not None:
        from benchmarks.plots import plot_scaling

        text = json.dumps({"about": _about(config, bench)} | found, indent=1, ensure_ascii=False)
        (config.out / "scaling.json").write_text(text + "\n", encoding="utf-8")
        plot_scaling(found, _machine_line(), config.out / "scaling.png")


def _about(config: BenchmarkConfig, bench: Bench) -> dict[str, Any]:
    from horovod_asl.reports import machine

    probed = machine.probe()
    return {
        "versions": machine.versions(probed["torch"], probed["torchvision"]),
        "devices": machine.devices(probed["torch"]),
        "mpi": machine.mpi(),
        "photos": "drawn" if config.photos is None else str(config.photos),
        "rounds": bench.rounds,
        "small": config.small,
    }


def _machine_line() -> str:
    from horovod_asl.reports import machine

    devices = machine.devices({})
    return f"{devices['cpu']}, {devices['cores']['usable']} cores, {devices['memory_gib']:g} GiB"


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


if __name__ == "__main__":
    if not __package__:  # `python path/to/benchmarks`
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    run(lambda: main(sys.argv[1:]))
