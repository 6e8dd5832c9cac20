"""P9: from the launch of two ranks to their first step."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import horovodrun
from benchmarks.measure import Answer


def first_step(store: str) -> Answer:
    """Launch `train` on two ranks; the seconds until the first step is done on both, read from the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [
            "train",
            "--store",
            store,
            "--run-folder",
            run,
            "--epochs",
            1,
            "--stop-after-steps",
            2,
            "--ledger",
        ]
        command = [*horovodrun(2), sys.executable, "-m", "horovod_asl", *map(str, words)]
        started = time.time()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        ledgers = [file.read_text(encoding="utf-8") for file in (run / "ledger").glob("*")]
        lines = [line for text in ledgers for line in text.splitlines()]
    # The line of step 1 is written when step 0 has ended.
    reached = [row["time_s"] for row in map(json.loads, lines) if row["step"] == 1]
    if len(reached) != 2:
        raise RuntimeError(
            f"the run did not come to its second step: {done.stdout[-300:]} {done.stderr[-300:]}"
        )
    return {"reached_seconds": max(reached) - started}
