"""Fixtures that tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launching import BIN, launch


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 classes × 4 recordings × 2 photos at 32 px: two recordings train, one validates, one tests."""
    path = tmp_path_factory.mktemp("stores") / "small"
    command = [BIN / "horovod-asl", "prepare", "synthetic", path, "--image-size", "32"]
    command += ["--synthetic-photos", "2", "--synthetic-recordings", "4", "--no-hands"]
    finished = launch(command)
    assert finished.returncode == 0, finished.output
    return path
