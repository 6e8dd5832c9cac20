"""The README on real photos: its lines as they stand, to the score on people who are in no training set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from horovod_asl.labels import CLASSES
from tests.launching import BIN, ROOT, launch, ok

STRANGER = "t32"
"""One of the people at webcams, in nobody's training: a light hand, over-exposed."""


def quick_start() -> str:
    """The commands that prepare photos and train on them, then those that use the run."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return first_block(text.partition("With your photos")[2]) + first_block(text.partition("## Use")[2])


def first_block(text: str) -> str:
    block = re.search(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    return block[1]


def spread(files: list[Path], count: int) -> list[Path]:
    return [files[k * len(files) // count] for k in range(count)]


def link(photos: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for photo in photos:
        (folder / photo.name).symlink_to(photo)


def lay_out(folder: Path, real_data: Path, per_class: int) -> None:
    """What the commands name: photos of the public set, a stranger's, and one photo."""
    for name in CLASSES:
        files = sorted((real_data / "asl_alphabet_train" / "asl_alphabet_train" / name).iterdir(), key=number_of)
        link(spread(files, per_class), folder / "path" / "to" / "asl_alphabet_train" / name)
    for letter in sorted((real_data / "webcam" / STRANGER).iterdir()):
        link(spread(sorted(letter.glob("still-*")), 4), folder / "path" / "to" / "photos_of_friends" / letter.name)
    (folder / "photo.jpg").symlink_to(next((real_data / "other_signers" / "phone" / "A").iterdir()))
    (folder / ".venv").symlink_to(BIN.parent)


def number_of(file: Path) -> int:
    return int(re.sub(r"\D", "", file.stem))


@pytest.mark.parametrize(
    "per_class", [6, pytest.param(60, marks=pytest.mark.long)], ids=["6 a class", "60 a class"]
)
@pytest.mark.timeout(1500)
def test_the_quick_start_reads_a_stranger(per_class: int, real_data: Path, tmp_path: Path) -> None:
    if not (real_data / "webcam" / STRANGER).is_dir():
        pytest.skip(f"no photos of strangers at webcams in {real_data}")
    lay_out(tmp_path, real_data, per_class)
    said = ok(launch(["bash", "-eo", "pipefail", "-c", quick_start()], cwd=tmp_path, timeout=1450))
    scores = [float(share) for share in re.findall(r"classified correctly: ([\d.]+)% \(top-1\)", said)]
    assert len(scores) == 2  # of the store's test split, and of the stranger
    assert scores[1] >= 95
    assert "were in the training of the first weights" in said  # of the first: the bundled model has seen that person
    assert re.search(r"photo\.jpg +A (9\d|100)\.", said)
    assert Image.open(tmp_path / "sheet.png").width > 500
