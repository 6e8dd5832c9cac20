"""Letters out of frames: what a person would read of the same frames is what must come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.live.language import FILE, START, SYMBOLS, letter_model, shipped_letter_model
from horovod_asl.live.reader import Read
from horovod_asl.live.speller import Speller
from horovod_asl.live.suggestions import frequent_words
from horovod_asl.live.tracker import Sighting

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


def spelled(labels: Sequence[str | None]) -> str:
    return text_of(seen(label, number) for number, label in enumerate(labels))


def text_of(film: Iterator[Sighting]) -> str:
    speller, letters = Speller(), []
    for sighting in film:
        letters += speller.feed(sighting)
    letters += speller.finish()
    return "".join({"space": " ", "del": "<"}.get(letter.label, letter.label) for letter in letters)


def held(word: str, frames: int) -> list[str | None]:
    return [letter for letter in word for _ in range(frames)]


@pytest.mark.parametrize("frames", [5, 9, 30], ids=["3 a second", "0.6 s", "2 s"])
def test_letters_come_once_however_long_they_are_held(frames: int) -> None:
    assert spelled(held("WORLD", frames)) == "WORLD"


def test_frames_that_are_misread_in_between_are_no_letters() -> None:
    labels = held("CAT", 10)
    labels[4], labels[14], labels[25] = "X", "Q", "nothing"
    assert spelled(labels) == "CAT"


def test_a_gap_ends_a_word_and_a_sign_does() -> None:
    gap: list[str | None] = [None] * 20
    assert spelled(held("NO", 8) + gap + held("GO", 8)) == "NO GO"
    assert spelled(held("NO", 8) + ["space"] * 8 + held("GO", 8)) == "NO GO"


def test_a_hand_that_signs_nothing_writes_nothing() -> None:
    assert spelled(["nothing"] * 100) == ""
    assert spelled([None] * 100) == ""


def test_del_is_a_letter_of_its_own() -> None:
    assert spelled(held("ON", 9) + ["del"] * 9) == "ON<"


@pytest.mark.parametrize(("palms", "text"), [(0.0, "EL"), (0.5, "ELL")], ids=["still", "slides"])
def test_a_double_letter_is_one_that_slides(palms: float, text: str) -> None:
    """The same hand goes to the side in three frames, without a letter in between."""
    first = [seen(letter, number) for number, letter in enumerate(held("E", 9))]
    then = [seen("L", 9 + number, (palms * min(max(number - 9, 0), 3), 0)) for number in range(22)]
    assert text_of(iter([*first, *then])) == text


def test_i_and_d_held_still_stay_so_whatever_the_network_says() -> None:
    assert spelled(["J"] * 12) == "I"
    assert spelled(["Z"] * 12) == "D"


def test_z_is_a_finger_that_goes_across_back_and_across() -> None:
    ways = [0.0, 0.0, 0.5, 1.0, 0.6, 0.2, -0.2, 0.3, 0.8, 1.2, 1.2]
    drawn = [seen("Z", number, (x, number * 0.05)) for number, x in enumerate(ways)]
    assert text_of(iter(drawn)) == "Z"


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
