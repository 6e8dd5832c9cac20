"""The lines of a run under horovodrun: whole, short, and under `make train` without the rank of rank 0."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launching import BIN, ROOT, launch, launcher_words, ok

TAG = "[1,0]<stdout>:"
LINES = """
from horovod_asl.system import streams
streams.make_usable()
print("two lines\\nat once", flush=True)
"""


def test_no_line_of_horovodrun_is_torn(small_store: Path, tmp_path: Path) -> None:
    """It sets PYTHONUNBUFFERED, with which Python writes the end of a line apart."""
    words = [*launcher_words("mpi", 2), BIN / "python", ROOT / "train.py", "--store", small_store]
    words += ["--epochs", "1", "--run-folder", tmp_path / "run"]
    lines = ok(launch(words, cwd=tmp_path, timeout=280)).splitlines()
    tagged = [line for line in lines if "<stdout>" in line]
    assert len(tagged) >= 10
    assert [line for line in tagged if not line.startswith(TAG) or line.count("<stdout>") > 1] == []
    assert [line for line in tagged if not line.removeprefix(TAG).strip()] == []
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    rate = f"{settings['peak_learning_rate']:.3g}"
    assert tagged[0] == f"{TAG}horovod/mpi, 2 ranks, cpu fp32, batch 64, adamw lr {rate}"
    assert tagged[1].startswith(f"{TAG}train on 116 photos")


def test_a_text_of_several_lines_is_not_torn_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "lines.py").write_text(LINES)
    words = [*launcher_words("mpi", 1), BIN / "python", tmp_path / "lines.py"]
    output = ok(launch(words, timeout=60, PYTHONPATH=str(ROOT)))
    assert output.splitlines() == [f"{TAG}two lines", f"{TAG}at once"]


def test_the_launch_script_removes_the_rank_of_rank_0(small_store: Path, tmp_path: Path) -> None:
    words = ["--store", small_store, "--stop-after-steps", "1", "--run-folder", tmp_path / "run"]
    finished = launch([ROOT / "launch" / "train.sh", *words], NP="2", HOROVODRUN="--gloo", timeout=150)
    assert finished.returncode != 0, "horovodrun ends with an error where a rank leaves with code 3"
    lines = finished.output.splitlines()
    assert lines[0] == "train: horovodrun, 2 process(es) on localhost:2"
    assert lines[1].startswith("horovod/gloo, 2 ranks, cpu ")
    assert [line for line in lines if line.startswith(("[0]", "[1,0]"))] == []
