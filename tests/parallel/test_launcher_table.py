"""The table of launchers in docs/launching.md: each row that needs one machine works as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.launching import ROOT, launch, ok

BACKENDS = {"serial": "serial", "DistributedDataParallel": "ddp", "Horovod": "horovod"}


def rows() -> dict[str, str]:
    """The command of each row that trains, and the first word of what it says of the backend; the first of equals."""
    table = (ROOT / "docs" / "launching.md").read_text().partition("## The launchers")[2].partition("\n\nN ranks")[0]
    found = re.findall(r"^\| [^|]+ \| `([^`]+)`[^|]*\| (\w+)", table, flags=re.MULTILINE)
    return {command: word for command, word in reversed(found) if re.search(r"(train\.py|mpirun\.sh)$", command)}


@pytest.mark.long
@pytest.mark.parametrize(("command", "word"), [row for row in rows().items() if not row[0].startswith("srun")])
def test_a_row_works_as_it_is_written(command: str, word: str, small_store: Path, tmp_path: Path) -> None:
    """Also as root, and with more ranks than cores."""
    words = f"{command} --store {small_store} --run-folder {tmp_path / 'run'} --epochs 1 --batch-size-per-replica 4"
    as_a_user_s = ["env", "--unset=OMPI_ALLOW_RUN_AS_ROOT", "--unset=OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"]
    ok(launch([*as_a_user_s, "bash", "-c", words], timeout=150))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    ranks = re.search(r"(?:-np|-np |NP=|--nproc-per-node )\s*(\d+)", command)
    assert settings["world_size"] == (int(ranks[1]) if ranks else 1)
    assert settings["backend"] == BACKENDS[word]


def test_the_rows_are_found() -> None:
    assert {word.split()[0] for word in rows()} == {"python", "torchrun", "horovodrun", "NP=4", "srun"}
