"""Every figure of a score against scikit-learn, and the calibration error against its definition."""

from __future__ import annotations

import json
import string

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_asl.metrics.metrics import CALIBRATION_BINS, MetricAccumulator, Metrics

torch.set_num_threads(1)
NAMES = tuple(string.ascii_uppercase)


def make_answers(
    n: int, num_classes: int, seed: int, *, classes_shown: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than not, and labels from the first `classes_shown` classes only."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes_shown, (n,), generator=generator)
    logits = 2 * torch.randn(n, num_classes, generator=generator)
    logits[torch.arange(n), labels] += 2
    return logits, labels


def tally(logits: torch.Tensor, labels: torch.Tensor) -> Metrics:
    counts = MetricAccumulator(logits.shape[1], torch.device("cpu"))
    counts.add(logits, labels)
    return counts.scores(torch.clone)


predictions = st.builds(
    lambda n, classes, seed, shown: make_answers(n, classes, seed, classes_shown=min(shown, classes)),
    st.integers(1, 80),
    st.integers(4, 12),
    st.integers(0, 10**6),
    st.integers(1, 12),
)
property_test = settings(deadline=None, max_examples=40)


@given(predictions)
@property_test
def test_every_figure_is_scikit_learn_s(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = predictions
    scores, every = tally(logits, labels), list(range(logits.shape[1]))
    probabilities, predicted, true = logits.double().softmax(1).numpy(), logits.argmax(1), labels.numpy()
    assert scores.n == len(true)
    assert scores.correct == reference.accuracy_score(true, predicted, normalize=False)
    assert scores.top1 == pytest.approx(reference.accuracy_score(true, predicted))
    assert scores.top3 == pytest.approx(
        reference.top_k_accuracy_score(true, probabilities, k=3, labels=every)
    )
    assert scores.macro_f1 == pytest.approx(reference.f1_score(true, predicted, average="macro"))
    assert scores.nll == pytest.approx(reference.log_loss(true, probabilities, labels=every))
    assert np.array_equal(scores.confusion, reference.confusion_matrix(true, predicted, labels=every))


@given(predictions)
@property_test
def test_every_class_s_figures_are_scikit_learn_s(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = predictions
    every = list(range(logits.shape[1]))
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        labels, logits.argmax(1), labels=every, zero_division=0
    )
    rows = tally(logits, labels).per_class(NAMES[: len(every)])
    assert list(rows) == list(NAMES[: len(every)])
    assert [row["n"] for row in rows.values()] == support.tolist()
    assert [row["precision"] for row in rows.values()] == pytest.approx(precision)
    assert [row["recall"] for row in rows.values()] == pytest.approx(recall)
    assert [row["f1"] for row in rows.values()] == pytest.approx(f1)
    assert sum(row["correct"] for row in rows.values()) == tally(logits, labels).correct
    assert sum(row["predicted"] for row in rows.values()) == len(labels)


@given(predictions)
@property_test
def test_the_calibration_error_is_its_definition(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = predictions
    confidence, predicted = logits.double().softmax(1).max(1)
    error = 0.0
    for k in range(CALIBRATION_BINS):
        low, high = k / CALIBRATION_BINS, (k + 1) / CALIBRATION_BINS
        inside = (confidence >= low) & ((confidence < high) | (k == CALIBRATION_BINS - 1))
        if inside.any():
            gap = (predicted == labels)[inside].double().mean() - confidence[inside].mean()
            error += float(inside.double().mean() * gap.abs())
    assert tally(logits, labels).ece == pytest.approx(error)


@given(predictions, st.integers(1, 5))
@property_test
def test_a_tally_split_over_ranks_and_batches_is_the_whole(
    predictions: tuple[torch.Tensor, torch.Tensor], ranks: int
) -> None:
    logits, labels = predictions
    tallies = [MetricAccumulator(logits.shape[1], torch.device("cpu")) for _ in range(ranks)]
    for rank, part in enumerate(tallies):
        for mine in torch.arange(len(labels))[rank::ranks].split(7):
            part.add(logits[mine], labels[mine])
    vectors: list[torch.Tensor] = []
    for part in tallies:
        part.scores(lambda vector: vectors.append(vector) or vector)  # type: ignore[func-returns-value]
    split, whole = tallies[0].scores(lambda _: torch.stack(vectors).sum(0)), tally(logits, labels)
    assert np.array_equal(split.confusion, whole.confusion)
    assert split.top3_hits == whole.top3_hits
    assert (split.nll, split.ece) == pytest.approx((whole.nll, whole.ece))


def test_a_dead_network_is_right_by_chance_in_top_3_as_in_top_1() -> None:
    labels = torch.arange(10)
    scores = tally(torch.zeros(10, 10), labels)
    assert scores.correct == 1  # argmax takes the first of equals
    assert scores.top3_hits == 3  # so classes 0, 1 and 2 are its first three answers


def test_two_classes_are_always_in_the_top_3() -> None:
    assert tally(torch.randn(9, 2), torch.randint(0, 2, (9,))).top3 == 1.0


def test_logits_that_are_not_finite_are_counted_and_seen_in_the_loss() -> None:
    logits = torch.zeros(3, 5)
    logits[1] = float("nan")
    scores = tally(logits, torch.tensor([0, 4, 0]))
    assert scores.n == 3
    assert scores.top3_hits == 2
    assert np.isnan(scores.nll)


def test_classes_that_never_occur_do_not_lower_the_macro_f1() -> None:
    logits = torch.eye(6)[[0, 1, 0]] * 9
    assert tally(logits, torch.tensor([0, 1, 0])).macro_f1 == 1.0


def test_the_dictionary_is_json_and_holds_every_figure() -> None:
    scores = tally(*make_answers(30, 5, 0, classes_shown=5))
    figures = json.loads(json.dumps(scores.as_dict(NAMES[:5])))
    assert figures.keys() == {
        *("n", "correct", "top1", "top3", "macro_f1", "nll", "ece", "classes", "confusion", "per_class")
    }
    assert figures["confusion"] == scores.confusion.tolist()
    assert figures["classes"] == list(NAMES[:5])
