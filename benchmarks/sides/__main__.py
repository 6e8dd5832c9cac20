"""Our sides of the comparisons: `python -m benchmarks.sides NAME …` works and prints what it took.

Each goes through what a user's command goes through (the store, the trainer, the predictor, a backend), and prints
one JSON object as its last line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from benchmarks.measure import Answer
from benchmarks.sides.growth import grow, open_store, repeat
from benchmarks.sides.memory import memory
from benchmarks.sides.preparing import prepare
from benchmarks.sides.reading import reading
from benchmarks.sides.reference_job import describe_job, reference_job
from benchmarks.sides.start import first_step
from benchmarks.sides.steps import steps, steps_in_pace
from horovod_asl.distributed.launcher import detect

SIDES: dict[str, Callable[..., Answer]] = {
    "reading": reading,
    "steps": steps,
    "steps-in-pace": steps_in_pace,
    "prepare": prepare,
    "describe-job": describe_job,
    "reference-job": reference_job,
    "memory": memory,
    "first-step": first_step,
    "repeat": repeat,
    "grow": grow,
    "open-store": open_store,
}


def main(argv: list[str]) -> None:
    """Run the side that the first word names with the others, and print its answer, on rank 0 alone."""
    answer = SIDES[argv[0]](*argv[1:])
    if detect().rank == 0:
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
