"""Real class folders, made with Pillow in a moment; and where the real photographs lie, if they do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.labels import CLASSES

FIRST_FRAMES = (1, 1001, 2001, 2501)
"""The first frame of each of the ASL Alphabet's four recordings."""


def draw_photo(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A picture unlike any other seed's: soft blobs of random colours."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)


def write_frames(
    root: Path,
    *,
    classes: Sequence[str] = CLASSES,
    recordings: int = 4,
    per_recording: int = 2,
    seed: int = 0,
) -> Path:
    """Class folders with the ASL Alphabet's names: `root/A/A1.jpg`, `A2.jpg`, `A1001.jpg`, …"""
    number = seed * 1_000_000
    for name in classes:
        (root / name).mkdir(parents=True)
        for first in FIRST_FRAMES[:recordings]:
            for frame in range(first, first + per_recording):
                draw_photo(number).save(root / name / f"{name}{frame}.jpg", quality=90)
                number += 1
    return root


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 classes × 4 recordings × 2 frames, 48 px JPEG. Not to be changed: copy it, or write your own."""
    return write_frames(tmp_path_factory.mktemp("photos") / "frames")


@pytest.fixture
def new_frames(tmp_path: Path) -> Callable[..., Path]:
    """`new_frames("name", classes=…, recordings=…, per_recording=…, seed=…)` writes a folder of one's own."""

    def write(name: str, **options: object) -> Path:
        return write_frames(tmp_path / name, **options)  # type: ignore[arg-type]

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real photographs: $HOROVOD_ASL_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HOROVOD_ASL_DATA", beside))
    if not (folder / "asl_alphabet_train").is_dir():
        pytest.skip(
            f"no real photographs in {folder}: set HOROVOD_ASL_DATA to a folder with asl_alphabet_train"
        )
    return folder
