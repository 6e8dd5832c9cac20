"""Letters out of frames: what a person would read of the same frames is what must come out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.live.language import FILE, START, SYMBOLS, letter_model, shipped_letter_model
from horovod_asl.live.reader import Read
from horovod_asl.live.speller import Speller
from horovod_asl.live.suggestions import frequent_words
from horovod_asl.live.tracker import Sighting

CASES = json.loads(Path(__file__).with_name("spelling_cases.json").read_text("utf-8"))
STEP_S = 1 / 15
HAND = np.random.default_rng(0).normal((0.6, 0.5), 0.05, (21, 2))
HAND[0], HAND[9] = (0.6, 0.6), (0.6, 0.5)  # the palm is a tenth of the frame's height


def seen(label: str | None, number: int, at: Sequence[float] = (0, 0), sure: float = 8.0) -> Sighting:
    """A frame that shows this class, the hand moved by so many palm lengths; None: no hand."""
    if label is None:
        return Sighting(number * STEP_S, "no_hand", 4 / 3)
    logits = np.zeros(len(CLASSES), np.float32)
    logits[CLASS_INDEX[label]] = sure
    points = (HAND + 0.1 * np.asarray(at)).astype(np.float32)
    read = Read(logits, np.zeros((1, 4), np.float32), np.zeros(1, np.bool_))
    return Sighting(number * STEP_S, None, 4 / 3, read, points, np.zeros((21, 3), np.float32))


def read_film(film: Iterable[Sighting]) -> str:
    speller, letters = Speller(), []
    for sighting in film:
        letters += speller.feed(sighting)
    text = ""
    for letter in [*letters, *speller.finish()]:
        text = {"space": text + " ", "del": text[:-1]}.get(letter.label, text + letter.label)
    return text


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_table_of_cases(case: dict[str, Any]) -> None:
    """Runs of frames: how many, the class that is seen with a logit of 8 (none: no hand), the hand's place in palms.

    A frame comes every fifteenth of a second. Another language's speller can be held against the same table.
    """
    frames = [(label, (x, y)) for count, label, x, y in case["frames"] for _ in range(count)]
    film = [seen(label, number, at) for number, (label, at) in enumerate(frames)]
    assert read_film(film) == case["text"]


def test_the_letter_being_held_fills_up() -> None:
    speller = Speller()
    progress = []
    for number in range(10):
        speller.feed(seen("B", number))
        progress.append(0.0 if speller.held is None else speller.held.progress)
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert [letter.label for letter in speller.current] == ["B"]


def test_hours_without_a_letter_keep_no_frames() -> None:
    speller = Speller()
    for number in range(600):
        speller.feed(seen("nothing", number))
    assert len(speller._frames) < 300


def test_the_letter_model_that_ships_is_that_of_the_dictionary() -> None:
    counted = letter_model(frequent_words(100_000))
    assert FILE.stat().st_size < 60_000
    assert np.abs(shipped_letter_model() - counted).max() < 0.02


def test_the_letter_model_is_one_of_probabilities_and_knows_english() -> None:
    model = shipped_letter_model()
    assert np.allclose(np.exp(model).sum(-1), 1, atol=0.01)
    q, u, x = (SYMBOLS.index(letter) for letter in "QUX")
    assert model[START, q].argmax() == u
    assert model[START, q, u] > model[START, q, x] + 2
