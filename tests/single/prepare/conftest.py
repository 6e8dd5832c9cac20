"""A store that the tests of this folder share."""

import shutil
from pathlib import Path

import pytest

from tests.preparing import prepare_with


@pytest.fixture(scope="module")
def prepared(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the session's frames. Not to be changed: copy it."""
    path = tmp_path_factory.mktemp("stores") / "prepared"
    prepare_with([frames], path, image_size=32)
    return path


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "copied")
