"""A run in a bundle: the same answers, from a folder of a few small files that needs neither run nor store."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image

from horovod_asl.command_line.cli import parse
from horovod_asl.command_line.config_file import to_yaml
from horovod_asl.commands import evaluate, export, predict
from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import DataConfig, ModelConfig
from horovod_asl.errors import UserError
from horovod_asl.hands.record import SEEN_ROW
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.model_card import read_scores
from horovod_asl.inference.onnx_export import run_onnx
from horovod_asl.inference.onnx_inputs import drawn_inputs, named_inputs
from horovod_asl.labels import CLASSES, NUM_CLASSES
from horovod_asl.models.registry import build_model, head_of
from horovod_asl.runs import bundled_model
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.store.store import Store
from horovod_asl.synthetic.render import render_spec, sample_specs

SIZE = 32


@pytest.fixture(scope="module")
def photo_digests(frames: Path) -> list[str]:
    """Of fifty photos in `frames`."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(frames.rglob("*.jpg"))[:50]]


@pytest.fixture(scope="module")
def run(small_store: Path, photo_digests: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, said to be trained on the store's training split and on fifty photos of `frames`."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    store = Store.open(small_store)
    torch.manual_seed(3)
    network = build_model("small_cnn", num_classes=NUM_CLASSES)
    network(torch.randn(16, 3, SIZE, SIZE))
    head_of(network).weight.data *= 50
    folder = RunFolder(path)
    folder.write_facts(
        {
            "model": "small_cnn",
            "input": "photos",
            "classes": list(CLASSES),
            "image_size": SIZE,
            "precision": "bf16",
            "store": str(small_store),
            "store_digest": store.digest,
            "split_rule": {"kind": "recording"},
            "trained_on": ["synthetic/r0", "synthetic/r1"],
            "validated_on": ["synthetic/r2"],
            "settings": {"backend": "horovod", "world_size": 2, "global_batch": 64, "parameters": 1171677},
            "versions": {"torch": torch.__version__},
        }
    )
    folder.write_training_photos([*store.digests[store.rows("train")], *photo_digests])
    folder.create(
        TrainConfig(data=DataConfig(store=small_store), model=ModelConfig(model="small_cnn"), run_folder=path)
    )
    folder.save_best(4, 0.5, network.state_dict(), keep=1)
    scores = {"n": 58, "top1": 0.25, "macro_f1": 0.2, "nll": 2.5, "ece": 0.1}
    folder.write_result({"epoch": 4, "temperature": 1.25, "scores": {"validation": scores}})
    return path


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    scores, notes = folder / "stranger.json", folder / "notes.md"
    row = {"n": 2900, "top1": 0.885, "macro_f1": 0.88, "nll": 0.4, "ece": 0.02}
    of_folder = row | {"photos": "data/phone", "scored": ["data/phone"], "photos_in_training": 0}
    calibrated = row | {"without_j_z": {"top1": 0.91}, "temperature": 0.5}
    calibrated |= {"nll_calibrated": 0.35, "ece_calibrated": 0.01}
    folds = [{"held_out": "massey", "same_signer_in_training": False, "scores": calibrated}]
    folds += [{"held_out": "asl/3", "same_signer_in_training": True, "scores": row}]
    scores.write_text(json.dumps({"folder": of_folder, "sections": {"homes": row}, "folds": folds}))
    notes.write_text("Prepared with `horovod-asl prepare photos store --hands`.\n")
    words = [run, "--bundle", folder / "box", "--scores", scores, "--notes", notes]
    assert export.main([str(word) for word in words]) == 0
    return folder / "box"


@pytest.fixture
def ships(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The bundle as the one that ships, seen from an empty working folder."""
    monkeypatch.setattr(bundled_model, "BUNDLE", bundle)
    monkeypatch.chdir(tmp_path)
    return bundle


def noise(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def photo_at(path: Path) -> Path:
    Image.fromarray(noise(1)[0]).save(path)
    return path


def test_a_bundle_holds_what_it_says_and_no_more(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert names == {
        *("run.json", "config.yaml", "trained_on.sha256"),
        *("weights.safetensors", "model.onnx", "MODEL_CARD.md"),
    }
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []


def test_it_names_no_folder_of_the_machine_that_trained_it(run: Path, bundle: Path) -> None:
    for name in ("run.json", "config.yaml", "MODEL_CARD.md"):
        assert str(run.parent.parent) not in (bundle / name).read_text(), name
    assert RunFolder(bundle).config() == TrainConfig(model=ModelConfig(model="small_cnn"))


def test_it_answers_as_the_run_does_to_the_bit(run: Path, bundle: Path) -> None:
    expected, seen = Classifier.from_run(run), Classifier.from_run(bundle)
    assert (seen.epoch, seen.temperature, seen.classes) == (4, 1.25, CLASSES)
    assert np.array_equal(seen.probabilities(noise(20)), expected.probabilities(noise(20)))


def test_a_bundle_of_halves_is_half_as_large_and_says_so(run: Path, bundle: Path, tmp_path: Path) -> None:
    assert export.main([str(run), "--bundle", str(tmp_path / "box"), "--half"]) == 0
    name = "weights.safetensors"
    assert (tmp_path / "box" / name).stat().st_size < 0.6 * (bundle / name).stat().st_size
    card = (tmp_path / "box" / "MODEL_CARD.md").read_text()
    assert "of epoch 4, rounded to float16. Prob" in card
    assert "rounded" not in (bundle / "MODEL_CARD.md").read_text()
    rounded, whole = (Classifier.from_run(path).logits(noise(20)) for path in (tmp_path / "box", bundle))
    assert 0 < np.abs(rounded - whole).max() < 0.01 * np.abs(whole).max()
    session = onnxruntime.InferenceSession(
        tmp_path / "box" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"photo": noise(20)})
    np.testing.assert_allclose(logits, rounded, rtol=0, atol=1e-4)


def test_a_run_in_bf16_goes_into_the_bundle_to_be_read_in_fp32(run: Path, bundle: Path) -> None:
    assert RunFolder(run).facts()["precision"] == "bf16"
    assert RunFolder(bundle).facts()["precision"] == "fp32"


def test_its_onnx_file_gives_the_same_logits(bundle: Path) -> None:
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"photo": noise(20)})
    np.testing.assert_allclose(logits, Classifier.from_run(bundle).logits(noise(20)), rtol=0, atol=1e-4)


def test_default_is_what_ships_where_no_folder_has_that_name(ships: Path, run: Path, tmp_path: Path) -> None:
    assert Classifier.from_run(Path("default")).facts["bundle"]["epoch"] == 4
    shutil.copytree(run, tmp_path / "default")
    assert "bundle" not in Classifier.from_run(Path("default")).facts


@pytest.mark.usefixtures("ships")
def test_predict_needs_no_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = photo_at(tmp_path / "photo.png")
    outputs = []
    for words in ([photo], ["default", photo], [run, photo], [tmp_path]):
        assert predict.main([*map(str, words), "--json"]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert all(output == outputs[0] for output in outputs)
    assert outputs[0]["photo"] == str(photo)
    assert predict.main([str(tmp_path / "absent.jpg"), str(photo)]) == 1
    assert "absent.jpg" in capsys.readouterr().err


@pytest.mark.usefixtures("ships")
def test_a_slip_in_the_run_s_name_is_not_taken_for_a_photo(tmp_path: Path) -> None:
    photo = str(photo_at(tmp_path / "photo.png"))
    (tmp_path / "empty").mkdir()
    mistakes = {
        ("runs/nrun", photo): "there is no run folder and no photo runs/nrun",
        ("defautl", photo): "there is no run folder and no photo defautl",
        ("empty", photo): "empty is not a run folder",
        (): "no photos: name",
        ("default",): "no photos: name",
    }
    for words, part in mistakes.items():
        with pytest.raises(UserError, match=part):
            predict.main(list(words))


@pytest.mark.usefixtures("ships")
def test_evaluate_scores_it_and_knows_what_it_was_trained_on(run: Path, frames: Path, tmp_path: Path) -> None:
    scores = {}
    for name in ("default", str(run)):
        out = tmp_path / "scores.json"
        assert evaluate.main([name, str(frames), "--json", str(out), "--backend", "serial"]) == 0
        scores[name] = json.loads(out.read_text())
    ours = scores["default"]
    assert (ours["n"], ours["photos_in_training"], ours["run"]) == (232, 50, "default")
    assert ours | {"run": str(run)} == scores[str(run)]


def test_without_a_model_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_frames: Callable[..., Path]
) -> None:
    monkeypatch.setattr(bundled_model, "BUNDLE", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    photo = str(photo_at(tmp_path / "photo.png"))
    for command, words in ((predict, [photo]), (evaluate, ["default", str(tmp_path)])):
        with pytest.raises(UserError, match=r"comes without a model .* name the folder of a run"):
            command.main(words)


def test_a_run_may_begin_with_a_bundle_or_with_its_file_of_weights(
    ships: Path, run: Path, tmp_path: Path
) -> None:
    weights = RunFolder(run).best_weights()[1]
    for pretrained in ("default", str(ships), str(ships / "weights.safetensors")):
        begun = build_model("small_cnn", num_classes=NUM_CLASSES, pretrained=pretrained)
        for name, tensor in begun.state_dict().items():
            torch.testing.assert_close(tensor, weights[name], atol=0, rtol=0)
    bundle = bundled_model.run_of_weights(ships / "weights.safetensors")
    assert bundle is not None
    assert bundle.training_photos() == RunFolder(run).training_photos()
    assert bundled_model.run_of_weights(Path(shutil.copy(ships / "weights.safetensors", tmp_path))) is None
    shutil.copy(ships / "run.json", tmp_path)
    shutil.copy(run / "best" / "epoch-00004" / "weights.safetensors", tmp_path / "weights.safetensors")
    assert bundled_model.run_of_weights(tmp_path / "weights.safetensors") is None  # not in this bundle


def test_whoever_was_in_the_training_of_what_ships_is_known() -> None:
    bundle = bundled_model.run_of_weights(bundled_model.BUNDLE / "weights.safetensors")
    assert bundle is not None
    assert {"asl/1", "massey/hand1", "homes/all", "phone/all"} <= set(bundle.facts()["trained_on"])
    assert bundle.unknown_weights() is None


def test_the_card_of_a_model_from_unknown_weights_says_so(run: Path, tmp_path: Path) -> None:
    second, rows = shutil.copytree(run, tmp_path / "run"), tmp_path / "rows.json"
    facts = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps(facts | {"unknown_weights": "/there/theirs.pt"}))
    scores = {"n": 2900, "top1": 0.885, "macro_f1": 0.88, "nll": 0.4, "ece": 0.02}
    fold = {"held_out": "phone", "scores": scores, "trained_on": ["asl/1"], "test": ["phone/all"]}
    told = [
        fold | {"unknown_weights": "/there/theirs.pt"},
        fold | {"held_out": "asl/1", "test": ["asl/1"]},
        scores | {"photos_in_training": None, "in_training_unknown_because": "it is not"},
    ]
    rows.write_text(json.dumps(told))
    assert export.main([str(second), "--bundle", str(tmp_path / "box"), "--scores", str(rows)]) == 0
    card = (tmp_path / "box" / "MODEL_CARD.md").read_text()
    for part in (
        "But these weights began from theirs.pt, and who was in its training is not known.",
        "| its validation split | 58 | not known |",
        "| phone, left out | 2,900 | not known |",
        "| asl/1, left out | 2,900 | asl/1 |",
        "| rows 3 | 2,900 | not known |",
    ):
        assert part in card, part
    assert bundled_model.open_run(tmp_path / "box").unknown_weights() == "theirs.pt"


def test_damaged_weights_are_refused(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "box")
    data = bytearray((copy / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="missing or damaged"):
        Classifier.from_run(copy)


def test_the_card_tells_the_facts(bundle: Path) -> None:
    card = (bundle / "MODEL_CARD.md").read_text()
    for part in (
        "# small_cnn, 29 classes",
        "of epoch 4",
        "1,171,677 parameters",
        "| synthetic/r0 | 58 |",
        "| synthetic/r1 | 58 |",
        "| all | 116 |",
        "Validated on: synthetic/r2, to choose the epoch.",
        "horovodrun -np 2 horovod-asl train --config horovod_asl/bundled_model/config.yaml --store STORE",
        "model: small_cnn",
        "Prepared with `horovod-asl prepare photos store --hands`.",
        "divided by\n1.25, the temperature fitted on validation.",
        "| its validation split | 58 | 0 | 25.00% | – | 0.200 | 1.00 | 2.500 | 0.100 |",
        "| phone | 2,900 | 0 | 88.50% | – |",
        "| stranger: sections: homes | 2,900 | – | 88.50% | – |",
        "| massey, left out | 2,900 | 0 | 88.50% | 91.00% | 0.880 | 0.50 | 0.350 | 0.010 |",
        "| asl/3, left out | 2,900 | the same signer | 88.50% | – |",
        "J and Z are movements",
        "Apache-2.0",
    ):
        assert part in card, part
    for name in ("weights.safetensors", "model.onnx"):
        assert f"| `{name}` |" in card
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() in card


def test_a_bundle_can_be_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with bundled_model.new_bundle(Path()) as partial:
        for name in (bundled_model.WEIGHTS, bundled_model.ONNX):
            (partial / name).write_bytes(b"whole")
    assert (tmp_path / "here" / bundled_model.WEIGHTS).read_bytes() == b"whole"


def test_the_card_s_command_is_of_the_store_that_it_names(bundle: Path) -> None:
    line = next(
        line for line in (bundle / "MODEL_CARD.md").read_text().splitlines() if "--store STORE" in line
    )
    words = (
        line.replace("horovod_asl/bundled_model/config.yaml", str(bundle / "config.yaml"))
        .split(" train ")[1]
        .split()
    )
    assert parse(TrainConfig, words, prog="train", description=None).data.store == Path("STORE")


def test_the_card_of_a_run_that_began_with_another_tells_how_both_were_made(
    run: Path, tmp_path: Path
) -> None:
    second, made = shutil.copytree(run, tmp_path / "run"), tmp_path / "box"
    facts, first = json.loads((second / "run.json").read_text()), TrainConfig(epochs=7)
    facts["initialized_from"] = {"run": "/there/first", "trained_on": ["asl/1"], "config": to_yaml(first)}
    (second / "run.json").write_text(json.dumps(facts))
    assert export.main([str(second), "--bundle", str(made)]) == 0
    card = (made / "MODEL_CARD.md").read_text()
    commands = [line.split(" train ")[1] for line in card.splitlines() if "--store STORE" in line]
    assert [words.split(" --store STORE ")[1] for words in commands] == [
        "--run-folder FIRST",
        "--pretrained FIRST",
    ]
    (told,) = re.findall(r"FIRST\.yaml above, is:\n\n```yaml\n(.*?)```", card, re.DOTALL)
    (tmp_path / "FIRST.yaml").write_text(told)
    words = commands[0].replace("FIRST.yaml", str(tmp_path / "FIRST.yaml")).split()
    assert parse(TrainConfig, words, prog="train", description=None).epochs == 7
    assert json.loads((made / "run.json").read_text())["initialized_from"]["run"] == "first"


def test_a_bundle_is_made_anew_whole_or_not_at_all(
    run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "box")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(bundled_model, "LARGEST_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"weights\.safetensors would have 4\.\d MB, and a bundle takes 1 MB"):
        export.main([str(run), "--bundle", str(copy)])
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["box"]
    with bundled_model.new_bundle(copy) as partial:
        for name in (bundled_model.WEIGHTS, bundled_model.ONNX):
            (partial / name).write_text("new")
    assert {path.name for path in copy.iterdir()} == {bundled_model.WEIGHTS, bundled_model.ONNX}


def test_a_folder_with_other_things_in_it_is_not_made_a_bundle(run: Path, tmp_path: Path) -> None:
    photo_at(tmp_path / "mine.png")
    (tmp_path / "file").write_text("")
    for folder, part in (
        (tmp_path, "holds other files than a bundle's"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "none" / "box", "No such file or directory"),
    ):
        with pytest.raises(UserError, match=part):
            export.main([str(run), "--bundle", str(folder)])
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", "file"}


def test_what_is_no_file_of_scores_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_scores(file)
    file.write_text('{"n": 5}')
    with pytest.raises(UserError, match="holds no scores"):
        read_scores(file)


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    """The model that ships."""
    return Classifier.from_run(Path("default"))


@pytest.fixture(scope="module")
def read(shipped: Classifier) -> npt.NDArray[Any]:
    """A hundred drawn photos as it reads them."""
    photos = []
    for spec in sample_specs(7, 2, 2)[:100]:
        file = io.BytesIO()
        Image.fromarray(render_spec(spec, 96)).save(file, "png")
        photos.append(shipped.reader(file.getvalue()))
    return np.stack(photos)


@pytest.fixture(scope="module")
def expected(shipped: Classifier, read: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Torch's logits of them."""
    return shipped.logits(read, batch_size=25)


def test_what_ships_is_small_and_its_onnx_file_agrees(
    read: npt.NDArray[Any], expected: npt.NDArray[np.float32]
) -> None:
    assert read["hand"][:, SEEN_ROW, 0].mean() > 0.8
    assert len(set(expected.argmax(1))) > 10
    for name in (bundled_model.WEIGHTS, bundled_model.ONNX):
        assert (bundled_model.BUNDLE / name).stat().st_size <= bundled_model.LARGEST_BYTES
    for size in (100, 1):
        logits = run_onnx(bundled_model.BUNDLE / bundled_model.ONNX, named_inputs(read), batch=size)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        assert np.array_equal(logits.argmax(1), expected.argmax(1))


def test_of_real_photos_too_its_onnx_file_says_what_torch_says(shipped: Classifier, real_data: Path) -> None:
    files = sorted((real_data / "asl_alphabet_train").rglob("*.jpg"))[::97][:100]
    assert len(files) == 100
    photos = np.stack([shipped.reader(file.read_bytes()) for file in files])
    logits = shipped.logits(photos, batch_size=25)
    from_onnx = run_onnx(bundled_model.BUNDLE / bundled_model.ONNX, named_inputs(photos))
    np.testing.assert_allclose(from_onnx, logits, rtol=0, atol=1e-4)
    assert np.array_equal(from_onnx.argmax(1), logits.argmax(1))
    assert len(set(logits.argmax(1))) > 20


def test_what_ships_shows_why(tmp_path: Path) -> None:
    """A report of drawn photos: heat and landmarks on them, for right and wrong answers."""
    for spec in sample_specs(7, 1, 1)[:12]:
        folder = tmp_path / "photos" / spec.label
        folder.mkdir(parents=True)
        Image.fromarray(render_spec(spec, 96)).save(folder / "1.png")
    report = tmp_path / "report"
    words = ["default", str(tmp_path / "photos"), "--report", str(report), "--device", "cpu"]
    assert evaluate.main(words) == 0
    page = (report / "report.html").read_text()
    assert "No landmarks" not in page
    sheets = [file for file in (report / "right.png", report / "wrong.png") if file.is_file()]
    assert sheets
    for sheet in sheets:
        pixels = np.asarray(Image.open(sheet).convert("RGB"), int)
        assert len(np.unique(pixels[::4, ::4] @ [1, 256, 65536])) > 100


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 8])
def test_what_ships_with_a_fixed_batch_agrees_too(
    batch: int, read: npt.NDArray[Any], expected: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    out = tmp_path / "hand.onnx"
    assert export.main(["default", str(out), "--batch", str(batch)]) == 0
    logits = run_onnx(out, named_inputs(read), batch=batch)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.array_equal(logits.argmax(1), expected.argmax(1))


def test_the_mean_over_all_passes_of_the_one_pass_graph_is_the_whole_network() -> None:
    """Against the graph of four passes, which other tests hold against torch."""
    inputs = drawn_inputs(Classifier.from_run(Path(bundled_model.DEFAULT)).reader, 12, seed=3)
    passes = []
    for side in (1, -1):
        hands = inputs["hand"].copy()
        hands[:, SEEN_ROW, 1] *= side
        for as_held in (0, 1):
            given = {"crop": inputs["crop"], "hand": hands, "as_held": np.full(12, as_held, np.float32)}
            passes.append(run_onnx(bundled_model.BUNDLE / bundled_model.ONE_PASS, given))
    whole = run_onnx(bundled_model.BUNDLE / bundled_model.ONNX, inputs)
    assert np.abs(np.mean(passes, 0) - whole).max() < 1e-4
    assert max(np.abs(one - whole).max() for one in passes) > 0.1  # each is a view of its own
