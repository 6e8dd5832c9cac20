"""How threads of OpenMP that wait should do so: spin, or sleep. Alone, and beside a process that takes one core.

    python benchmarks/idle_threads.py STORE PHOTOS --rounds 3

Each way trains small_cnn on STORE and scores PHOTOS (class folders) with the model that ships; the ways take turns.
Prints medians: photos/s of the steps, seconds of `evaluate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

WAYS: dict[str, dict[str, str]] = {
    "ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    # What it does where nothing is set.
    "libgomp's own": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300000"},
    "10,000 spins": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=1, help="of the training, each with --threads")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for number in range(arguments.rounds):
        for is_busy in (False, True):
            for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                with busy(is_busy):
                    figures = trained(way, arguments), scored(way, arguments)
                found.setdefault((way, is_busy), []).append(figures)
                about = f"{'busy' if is_busy else 'alone'}, load {os.getloadavg()[0]:.1f}"
                print(f"{way}, {about}: {figures}", flush=True)
    print("| | photos/s, alone | busy | evaluate, s, alone | busy |\n|---|---:|---:|---:|---:|")
    for way in WAYS:
        (steps, seconds), (busy_steps, busy_seconds) = (
            tuple(map(median, zip(*found[way, is_busy], strict=True))) for is_busy in (False, True)
        )
        print(f"| {way} | {steps:.0f} | {busy_steps:.0f} | {seconds:.1f} | {busy_seconds:.1f} |")


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


def trained(way: str, arguments: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["train", "--store", str(arguments.store), "--run-folder", str(run), "--epochs", "1"]
        words += ["--model", "small_cnn", "--threads-per-rank", str(arguments.threads), "--device", "cpu"]
        ranks = ["horovodrun", "-np", str(arguments.ranks)] if arguments.ranks > 1 else []
        run_program([*ranks, sys.executable, "-m", "horovod_asl", *words], way)
        seconds = json.loads((run / "result.json").read_text())["train_seconds"]
        row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        return float(row["photos"] / seconds)


def scored(way: str, arguments: argparse.Namespace) -> float:
    started = time.perf_counter()
    run_program([sys.executable, "-m", "horovod_asl", "evaluate", "default", str(arguments.photos)], way)
    return time.perf_counter() - started


def run_program(words: list[str], way: str) -> None:
    subprocess.run(words, env=os.environ | WAYS[way], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
