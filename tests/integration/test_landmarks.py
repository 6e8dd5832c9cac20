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


@pytest.mark.timeout(200)
def test_ranks_find_the_hands_that_one_process_finds(tmp_path: Path) -> None:
    """3 does not divide 116 photos. The ranks look because nobody told them not to."""
    stores = tmp_path / "one", tmp_path / "three"
    for store, launcher in zip(stores, ([], launcher_words("mpirun", 3)), strict=True):
        words = ["prepare", "synthetic", store, "--synthetic-photos", "1", "--image-size", "48"]
        alone = [] if launcher else ["--workers", "1", "--hands"]
        output = ok(launch([*launcher, ASL, *words, *alone]))
        assert output.count("looking for the hand in 116 photos: about ") == 1
        assert f"with {2 if launcher else 1} worker" in output
    one, three = (Store.open(store, verify=True) for store in stores)
    assert len(one) == 116
    assert one.hands["found"].sum() > 90
    assert three.digest == one.digest  # over every file: hands, crops and photos


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


def crossval(store: Path, out: Path, *launcher: str, batch: int) -> str:
    words = ["crossval", store, "--by", "signer", "--signers", "synthetic", "--only", "synthetic/r0"]
    words += ["--out", out, "--model", "landmark_mlp", "--epochs", "4", "--warmup-epochs", "0"]
    words += ["--batch-size-per-replica", batch, "--learning-rate-scaling", "none"]
    return ok(launch([*launcher, ASL, *words]))


@pytest.mark.timeout(300)
def test_a_cross_validation_on_two_ranks_is_that_of_one(store: Path, tmp_path: Path) -> None:
    outs = tmp_path / "one", tmp_path / "two"
    crossval(store, outs[0], batch=16)
    said = crossval(store, outs[1], *launcher_words("mpirun", 2), batch=8)
    assert "validate on 58 photos: synthetic/r3" in said
    ((one,), (two,)) = (json.loads((out / "crossval.json").read_text()) for out in outs)
    for name in ("test", "trained_on", "validated_on", "photos"):
        assert two[name] == one[name]
    assert one["photos"] == {"train": 116, "validation": 58, "test": 58}
    weights = [RunFolder(out / "synthetic-r0").best_weights()[1] for out in outs]
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4, err_msg=name)
    for name in ("nll", "nll_calibrated", "temperature"):
        assert two["scores"][name] == pytest.approx(one["scores"][name], rel=1e-2)

    # One process scores the two ranks' run to the same counts, and trains nothing.
    (outs[1] / "synthetic-r0" / "fold.json").unlink()
    plan = json.loads((outs[1] / "plan.json").read_text())
    assert plan["replicas"] == 2  # other folds would learn with another batch under another number
    (outs[1] / "plan.json").write_text(
        json.dumps(plan | {"replicas": 1, "train": plan["train"] | {"batch_size_per_replica": 16}})
    )
    assert "epoch" not in crossval(store, outs[1], batch=16)
    (again,) = json.loads((outs[1] / "crossval.json").read_text())
    assert again["scores"]["confusion"] == two["scores"]["confusion"]
    assert again["scores"]["ece_calibrated"] == pytest.approx(two["scores"]["ece_calibrated"], rel=1e-4)


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


@pytest.mark.timeout(280)
def test_pixels_and_landmarks_together_over_two_ranks_from_photos_to_answers(
    store: Path, tmp_path: Path
) -> None:
    run, kept = tmp_path / "both", tmp_path / "features"
    words = ["train", "--store", store, "--run-folder", run, "--input", "both", "--pretrained", "hands"]
    words += ["--train", "head", "--cache-features", kept, "--epochs", "6"]
    words += ["--batch-size-per-replica", "16", "--warmup-epochs", "1"]
    ok(launch([*launcher_words("mpi", 2), ASL, *words], timeout=200))
    result = json.loads((run / "result.json").read_text())
    assert result["scores"]["test"]["top1"] > 0.5

    # What was scored from features is what the whole network says of the same photos, in a store and in a folder.
    scores = tmp_path / "scores.json"
    ok(launch([ASL, "evaluate", run, store, "--json", scores]))
    assert json.loads(scores.read_text())["correct"] == result["scores"]["test"]["correct"]
    photos = tmp_path / "photos" / "V"
    photos.mkdir(parents=True)
    Image.fromarray(render_spec(SampleSpec(0, "V", 3, 0), 200)).save(photos / "V.png")
    lines = ok(launch([ASL, "predict", run, photos / "V.png", "--top", "3", "--json"])).splitlines()
    assert "V" in [answer["class"] for answer in json.loads(lines[-1])["top"]]
