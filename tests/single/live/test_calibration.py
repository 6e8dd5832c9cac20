"""A person's own examples: what they change, and where they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.live.calibration import Examples, Teacher, default_file
from horovod_asl.live.reader import Read
from horovod_asl.live.translator import Translation, Translator

OWN, OTHER = np.eye(2, 16, dtype=np.float32)


def read(embedding: np.ndarray, *, as_held: bool = False) -> Read:
    return Read(np.zeros(len(CLASSES), np.float32), embedding[None], np.array([as_held]))


def test_a_hand_like_an_example_is_read_as_its_letter(tmp_path: Path) -> None:
    examples = Examples(tmp_path / "own" / "examples.npz")
    examples.add("N", read(OWN))
    assert examples.adjusted(read(OWN)).logits.argmax() == CLASS_INDEX["N"]
    moved = examples.adjusted(read(OTHER)).logits
    assert moved[CLASS_INDEX["N"]] == moved.min() < 0
    assert np.count_nonzero(moved) == 1
    assert not examples.adjusted(read(OWN, as_held=True)).logits.any(), "another position is another space"


def test_a_hand_like_an_example_shows_a_letter_whatever_others_take_it_for(tmp_path: Path) -> None:
    examples = Examples(tmp_path / "examples.npz")
    examples.add("N", read(OWN))
    shows_none = Read(np.zeros(len(CLASSES), np.float32), OWN[None], np.array([False]), letter=0.1)
    assert shows_none.probabilities[CLASS_INDEX["nothing"]] > 0.9
    assert examples.adjusted(shows_none).probabilities.argmax() == CLASS_INDEX["N"]
    assert examples.adjusted(Read(shows_none.logits, OTHER[None], np.array([False]), letter=0.1)).letter == 0.1


def test_they_are_kept_and_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "own" / "examples.npz"
    examples = Examples(file)
    for _ in range(100):
        examples.add("N", read(OWN))
    examples.save()
    again = Examples(file)
    assert dict(again.counts) == {"N": 64}
    assert np.array_equal(again.adjusted(read(OWN)).logits, examples.adjusted(read(OWN)).logits)
    again.forget()
    assert not file.exists()
    assert not again.counts
    assert not Examples(file).counts


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "examples.npz"
    file.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match=r"examples\.npz is damaged: delete it"):
        Examples(file)


def test_the_file_is_in_the_user_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_file() == tmp_path / "horovod_asl" / "examples.npz"


def test_a_lesson_takes_a_second_of_hand_and_spells_nothing(tmp_path: Path) -> None:
    class Spelling:
        spells = True

    spelling = Spelling()
    teacher = Teacher(Examples(tmp_path / "examples.npz"), spelling)  # type: ignore[arg-type]

    def frame(time_s: float, seen: Read | None) -> Translation:
        return Translation(time_s, None, None, None, [], None, [], "", read=seen)

    assert teacher.see(frame(0.0, read(OWN))) is None
    teacher.begin("M")
    assert not spelling.spells
    assert teacher.see(frame(1.0, None)) == ("M", 0.0), "it begins with the hand"
    lesson = [teacher.see(frame(2.0 + step / 2, read(OWN))) for step in range(3)]
    assert lesson == [("M", 0.0), ("M", 0.5), ("M", 1.0)]
    assert spelling.spells
    assert teacher.see(frame(4.0, read(OWN))) is None
    assert dict(teacher.counts) == {"M": 3}
    assert (tmp_path / "examples.npz").exists()
    assert Translator.__init__.__annotations__["examples"]
