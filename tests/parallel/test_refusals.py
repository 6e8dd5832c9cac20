"""Mistakes end on every rank within seconds, and a rank that fails ends the job with its own error."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.launching import BIN, ROOT, Finished, launch, launcher_words

PYTHON = BIN / "python"
TRAIN = ROOT / "train.py"


def refused(finished: Finished, *parts: str) -> None:
    assert finished.returncode != 0
    for part in parts:
        assert part in finished.output, finished.output[-3000:]
    # torchrun reports failed children with a traceback of its own; ours would name our files.
    assert 'horovod_asl/__main__.py"' not in finished.output, finished.output[-3000:]


def test_a_half_set_environment_is_refused(small_store: Path) -> None:
    finished = launch([PYTHON, TRAIN, "--store", small_store], timeout=60, RANK="0")
    refused(finished, "error: rank 0: a half-set launcher environment: RANK is set and WORLD_SIZE is not")
    assert finished.returncode == 2


@pytest.mark.parametrize("backend", ["serial", "dp", "ddp"])
def test_a_backend_that_does_not_fit_horovodrun_is_refused_on_all_ranks(
    backend: str, small_store: Path
) -> None:
    words = launcher_words("mpi", 2)
    finished = launch([*words, PYTHON, TRAIN, "--store", small_store, "--backend", backend], timeout=90)
    refused(finished, f"--backend {backend}")


def test_horovod_under_torchrun_is_refused(small_store: Path) -> None:
    words = launcher_words("torchrun", 2)
    finished = launch([*words, PYTHON, TRAIN, "--store", small_store, "--backend", "horovod"], timeout=90)
    refused(finished, "--backend horovod does not run under torchrun")


def test_an_mpi_that_horovod_does_not_see_is_refused(small_store: Path) -> None:
    """Two processes that each believe in a world of two, and that no MPI joins: two models would be trained."""
    environment = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    finished = launch([PYTHON, TRAIN, "--store", small_store], timeout=90, **environment)
    refused(finished, "mpirun started 2 processes but horovod sees 1")


def test_a_taken_run_folder_is_refused_under_every_rank(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: 1\n")
    words = launcher_words("mpirun", 2)
    finished = launch([*words, PYTHON, TRAIN, "--store", small_store, "--run-folder", tmp_path], timeout=90)
    refused(finished, "already holds a run")


@pytest.mark.parametrize("launcher", ["mpi", "gloo", "torchrun"])
@pytest.mark.parametrize(
    ("when", "message"), [("early", "no store at /no/such/store"), ("mid-epoch", "the boom of rank 1")]
)
def test_a_failing_rank_ends_the_job_with_its_own_error(
    launcher: str, when: str, message: str, small_store: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("failing_rank.py")
    words = [*launcher_words(launcher, 2), PYTHON, script, when]
    started = time.monotonic()
    finished = launch(
        [*words, "--store", small_store, "--run-folder", tmp_path / "run", "--batch-size-per-replica", "8"],
        timeout=100,
        PYTHONPATH=str(ROOT),
    )
    assert finished.returncode != 0
    assert message in finished.output, finished.output[-3000:]
    assert "rank 1" in finished.output
    assert time.monotonic() - started < 90


@pytest.mark.parametrize("launcher", ["gloo", "torchrun"])
def test_a_rank_out_of_memory_ends_the_job_with_a_line_from_each_rank(
    launcher: str, small_store: Path, tmp_path: Path
) -> None:
    """The error is raised, not met: there is no GPU here to fill. Gloo tells the other rank at once."""
    script = Path(__file__).with_name("failing_rank.py")
    words = [*launcher_words(launcher, 2), PYTHON, script, "memory", "--store", small_store]
    finished = launch([*words, "--run-folder", tmp_path / "run"], timeout=90, PYTHONPATH=str(ROOT))
    refused(finished, "error: rank 1: a GPU of ", " is out of memory: lower --batch-size-per-replica")
    assert "its traceback" not in finished.output, finished.output[-3000:]


def test_a_loss_that_is_not_finite_stops_all_ranks_before_the_step(small_store: Path, tmp_path: Path) -> None:
    words = [
        *launcher_words("mpirun", 2),
        PYTHON,
        TRAIN,
        "--store",
        small_store,
        "--run-folder",
        tmp_path / "run",
    ]
    finished = launch(
        [*words, "--learning-rate", "1e30", "--clip-norm", "None", "--warmup-epochs", "0"], timeout=90
    )
    refused(finished, "is not finite at step", "lower --learning-rate")
