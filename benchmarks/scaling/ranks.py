"""`--scaling`: step times of 1 … N ranks under each backend, the ring fitted to them, and predictions."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, horovodrun, independent, sides_command, torchrun
from benchmarks.measure import Side, side
from benchmarks.scaling.ring import Observation, Ring, fit, held_back_errors
from horovod_asl.system.cores import usable_cores

PREDICTED_RANKS = (8, 64, 512)
# Sergeev and Del Balso 2018 (arXiv:1802.05799): 512 Pascal GPUs, 25 Gbit/s Ethernet with RDMA.
PUBLISHED = ((512, 0.90, "Inception V3, ResNet-101"), (512, 0.68, "VGG-16"))
BATCH = 32


def measure(bench: Bench, *, backends: Sequence[str], ranks: Sequence[int]) -> dict[str, list[Observation]]:
    """Observations of each backend over models and ranks, independent processes beside them in the same turns."""
    observed: dict[str, list[Observation]] = {backend: [] for backend in backends}
    for model in ("small_cnn",) if bench.small else ("small_cnn", "resnet18"):
        size = _gradient_bytes(model)
        for count in ranks:
            words = ("steps", str(bench.store), model, str(BATCH), str(bench.size(10, 2)))
            # What processes take from each other, they take within a node.
            sides = [
                independent(words, -(-count // _nodes())),
                *(_side(backend, words, count) for backend in backends),
            ]
            measured = bench.turns(*sides)
            alone = measured["independent"].median("seconds")
            for backend in backends:
                step = measured[backend].median("seconds")
                observed[backend].append(Observation(model, count, size, alone, step))
    return observed


def ranks_to_measure() -> tuple[int, ...]:
    """1, 2, 4 … up to twice the cores, or to the tasks of a SLURM allocation."""
    most = int(os.environ.get("SLURM_NTASKS", 2 * usable_cores()))
    powers = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return tuple(sorted({*powers, most}))


def predictions(
    observations: Sequence[Observation], network: Ring, ranks: Sequence[int] = PREDICTED_RANKS
) -> list[dict[str, Any]]:
    """Efficiency of each model at many ranks, one per machine of this kind, over a network of given figures."""
    rows = []
    for model in dict.fromkeys(one.model for one in observations):
        first = next(one for one in observations if one.model == model)
        for count in ranks:
            share = network.efficiency(count, first.gradient_bytes, first.compute_seconds)
            rows.append({"model": model, "ranks": count, "efficiency": share})
    return rows


def summary(observed: dict[str, list[Observation]], network: Ring) -> dict[str, Any]:
    """All that the table, the JSON and the plot show."""
    backends = {}
    for name, observations in observed.items():
        fitted = _with_cores_of_their_own(observations)
        ring, errors = fit(fitted), held_back_errors(fitted)
        backends[name] = {
            "observations": [vars(one) | {"efficiency": one.efficiency} for one in observations],
            "latency_us": 1e6 * ring.latency_seconds,
            "bandwidth_gb_per_second": _finite(ring.bandwidth_bytes_per_second / 1e9),
            "held_back_errors": errors,
        }
    first = next(iter(observed.values()))
    given = {
        "latency_us": 1e6 * network.latency_seconds,
        "gbit_per_second": 8 * network.bandwidth_bytes_per_second / 1e9,
    }
    return {
        "backends": backends,
        "network": given,
        "predictions": predictions(first, network),
        "published": PUBLISHED,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The summary as the terminal shows it."""
    shown = [f"{'backend':<10} {'model':<10} {'ranks':>5} {'alone s':>8} {'step s':>8} {'efficiency':>10}"]
    for name, about in found["backends"].items():
        for row in about["observations"]:
            shown.append(
                f"{name:<10} {row['model']:<10} {row['ranks']:>5} {row['compute_seconds']:>8.3f} "
                f"{row['step_seconds']:>8.3f} {row['efficiency']:>10.1%}"
            )
    for name, about in found["backends"].items():
        errors = about["held_back_errors"]
        worst = f"{max(map(abs, errors)):.1%}" if errors else "not known (one point)"
        rate = about["bandwidth_gb_per_second"]
        bandwidth = "more bandwidth than shows" if rate is None else f"bandwidth {rate:.2f} GB/s"
        shown.append(
            f"{name}: fitted latency {about['latency_us']:.0f} µs, {bandwidth}; "
            f"points held back were predicted to within {worst}"
        )
    network = found["network"]
    shown.append(
        f"predicted over {network['gbit_per_second']:g} Gbit/s and {network['latency_us']:g} µs, one such rank per "
        "machine, nothing hidden behind the backward pass:"
    )
    for row in found["predictions"]:
        shown.append(f"  {row['model']:<10} {row['ranks']:>4} ranks {row['efficiency']:>7.1%}")
    for ranks, share, models in PUBLISHED:
        shown.append(f"  published for Horovod (arXiv:1802.05799): {ranks} GPUs, {models}: {share:.0%}")
    return shown


def _with_cores_of_their_own(observations: Sequence[Observation]) -> list[Observation]:
    """Without ranks that share cores: they wait for computing, which no network explains. All if none are left."""
    own = [one for one in observations if one.ranks <= usable_cores() * _nodes()]
    return own if any(one.ranks > 1 for one in own) else list(observations)


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _gradient_bytes(model: str) -> float:
    from horovod_asl.labels import NUM_CLASSES
    from horovod_asl.models.registry import build_model

    return 4.0 * sum(
        parameter.numel() for parameter in build_model(model, num_classes=NUM_CLASSES).parameters()
    )


def _nodes() -> int:
    return int(os.environ.get("SLURM_NNODES", 1))


def _side(backend: str, words: Sequence[str], ranks: int) -> Side:
    if ranks == 1:
        return side(backend, *sides_command(*words, "--backend", "serial"))
    in_slurm = "SLURM_JOB_ID" in os.environ
    if backend == "ddp":
        command = sides_command(*words, "--backend", "ddp")
        # torchrun brings its own Python.
        started = ("srun", "-n", ranks, *command) if in_slurm else (*torchrun(ranks), *command[1:])
        return side(backend, *started)
    mpirun = (shutil.which("mpirun") or "mpirun", "--bind-to", "none", "--map-by", "node", "-np", ranks)
    return side(backend, *(mpirun if in_slurm else horovodrun(ranks)), *sides_command(*words))
