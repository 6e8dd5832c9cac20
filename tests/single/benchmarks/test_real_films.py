"""Films of webcam photos that were cut around a hand, of photos that the tests draw."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.real_films import FRAMES_PER_SECOND, real_film
from horovod_asl.errors import UserError


@pytest.fixture
def person(tmp_path: Path) -> Path:
    """Each frame of A's run has a grey of its own; B has stills alone."""
    for name, grey in [*((f"A/run-{n:03d}", 10 + 10 * n) for n in range(8)), ("B/still-001", 220)]:
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (200, 200), (grey, grey, grey)).save(path, quality=95)
    return tmp_path


def test_a_run_is_played_there_and_back_in_the_middle_of_a_grey_frame(person: Path) -> None:
    frames = [frame for frame in real_film(person, "A", 1.0, seed=1) if frame.label == "A"]
    assert len(frames) == FRAMES_PER_SECOND
    greys = [int(np.median(frame.pixels[140:340, 220:420])) for frame in frames]
    assert {abs(after - before) for before, after in itertools.pairwise(greys)} <= {9, 10, 11}
    assert (min(greys), max(greys)) == (pytest.approx(10, abs=1), pytest.approx(80, abs=1))
    outside = frames[0].pixels.copy()
    outside[140:340, 220:420] = 128
    assert (outside == 128).all()


def test_letters_last_as_long_as_is_asked_and_words_have_gaps(person: Path) -> None:
    frames = list(real_film(person, "AB A", 0.6))
    runs = [(label, len(list(group))) for label, group in itertools.groupby(frame.label for frame in frames)]
    assert runs == [(None, 30), ("A", 15), ("B", 15), (None, 30), ("A", 15), (None, 30)]
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(len(frames)) / FRAMES_PER_SECOND)
    assert (frames[35].pixels != 128).any()
    assert (frames[65].pixels == 128).all()


def test_a_double_letter_slides_to_the_left(person: Path) -> None:
    frames = [frame.pixels for frame in real_film(person, "BB", 0.6) if frame.label]
    lefts = [int(np.nonzero((pixels > 180).any((0, 2)))[0][0]) for pixels in frames]
    assert lefts[:15] == [220] * 15
    assert lefts[15:20] == sorted(lefts[15:20], reverse=True)
    assert lefts[20:] == [196] * 10


def test_what_a_person_lacks_is_one_line(person: Path) -> None:
    with pytest.raises(UserError, match="has no photos of C: leave it out"):
        next(real_film(person, "ABC"))
    with pytest.raises(UserError, match="cannot spell '1'"):
        next(real_film(person, "A1"))


def test_real_people_spell(real_data: Path) -> None:
    folder = real_data / "webcam" / "hawk"
    if not folder.is_dir():
        pytest.skip(f"no webcam photos in {real_data}")
    frames = list(real_film(folder, "HI"))
    assert [label for label, _ in itertools.groupby(frame.label for frame in frames)] == [None, "H", "I", None]
    assert {frame.pixels.shape for frame in frames} == {(480, 640, 3)}
