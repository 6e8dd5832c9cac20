"""The path of a user: train on what is at hand, score, read photos, compare backends; real launchers throughout."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from horovod_asl.labels import CLASSES
from horovod_asl.models.registry import build_model
from horovod_asl.runs.checkpoint import weights_digest
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.store.store import Store
from tests.conftest import write_frames
from tests.launching import BIN, ROOT, clean_environment, launch, launcher_words, ok

ASL = BIN / "horovod-asl"


@pytest.fixture(scope="module")
def run(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs on one process."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["--store", small_store, "--run-folder", folder, "--epochs", "3", "--batch-size-per-replica", "8"]
    ok(launch([ASL, "train", *words]))
    return folder


@pytest.fixture(scope="module")
def test_photos(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split of the store as PNG files in class folders."""
    folder = tmp_path_factory.mktemp("photos")
    store = Store.open(small_store)
    rows = store.rows("test")
    for row, pixels in zip(rows, store.gather(rows), strict=True):
        path = folder / CLASSES[store.labels[row]] / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.timeout(400)
def test_the_main_job_with_nothing_at_hand(tmp_path: Path) -> None:
    """`horovodrun -np 2 python train.py`: the sample is drawn once, then two ranks train to a report."""
    words = [*launcher_words("mpi", 2), BIN / "python", ROOT / "train.py", "--epochs", "4"]
    output = ok(launch(words, cwd=tmp_path, timeout=390, HOROVOD_ASL_SAMPLE=str(tmp_path / "sample")))
    assert output.count("drawing the built-in synthetic sample") == 1
    assert "horovod/mpi, 2 ranks, cpu fp32" in output
    assert "horovod-asl prepare path/to/asl_alphabet_train" in output
    (proposed,) = (line for line in output.splitlines() if "next: " in line)
    command = shlex.split(proposed.split("next: ")[1])
    ok(launch([*command], cwd=tmp_path))
    (run,) = (tmp_path / "runs").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert set(result["scores"]) == {"train", "validation", "test"}
    assert result["scores"]["train"]["top1"] > 2 / 29  # after four epochs, clearly more than chance
    for name in (
        "report.html",
        "curves.png",
        "confusion.png",
        "per_class.png",
        "config.yaml",
        "metrics.jsonl",
    ):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").iterdir())
    assert len(list((run / "best").iterdir())) == 3  # --keep-top


def evaluated(words: list[Any], out: Path) -> dict[str, Any]:
    ok(launch([*words, "--json", out]))
    scores: dict[str, Any] = json.loads(out.read_text())
    return scores


@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_scores_are_the_same_on_three_ranks_as_on_one(
    launcher: str, run: Path, small_store: Path, tmp_path: Path
) -> None:
    command, reports = [ASL, "evaluate", run, small_store, "--report"], (tmp_path / "one", tmp_path / "three")
    one = evaluated([*command, reports[0]], tmp_path / "one.json")
    three = evaluated([*launcher_words(launcher, 3), *command, reports[1]], tmp_path / "three.json")
    assert one["n"] == 58
    for name in ("n", "correct", "confusion", "per_class", "classes", "top1", "top3", "macro_f1"):
        assert three[name] == one[name]
    assert three["nll"] == pytest.approx(one["nll"])
    assert three["ece"] == pytest.approx(one["ece"])
    for name in ("right.png", "wrong.png", "confused.png"):  # the same photos, in the same order
        pictures = [np.asarray(Image.open(folder / name).convert("RGB"), np.float32) for folder in reports]
        assert np.abs(pictures[0] - pictures[1]).mean() < 0.5, name


def test_a_folder_scores_as_the_store_and_as_scikit_learn_says(
    run: Path, small_store: Path, test_photos: Path, tmp_path: Path
) -> None:
    store = evaluated([ASL, "evaluate", run, small_store], tmp_path / "store.json")
    folder = evaluated([ASL, "evaluate", run, test_photos], tmp_path / "folder.json")
    assert folder["confusion"] == store["confusion"]
    (test_photos / "A" / "broken.png").write_bytes(b"no picture")
    words = [*launcher_words("mpirun", 3), ASL, "evaluate", run, test_photos]
    ranks = evaluated(words, tmp_path / "ranks.json")  # each decodes a share of its own
    (test_photos / "A" / "broken.png").unlink()
    assert (ranks["confusion"], ranks["left_out"], folder["left_out"]) == (folder["confusion"], 1, 0)
    lines = ok(launch([ASL, "predict", run, test_photos, "--json"])).splitlines()
    answers = [json.loads(line) for line in lines]
    truth = [Path(answer["photo"]).parent.name for answer in answers]
    read = [answer["class"] for answer in answers]
    assert folder["top1"] == accuracy_score(truth, read)
    assert np.array_equal(folder["confusion"], confusion_matrix(truth, read, labels=list(CLASSES)))
    assert folder["macro_f1"] == pytest.approx(f1_score(truth, read, average="macro"))
    assert folder["trained_on"] == ["synthetic/r0", "synthetic/r1"]
    assert folder["seen_in_training"] == []


def test_scoring_what_was_trained_on_says_so(run: Path, small_store: Path, tmp_path: Path) -> None:
    scores = evaluated([ASL, "evaluate", run, small_store, "--split", "train"], tmp_path / "train.json")
    assert scores["seen_in_training"] == scores["trained_on"]
    assert scores["photos_in_training"] == scores["n"] == 116
    every = evaluated([ASL, "evaluate", run, small_store, "--split", "all"], tmp_path / "all.json")
    assert every["seen_in_training"] == scores["trained_on"]
    assert (every["photos_in_training"], every["n"]) == (116, 232)


@pytest.fixture(scope="module")
def frames_run(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one photo per class and recording of a folder, from a store of it."""
    folder = tmp_path_factory.mktemp("frames")
    ok(launch([ASL, "prepare", frames, folder / "store", "--image-size", "32", "--no-hands"]))
    words = ["--store", folder / "store", "--run-folder", folder / "run", "--epochs", "1", "--samples", "58"]
    ok(launch([ASL, "train", *words]))
    return folder / "run"


def test_photos_of_training_are_known_by_their_bytes_and_not_by_their_folder_s_name(
    frames_run: Path, frames: Path, tmp_path: Path
) -> None:
    whole = evaluated([ASL, "evaluate", frames_run, frames], tmp_path / "whole.json")
    assert (whole["photos_in_training"], whole["n"]) == (58, 232)
    assert whole["seen_in_training"] == [str(frames)]
    words = [
        *launcher_words("mpirun", 3),
        ASL,
        "evaluate",
        frames_run,
        shutil.copytree(frames, tmp_path / "x"),
    ]
    assert evaluated(words, tmp_path / "copy.json")["photos_in_training"] == 58
    others = write_frames(tmp_path / "other" / frames.name, per_recording=1, seed=7)
    unseen = evaluated([ASL, "evaluate", frames_run, others], tmp_path / "unseen.json")
    assert (unseen["photos_in_training"], unseen["seen_in_training"]) == (0, [])
    lines = ok(launch([ASL, "evaluate", frames_run, others]))
    assert "0 of 116 photos were in training" in lines
    assert "note" not in lines


def test_the_result_names_the_weights_of_the_last_step_and_the_best(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    folder = RunFolder(run)
    for key, weights in (
        ("weights_digest", folder.final_weights()),
        ("best_weights_digest", folder.best_weights()[1]),
    ):
        model = build_model("small_cnn", num_classes=29)
        model.load_state_dict(dict(weights))
        assert result[key] == weights_digest(dict(model.named_parameters()))
    assert folder.best_weights()[0]["epoch"] == result["epoch"]


def test_predict_takes_files_and_lists_and_names_what_it_cannot_read(
    run: Path, test_photos: Path, tmp_path: Path
) -> None:
    photo = sorted(test_photos.rglob("*.png"))[0]
    (line,) = ok(launch([ASL, "predict", run, photo, "--top", "3"])).splitlines()
    assert line.startswith(str(photo))
    assert line.count("%") == 3
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:200])
    listed = subprocess.run(
        [ASL, "predict", run, "-"],
        input=f"{photo}\n{broken}\n{tmp_path / 'absent.jpg'}\n",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=clean_environment(),
    )
    assert listed.returncode == 1
    assert listed.stdout.startswith(str(photo))
    assert str(broken) in listed.stderr
    assert "absent.jpg" in listed.stderr
    assert "Traceback" not in listed.stderr


def test_a_folder_with_a_split_of_its_own_is_scored_on_one_side(
    run: Path, frames: Path, tmp_path: Path
) -> None:
    for side, frame in (("train", 1), ("test", 2)):
        for name in CLASSES:
            (tmp_path / "set" / side / name).mkdir(parents=True)
            shutil.copy(frames / name / f"{name}{frame}.jpg", tmp_path / "set" / side / name)
    words = [ASL, "evaluate", run, tmp_path / "set"]
    test = evaluated([*words, "--split", "test"], tmp_path / "test.json")
    alone = evaluated([ASL, "evaluate", run, tmp_path / "set" / "test"], tmp_path / "alone.json")
    assert (test["n"], test["nll"]) == (29, pytest.approx(alone["nll"]))
    assert test["scored"] == [f"{tmp_path / 'set'} (test)"]
    whole = ok(launch([*words, "--json", tmp_path / "whole.json"]))
    assert "is scored, train/, test/ alike; --split test scores one side" in whole
    assert json.loads((tmp_path / "whole.json").read_text())["n"] == 58


def test_mistakes_are_one_line_with_a_remedy(
    run: Path, small_store: Path, frames: Path, tmp_path: Path
) -> None:
    mistakes = {
        ("evaluate", str(tmp_path), str(small_store)): "run folder",
        ("evaluate", str(run), str(tmp_path / "none")): "no store and no folder",
        ("evaluate", str(run), str(frames), "--split", "train"): "has no splits; leave --split out",
        ("evaluate", str(run), str(small_store), "--exclude", "x"): "--exclude is for a folder",
        ("evaluate", str(run), str(small_store), "--json", str(tmp_path)): "is a folder: name a file",
        ("evaluate", str(run), str(small_store), "--json", "/proc/1/x/y"): "there is no folder",
        ("predict", str(run), str(tmp_path)): "no photos",
        ("train", "--store", str(tmp_path / "none")): "horovod-asl prepare",
        ("train", "--store", str(small_store), "--model", "resnet99"): "resnet18",
        ("train", "--resume", str(tmp_path)): "holds no run",
        ("compare", "--out", str(tmp_path)): "--out",
    }
    for words, part in mistakes.items():
        finished = launch([ASL, *words])
        assert finished.returncode == 2, (words, finished.output)
        assert finished.output.startswith("error: "), (words, finished.output)
        assert finished.output.count("\n") == 1
        assert part in finished.output


@pytest.mark.timeout(400)
def test_compare_runs_all_four_and_finds_the_same_weights(
    run: Path, small_store: Path, tmp_path: Path
) -> None:
    """A frozen backbone's BatchNorm is in evaluation mode, so that nothing is left that may differ by rank.

    Without augmentation its features are computed once, each rank its share: the same path for all four.
    """
    out = tmp_path / "compare"
    weights = max(run.glob("best/*/weights.safetensors"))
    words = ["--out", out, "--store", small_store, "--epochs", "1", "--global-batch", "16"]
    of_train = [
        "--warmup-epochs",
        "0",
        "--pretrained",
        weights,
        "--train",
        "head",
        "--no-augment",
        "--optimizer",
        "sgd",
    ]
    output = ok(launch([ASL, "compare", *words, "--", *of_train], timeout=380))
    rows = {row["backend"]: row for row in json.loads((out / "compare.json").read_text())}
    assert list(rows) == ["serial", "dp", "ddp", "horovod"]
    assert [row["ranks"] for row in rows.values()] == [1, 1, 2, 2]
    assert rows["dp"]["weight_difference"] == 0.0
    began, ended = (flat_weights(file) for file in (weights, out / "serial"))
    assert (ended - began).norm() / ended.norm() > 1e-3  # so a rate that is wrong by 1 % shows below
    for kind in ("ddp", "horovod"):
        assert rows[kind]["weight_difference"] < 1e-5
        assert rows[kind]["final_loss"] == pytest.approx(rows["serial"]["final_loss"], rel=1e-5)
    assert all(row["photos_per_second"] > 0 for row in rows.values())
    assert (out / "compare.png").stat().st_size > 5000
    assert all(row["backend"] in output for row in rows.values())
    assert "speed-up" in output


def flat_weights(path: Path) -> torch.Tensor:
    """The parameters of a file of weights, or the last ones of a run, as one vector."""
    tensors = load_file(path) if path.is_file() else RunFolder(path).final_weights()
    names = sorted(name for name in tensors if "running_" not in name and "num_batches" not in name)
    return torch.cat([tensors[name].flatten().double() for name in names])


@pytest.mark.timeout(400)
def test_real_data_from_folders_to_a_score_on_a_stranger(real_data: Path, tmp_path: Path) -> None:
    store, run, out = tmp_path / "store", tmp_path / "run", tmp_path / "scores.json"
    source = real_data / "asl_alphabet_train"
    ok(launch([ASL, "prepare", source, store, "--samples", "870", "--image-size", "32", "--no-hands"]))
    words = ["train", "--store", store, "--run-folder", run, "--epochs", "3"]
    ok(launch([*launcher_words("mpirun", 2), ASL, *words], timeout=300))
    scores = evaluated([ASL, "evaluate", run, real_data / "other_signers" / "phone"], out)
    assert scores["n"] == 2900
    assert scores["trained_on"] == ["asl_alphabet_train/1", "asl_alphabet_train/2"]
    held_out = json.loads((run / "result.json").read_text())["scores"]
    assert held_out["train"]["n"] == 580


@pytest.mark.timeout(200)
def test_the_gpu_figures_script_runs_to_its_end_on_a_cpu(small_store: Path, tmp_path: Path) -> None:
    words = ["benchmarks/gpu/figures.sh", "--small", "--device", "cpu"]
    output = ok(launch(words, OUT=str(tmp_path), STORE=str(small_store), PYTHON=sys.executable))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["data_path"]["ours_over_synthetic"] > 0
    assert 0 <= found["time_to_accuracy"]["best_top1"] <= 1
    assert {"serial_photos_per_second", "dp_photos_per_second"} <= found["backends"].keys()
    assert "held-out fifth" in output
