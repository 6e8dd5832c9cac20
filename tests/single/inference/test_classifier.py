"""A run folder as a reader: its probabilities are those of plain torch on the weights that it names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as reference
import torch
from safetensors.torch import load_file

from horovod_asl.engine.dataset import Dataset
from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from horovod_asl.labels import CLASSES, NUM_CLASSES
from horovod_asl.models.registry import build_model, head_of
from horovod_asl.runs import checkpoint
from horovod_asl.runs.run_folder import RunFolder

torch.set_num_threads(1)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def make_run(path: Path, *, precision: str = "fp32", model: str = "small_cnn") -> Path:
    """A run of three scored epochs, the second the best; weights and statistics as training would leave them."""
    path.mkdir()
    folder = RunFolder(path)
    facts = {"model": model, "classes": list(CLASSES), "image_size": 16, "precision": precision}
    folder.write_facts(facts)
    for epoch, score in ((1, 0.5), (2, 0.7), (3, 0.6)):
        torch.manual_seed(epoch)
        network = build_model(model, num_classes=NUM_CLASSES).train()
        for _ in range(3):
            network(torch.randn(8, 3, 16, 16))
        head_of(
            network
        ).weight.data *= 200  # a network that is sure of itself, and differently for every photo
        folder.save_best(epoch, score, network.state_dict(), keep=3)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def photos(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def plain_torch(run: Path, epoch: int, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Softmax of the network in double precision, photo by photo."""
    network = build_model("small_cnn", num_classes=NUM_CLASSES)
    network.load_state_dict(load_file(run / "best" / f"epoch-{epoch:05d}" / "weights.safetensors"))
    network.double().eval()
    inputs = torch.from_numpy((images / 255 - MEAN) / STD).permute(0, 3, 1, 2)
    with torch.no_grad():
        return torch.cat([network(one[None]).softmax(1) for one in inputs]).numpy()


def test_probabilities_are_plain_torch_s_on_the_best_weights(run: Path) -> None:
    images = photos(21)
    classifier = Classifier.from_run(run)
    assert classifier.epoch == 2
    assert classifier.classes == CLASSES
    expected = plain_torch(run, 2, images)
    for batch_size in (256, 5, 1):
        seen = classifier.probabilities(images, batch_size=batch_size)
        np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-6)
    assert seen.dtype == np.float32


def test_a_run_s_temperature_is_in_its_probabilities_and_not_in_its_logits(tmp_path: Path) -> None:
    run, images = make_run(tmp_path / "run"), photos(7)
    before = Classifier.from_run(run)
    (run / "result.json").write_text(json.dumps({"epoch": before.epoch, "temperature": 2.5}))
    classifier = Classifier.from_run(run)
    assert (before.temperature, classifier.temperature) == (1.0, 2.5)
    logits = classifier.logits(images, batch_size=3)
    assert (logits.dtype, logits.shape) == (np.float32, (7, NUM_CLASSES))
    np.testing.assert_array_equal(logits, before.logits(images, batch_size=3))
    cooled = torch.softmax(torch.from_numpy(logits).double() / 2.5, 1).numpy()
    np.testing.assert_allclose(classifier.probabilities(images), cooled, rtol=1e-3, atol=1e-6)
    assert np.log(plain_torch(run, 2, images)).argsort(1).tolist() == logits.argsort(1).tolist()


def test_no_photos_give_no_rows(run: Path) -> None:
    classifier = Classifier.from_run(run)
    assert classifier.probabilities(photos(0)).shape == (0, NUM_CLASSES)
    assert classifier.top(photos(0), 3) == []


def test_a_view_on_photos_is_read_as_its_copy(run: Path) -> None:
    images, classifier = photos(8), Classifier.from_run(run)
    mirrored = images[::2, :, ::-1]
    assert np.array_equal(classifier.probabilities(mirrored), classifier.probabilities(mirrored.copy()))


def test_the_likeliest_come_first_with_their_names(run: Path) -> None:
    images = photos(6)
    expected = plain_torch(run, 2, images)
    for predictions, row in zip(Classifier.from_run(run).top(images, 3), expected, strict=True):
        order = sorted(range(NUM_CLASSES), key=lambda k: -row[k])[:3]
        assert [name for name, _ in predictions] == [CLASSES[k] for k in order]
        assert [share for _, share in predictions] == pytest.approx([row[k] for k in order], rel=1e-3)


def test_scores_are_scikit_learn_s_on_plain_torch_s_probabilities(run: Path) -> None:
    images, labels = photos(60), np.random.default_rng(1).integers(0, NUM_CLASSES, 60)
    set_of_photos = Dataset(gather=lambda rows: images[rows], labels=labels)
    scores = Classifier.from_run(run).predictions(set_of_photos).scores()
    probabilities = plain_torch(run, 2, images)
    every = list(range(NUM_CLASSES))
    assert scores.n == 60
    assert scores.top1 == reference.accuracy_score(labels, probabilities.argmax(1))
    assert scores.top3 == reference.top_k_accuracy_score(labels, probabilities, k=3, labels=every)
    assert scores.nll == pytest.approx(reference.log_loss(labels, probabilities, labels=every), rel=1e-3)


def test_a_run_in_bf16_is_read_in_fp32_on_a_cpu(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", precision="bf16")
    seen, expected = Classifier.from_run(run).probabilities(photos(9)), plain_torch(run, 2, photos(9))
    np.testing.assert_allclose(seen.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-6)


def test_damaged_best_weights_give_way_to_the_next_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    file = run / "best" / "epoch-00002" / checkpoint.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="epoch-00002 is damaged"):
        classifier = Classifier.from_run(run)
    assert classifier.epoch == 3
    np.testing.assert_allclose(
        classifier.probabilities(photos(4)), plain_torch(run, 3, photos(4)), rtol=1e-3, atol=1e-6
    )


def test_a_folder_that_is_no_run_or_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder.*run\.json"):
        Classifier.from_run(tmp_path)
    run = make_run(tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"model": "mobilenet_v3_large"}))
    with pytest.raises(UserError, match="do not fit mobilenet_v3_large"):
        Classifier.from_run(run)
    (run / "run.json").write_text("{torn")
    with pytest.raises(UserError, match="not a run folder"):
        Classifier.from_run(run)
