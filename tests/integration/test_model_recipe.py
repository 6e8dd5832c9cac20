"""`launch/model.sh`, whole: from a few drawn photos of four sources to a bundle, resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.synthetic.render import SampleSpec, render_spec
from tests.conftest import FIRST_FRAMES
from tests.launching import BIN, ROOT, Finished, launch, ok

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
SIGNS = ("V", "Y", "J")
FOLDS = ["asl/3", "homes", "massey", *(f"massey/hand{number}" for number in range(1, 6)), "phone"]


def draw(folder: Path, sign: str, names: list[str], recording: int) -> None:
    (folder / sign).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        photo = render_spec(SampleSpec(recording, sign, recording, index), 160)
        Image.fromarray(photo).save(folder / sign / f"{name}.jpg", quality=95)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    others = folder / "other_signers"
    for sign in SIGNS:
        for take, first in enumerate(FIRST_FRAMES[:3]):
            names = [f"{sign}{frame}" for frame in range(first, first + 3)]
            draw(folder / "asl_alphabet_train", sign, names, take)
        for person in range(1, 6):
            draw(others / "massey", sign, [f"hand{person}_{sign}_{k}" for k in (1, 2)], 2 + person)
        draw(others / "phone", sign, ["a", "b"], 8)
        draw(others / "homes", sign, ["a", "b"], 9)
    return folder


@pytest.fixture(scope="module")
def work(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    ok(make(photos, folder))
    return folder


def make(photos: Path, work: Path, *flags: str) -> Finished:
    words = [
        ROOT / "launch" / "model.sh",
        "--batch-size-per-replica",
        "4",
        "--learning-rate",
        "0.001",
        *flags,
    ]
    return launch(
        words,
        timeout=1200,
        PHOTOS=str(photos),
        WORK=str(work / "model"),
        BUNDLE=str(work / "box"),
        DRAWN="2",
        NP="2",
    )


def test_every_fold_begins_with_its_own_head_and_the_box_with_the_head_of_all(work: Path) -> None:
    rows = json.loads((work / "model" / "crossval" / "crossval.json").read_text())
    assert [row["held_out"] for row in rows] == FOLDS
    for row in rows:
        facts = RunFolder(work / "model" / "crossval" / row["folder"]).facts()
        assert facts["initialized_from"]["run"] == str(work / "model" / "head" / row["folder"])
        assert not {*facts["trained_on"], *facts["initialized_from"]["trained_on"]} & set(row["test"])
        assert {"drawn/r0", "drawn/r1"} <= {*facts["trained_on"]}
        assert not any(one.startswith("drawn") for one in [*row["test"], *row["validated_on"]])
    bundle = RunFolder(work / "box")
    facts = bundle.facts()
    assert facts["initialized_from"]["run"] == "head-all"
    assert len(facts["trained_on"]) == 3 + 5 + 1 + 1 + 2  # the last two are drawn
    assert facts["tuned_blocks"] == 10
    card = (work / "box" / "MODEL_CARD.md").read_text()
    assert all(f"| {name}, left out |" in card for name in FOLDS)


def test_the_box_reads_a_photo(work: Path, photos: Path) -> None:
    photo = next((photos / "asl_alphabet_train" / "V").iterdir())
    said = ok(launch([BIN / "horovod-asl", "predict", work / "box", photo]))
    assert photo.name in said


def test_the_same_command_again_trains_nothing_anew(work: Path, photos: Path) -> None:
    model = work / "model"
    trained = sorted([*model.glob("*/result.json"), *model.glob("*/*/result.json")])
    assert len(trained) == 2 * (len(FOLDS) + 1)
    before = [path.stat().st_mtime_ns for path in trained]
    bundle = (work / "box" / "weights.safetensors").read_bytes()
    ok(make(photos, work))
    assert [path.stat().st_mtime_ns for path in trained] == before
    assert (work / "box" / "weights.safetensors").read_bytes() == bundle


def test_trainings_of_another_recipe_are_not_gone_on_with(work: Path, photos: Path) -> None:
    ended = make(photos, work, "--seed", "1")
    assert ended.returncode == 1
    assert "was begun with another recipe" in ended.output
