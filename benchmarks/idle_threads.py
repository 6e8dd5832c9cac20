"""How threads of OpenMP should wait: spin, or sleep. Alone, and beside a process that takes one core.

    python benchmarks/idle_threads.py --rounds 3

Steps of small_cnn on 32 drawn photos of 64 px, for some seconds in a process of its own; the ways take turns. Prints
photos/s, the load of the machine, and medians. OMP_WAIT_POLICY=ACTIVE is left out: beside others a step takes long.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

WAYS: dict[str, dict[str, str]] = {
    "none set": {},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BATCH = 32


def main() -> None:
    """Measure each way, alone and beside a busy process, and print the medians."""
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
    found: dict[tuple[str, bool], list[float]] = {}
    for number in range(arguments.rounds):
        for is_busy in (False, True):
            for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                with busy(is_busy):
                    rate = in_processes(way, arguments)
                found.setdefault((way, is_busy), []).append(rate)
                beside = "busy" if is_busy else "alone"
                print(f"{way}, {beside}, load {os.getloadavg()[0]:.1f}: {rate:.0f} photos/s", flush=True)
    print("| | alone | busy |\n|---|---:|---:|")
    for way in WAYS:
        print(f"| {way} | {median(found[way, False]):.0f} | {median(found[way, True]):.0f} |")


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


def in_processes(way: str, arguments: argparse.Namespace) -> float:
    """Photos/s of all processes together."""
    words = [sys.executable, __file__, "--measure", "--threads", str(arguments.threads)]
    words += ["--seconds", str(arguments.seconds)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    running = [
        subprocess.Popen(words, env=kept | WAYS[way], stdout=subprocess.PIPE, text=True)
        for _ in range(arguments.processes)
    ]
    return sum(float(process.communicate()[0]) for process in running)


def measure(threads: int, seconds: float) -> None:
    """Print this process's photos/s over so many seconds."""
    import torch

    from horovod_asl.models.registry import build_model

    torch.set_num_threads(threads)
    model = build_model("small_cnn", num_classes=29)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    photos, labels = torch.rand(BATCH, 3, 64, 64), torch.arange(BATCH) % 29
    count, started = -1, time.perf_counter()  # the first step is not counted
    while count < 1 or time.perf_counter() - started < seconds:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(photos), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        count += 1
        if count == 0:
            started = time.perf_counter()
    print(count * BATCH / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
