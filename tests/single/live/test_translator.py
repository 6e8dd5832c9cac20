"""The text that a translator writes, of what its tracker sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from horovod_asl.live import translator as module
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.tracker import Sighting
from horovod_asl.live.translator import Translation, Translator
from tests.single.live.test_speller import seen

FRAME = np.zeros((48, 64, 3), np.uint8)


class Shown:
    """In the tracker's place: it sees what a test shows."""

    def __init__(self, network: HandNetwork) -> None:
        self.sighting = seen(None, 0)

    def see(self, frame: np.ndarray, time_s: float) -> Sighting:
        return self.sighting

    def close(self) -> None:
        pass


class Signer:
    def __init__(self, translator: Translator) -> None:
        self.translator, self._number = translator, 0

    def show(self, label: str | None, frames: int = 10) -> list[Translation]:
        translations = []
        for _ in range(frames):
            self._number += 1
            self.translator._tracker.sighting = seen(label, self._number)
            translations.append(self.translator.see(FRAME, self._number / 15))
        return translations


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Signer]:
    monkeypatch.setattr(module, "Tracker", Shown)
    translator = Translator(HandNetwork())
    yield Signer(translator)
    translator.close()


def test_what_is_practised_is_read_but_not_written(signer: Signer) -> None:
    signer.show("A")
    signer.translator.practise(True)
    assert signer.translator.text == "A"
    practised = signer.show("B") + signer.show("C")
    assert {one.label for frame in practised for one in frame.taken} == {"B", "C"}
    assert max(frame.held.progress for frame in practised if frame.held) == 1
    assert {frame.text for frame in practised} == {"A"}
    signer.translator.practise(False)
    assert signer.show("D")[-1].text == "AD"


def test_a_hand_that_shows_no_letter_is_told_from_one_that_is_read_badly(signer: Signer) -> None:
    assert signer.show("nothing")[-1].problem == "no_letter"
    assert signer.show("A")[-1].problem is None
    assert signer.show(None)[-1].problem == "no_hand"
