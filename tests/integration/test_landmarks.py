"""From photos to a score by the hand's landmarks: prepare --hands, one rank and two, evaluate, predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.data.store import Store
from horovod_asl.data.synthetic import SampleSpec, render_spec
from horovod_asl.runfolder import RunFolder
from tests.launching import BIN, launch, launcher_words, ok

ASL = BIN / "horovod-asl"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "hands"
    words = ["prepare", "synthetic", path, "--synthetic-photos", "2", "--hands"]
    said = ok(launch([ASL, *words]))
    assert " of 232 photos" in said
    return path


def train(store: Path, folder: Path, *launcher: str, batch: int) -> RunFolder:
    words = ["train", "--store", store, "--run-folder", folder, "--model", "landmark_mlp", "--epochs", "4"]
    words += ["--batch-size-per-replica", batch, "--learning-rate-scaling", "none", "--warmup-epochs", "0"]
    program = [ASL, *words] if not launcher else [*launcher, ASL, *words]
    ok(launch(program))
    return RunFolder(folder)


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(store, tmp_path_factory.mktemp("runs") / "one", batch=16)


@pytest.mark.timeout(200)
def test_two_ranks_train_to_the_weights_of_one(store: Path, run: RunFolder, tmp_path: Path) -> None:
    two = train(store, tmp_path / "two", *launcher_words("mpirun", 2), batch=8)
    (_, one), (_, other) = run.best_weights(), two.best_weights()
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_it_reads_drawn_hands_that_it_has_not_seen(run: RunFolder) -> None:
    result = json.loads((run.path / "result.json").read_text())
    assert result["scores"]["test"]["top1"] > 0.5  # 29 classes; chance is 3 %


@pytest.mark.timeout(200)
def test_photos_are_read_from_a_folder_as_from_a_store(run: RunFolder, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for label in ("V", "Y", "nothing"):
        (photos / label).mkdir(parents=True)
        for index in range(3):
            pixels = render_spec(SampleSpec(0, label, 3, index), 200)
            Image.fromarray(pixels).save(photos / label / f"{label}_{index}.png")
    scores = tmp_path / "scores.json"
    ok(launch([ASL, "evaluate", run.path, photos, "--json", scores]))
    evaluated = json.loads(scores.read_text())
    assert evaluated["n"] == 9
    lines = ok(launch([ASL, "predict", run.path, photos, "--json"])).splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    right = sum(answer["class"] == Path(answer["photo"]).parent.name for answer in answers)
    assert (len(answers), right) == (9, evaluated["correct"])
    nothing = [answer["class"] for answer in answers if "/nothing/" in answer["photo"]]
    assert nothing == ["nothing"] * 3

    # The same photos through a store.
    own = tmp_path / "store"
    ok(launch([ASL, "prepare", photos, own, "--hands", "--allow-missing", "--group-by", "source"]))
    ok(launch([ASL, "evaluate", run.path, own, "--split", "all", "--json", scores]))
    assert json.loads(scores.read_text())["correct"] == right


def test_a_store_without_hands_is_one_line(small_store: Path, run: RunFolder, tmp_path: Path) -> None:
    finished = launch(
        [ASL, "train", "--store", small_store, "--model", "landmark_mlp", "--run-folder", tmp_path / "run"]
    )
    assert finished.returncode != 0
    assert "holds no hands: run its prepare again with --hands" in finished.output
    assert "Traceback" not in finished.output
    assert Store.open(small_store).hand_settings is None
