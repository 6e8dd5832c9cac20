"""The lines of a run under horovodrun: whole, short, and with all that one process says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.launching import BIN, ROOT, launch, launcher_words, ok

TAG = "[1,0]<stdout>:"


def test_no_line_of_horovodrun_is_torn(small_store: Path, tmp_path: Path) -> None:
    """It sets PYTHONUNBUFFERED, with which Python writes the end of a line apart."""
    words = [*launcher_words("mpi", 2), BIN / "python", ROOT / "train.py", "--store", small_store]
    words += ["--epochs", "1", "--run-folder", tmp_path / "run"]
    lines = ok(launch(words, cwd=tmp_path, timeout=280)).splitlines()
    tagged = [line for line in lines if "<stdout>" in line]
    assert len(tagged) > 25
    assert [line for line in tagged if not line.startswith(TAG) or line.count("<stdout>") > 1] == []
    assert [line for line in tagged if not line.removeprefix(TAG).strip()] == []
    settings = tagged[: [" train on " in line.replace(TAG, " ") for line in tagged].index(True)]
    names = [re.findall(r"[a-z]\w*", line.removeprefix(TAG)[10:])[0] for line in settings]
    assert {"backend", "world_size", "device", "global_batch", "learning_rate", "cycle_ms"} <= {*names}
    assert max(map(len, settings)) <= 80
