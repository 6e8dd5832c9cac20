"""How threads of OpenMP should wait: spin, or sleep. Alone, and beside a process that takes one core.

    python benchmarks/idle_threads.py --rounds 3

Steps of small_cnn on drawn photos of 64 px, and passes of the network of the model that ships, each for some seconds
in a process of its own; the ways take turns. Prints medians of photos/s, and the load that other work made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

WAYS: dict[str, dict[str, str]] = {
    "ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    "none set": {},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1, help="that many at once, as ranks would be")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--measure", action="store_true", help="do it here, with the environment as it is")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.threads, arguments.seconds)
        return
    found: dict[tuple[str, bool], list[list[float]]] = {}
    for number in range(arguments.rounds):
        for is_busy in (False, True):
            for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                with busy(is_busy):
                    figures = in_processes(way, arguments)
                found.setdefault((way, is_busy), []).append(figures)
                about = f"{'busy' if is_busy else 'alone'}, load {os.getloadavg()[0]:.1f}"
                print(f"{way}, {about}: {', '.join(f'{rate:.0f}' for rate in figures)}", flush=True)
    print("| | steps, alone | busy | passes, alone | busy |\n|---|---:|---:|---:|---:|")
    for way in WAYS:
        alone, beside = ([median(rates) for rates in zip(*found[way, b], strict=True)] for b in (False, True))
        print(f"| {way} | {alone[0]:.0f} | {beside[0]:.0f} | {alone[1]:.0f} | {beside[1]:.0f} |", flush=True)


@contextmanager
def busy(is_busy: bool) -> Iterator[None]:
    """Within, another process computes on one core."""
    if not is_busy:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def in_processes(way: str, arguments: argparse.Namespace) -> list[float]:
    """Photos/s of the steps and of the passes, of all processes together."""
    words = [sys.executable, __file__, "--measure", "--threads", str(arguments.threads)]
    words += ["--seconds", str(arguments.seconds)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    running = [
        subprocess.Popen(words, env=kept | WAYS[way], stdout=subprocess.PIPE, text=True)
        for _ in range(arguments.processes)
    ]
    rates = [json.loads(process.communicate()[0]) for process in running]
    return [sum(one) for one in zip(*rates, strict=True)]


def measure(threads: int, seconds: float) -> None:
    import torch

    from horovod_asl.data.transforms import to_input
    from horovod_asl.inference import Predictor
    from horovod_asl.models import build_model
    from horovod_asl.onnx_export import drawn_inputs

    torch.set_num_threads(threads)
    model = build_model("small_cnn", num_classes=29)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    photos, labels = torch.rand(BATCH, 3, 64, 64), torch.arange(BATCH) % 29

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(photos), labels).backward()
        optimizer.step()

    predictor = Predictor.from_run(Path("default"))
    inputs = tuple(map(torch.from_numpy, drawn_inputs(predictor.reader, BATCH).values()))

    @torch.no_grad()
    def network() -> None:

        predictor.model(to_input(inputs, smallest_px=0))

    print(json.dumps([rate(step, seconds), rate(network, seconds)]))


def rate(work: Callable[[], None], seconds: float) -> float:
    """Photos/s of `work` on one batch after the other."""
    work()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        work()
        count += 1
    return count * BATCH / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
