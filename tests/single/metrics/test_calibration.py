"""Temperature against a grid and scikit-learn's log loss; abstention against counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_asl.distributed.base import Serial
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.evaluate import PassOptions
from horovod_asl.engine.predictions import Predictions, metrics_report, predict_all
from horovod_asl.labels import CLASS_INDEX, CLASSES, NUM_CLASSES
from horovod_asl.metrics.calibration import (
    ACCURACIES,
    TEMPERATURES,
    THRESHOLDS,
    coverage_curve,
    fit_temperature,
    softmax,
    threshold_for,
)
from horovod_asl.runs.run_folder import RunFolder

torch.set_num_threads(1)
property_test = settings(deadline=None, max_examples=40)


def made(n: int, classes: int, seed: int, *, sureness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose own best temperature is near `sureness`: labels are drawn from their softmax at it."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (n, classes)).astype(np.float32)
    shares = softmax(logits)
    labels = np.array([draw.choice(classes, p=row) for row in shares])
    return (logits * sureness).astype(np.float32), labels


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return float(reference.log_loss(labels, softmax(logits, temperature), labels=range(logits.shape[1])))


def confidences(n: int, seed: int, *, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Confidences on a few levels, so that there are equals, and answers that are right more often when sure."""
    draw = np.random.default_rng(seed)
    confidence = draw.integers(1, levels + 1, n) / levels
    return confidence, draw.random(n) < confidence


sets = st.builds(confidences, st.integers(1, 60), st.integers(0, 10**6))


@pytest.mark.parametrize("sureness", [0.3, 1.0, 4.0])
def test_the_temperature_is_that_of_a_grid_by_scikit_learn(sureness: float) -> None:
    logits, labels = made(600, 7, 1, sureness=sureness)
    fitted = fit_temperature(logits, labels)
    grid = np.geomspace(*TEMPERATURES, 120)
    losses = [loss(logits, labels, temperature) for temperature in grid]
    assert fitted == pytest.approx(grid[np.argmin(losses)], rel=0.052)  # a step of the grid
    assert loss(logits, labels, fitted) <= min(losses)
    assert fitted == pytest.approx(sureness, rel=0.15)


@given(st.integers(2, 80), st.integers(2, 9), st.integers(0, 10**6))
@property_test
def test_the_slope_is_zero_at_the_temperature_or_it_is_at_an_end(n: int, classes: int, seed: int) -> None:
    logits, labels = made(n, classes, seed)
    fitted = fit_temperature(logits, labels)
    if (logits.argmax(1) == labels).all():
        assert fitted == 1.0
        return
    for other in (fitted * 1.01, fitted / 1.01):
        if TEMPERATURES[0] <= other <= TEMPERATURES[1]:
            assert loss(logits, labels, fitted) <= loss(logits, labels, other) + 1e-12


def test_sets_that_tell_nothing_leave_the_logits_as_they_are() -> None:
    logits, _ = made(20, 5, 0)
    assert fit_temperature(logits, logits.argmax(1)) == 1.0
    assert fit_temperature(logits[:0], np.zeros(0, np.int64)) == 1.0


def test_a_network_worse_than_chance_is_cooled_to_the_end() -> None:
    logits, _ = made(50, 5, 0)
    assert fit_temperature(logits, logits.argmin(1)) == pytest.approx(TEMPERATURES[1])


def test_logits_that_are_not_finite_do_not_spoil_the_fit() -> None:
    logits, labels = made(200, 5, 3)
    spoilt = np.concatenate([logits, np.full((2, 5), np.inf, np.float32)])
    assert fit_temperature(spoilt, np.append(labels, [0, 1])) == fit_temperature(logits, labels)


def test_probabilities_at_a_temperature_are_torch_s() -> None:
    logits, _ = made(9, 6, 2, sureness=40)
    expected = torch.softmax(torch.from_numpy(logits).double() / 2.5, 1).numpy()
    np.testing.assert_allclose(softmax(logits, 2.5), expected, rtol=1e-12)


@given(sets)
@property_test
def test_the_curve_is_counted(given_set: tuple[np.ndarray, np.ndarray]) -> None:
    confidence, right = given_set
    for point in coverage_curve(confidence, right, (0.0, 0.25, 0.5, 1.0, 1.01)):
        answered = confidence >= point.threshold
        assert point.coverage == answered.mean()
        assert point.accuracy == (right[answered].mean() if answered.any() else None)


@given(sets, st.sampled_from(ACCURACIES))
@property_test
def test_the_threshold_for_an_accuracy_answers_the_most(
    given_set: tuple[np.ndarray, np.ndarray], accuracy: float
) -> None:
    confidence, right = given_set
    every = coverage_curve(confidence, right, np.unique(confidence))
    enough = [point for point in every if point.accuracy is not None and point.accuracy >= accuracy]
    found = threshold_for(confidence, right, accuracy)
    if not enough:
        assert found is None
    else:
        assert found is not None
        assert found == pytest.approx(max(enough, key=lambda point: point.coverage))


def test_no_photos_have_no_curve_to_stand_on() -> None:
    nothing = np.zeros(0), np.zeros(0, bool)
    assert coverage_curve(*nothing, (0.0, 0.5)) == [(0.0, 0.0, None), (0.5, 0.0, None)]
    assert threshold_for(*nothing, 0.95) is None


def make_answers(n: int = 400, seed: int = 0) -> Predictions:
    logits, labels = made(n, NUM_CLASSES, seed, sureness=3)
    return Predictions(logits, labels.astype(np.int64))


def test_measures_without_j_and_z_are_scikit_learn_s() -> None:
    predictions = make_answers()
    figures = metrics_report(predictions, CLASSES)["without_j_z"]
    moving = [CLASS_INDEX["J"], CLASS_INDEX["Z"]]
    kept = ~np.isin(predictions.labels, moving)
    true, read = predictions.labels[kept], predictions.logits[kept].argmax(1)
    assert figures["n"] == len(true) < len(predictions)
    assert figures["correct"] == (true == read).sum()
    assert figures["top1"] == reference.accuracy_score(true, read)
    others = sorted({*true, *read} - set(moving))
    assert figures["macro_f1"] == pytest.approx(
        reference.f1_score(true, read, labels=others, average="macro", zero_division=0)
    )


def test_measures_at_a_temperature_change_what_is_sure_and_not_what_is_said() -> None:
    predictions = make_answers()
    temperature = predictions.temperature()
    assert temperature == pytest.approx(3, rel=0.15)
    plain, fitted = metrics_report(predictions, CLASSES), metrics_report(predictions, CLASSES, temperature)
    assert plain["ece"] == fitted["ece"] == plain["ece_calibrated"]
    assert fitted["ece_calibrated"] < plain["ece"] / 2
    assert fitted["nll_calibrated"] == pytest.approx(
        loss(predictions.logits, predictions.labels, temperature)
    )
    assert fitted["confusion"] == plain["confusion"]
    assert [point["threshold"] for point in fitted["coverage"]] == list(THRESHOLDS)
    assert fitted["coverage"][0] == {"threshold": 0, "coverage": 1, "accuracy": fitted["top1"]}
    assert list(fitted["at_accuracy"]) == ["0.95", "0.98", "0.99"]
    assert all(point is None or point["accuracy"] >= 0.95 for point in fitted["at_accuracy"].values())


def test_answers_are_the_model_s_for_every_photo() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, NUM_CLASSES))
    features = np.random.default_rng(0).normal(size=(11, 12)).astype(np.float32)
    photos = Dataset(features.__getitem__, np.arange(11), are_features=True)
    predictions = predict_all(model, Serial(torch.device("cpu")), photos, PassOptions(batch_size=4))
    with torch.no_grad():
        expected = model(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(predictions.logits, expected, rtol=1e-5, atol=1e-6)
    assert predictions.labels.tolist() == list(range(11))
    assert predictions.scores().n == 11


def test_a_run_s_temperature_is_that_of_the_weights_it_was_fitted_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.temperature({"epoch": 2}) == 1.0
    folder.write_result({"epoch": 2, "temperature": 1.7})
    assert folder.temperature({"epoch": 2}) == 1.7
    assert folder.temperature({"epoch": 3}) == 1.0  # the best weights are damaged, these are the next
    assert folder.temperature({"epoch": 3, "temperature": 0.8}) == 0.8
    folder.write_result({"epoch": 2, "temperature": None})  # no validation split
    assert folder.temperature({"epoch": 2}) == 1.0
