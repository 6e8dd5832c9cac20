"""The annotated film: constant rate from uneven times, and what is drawn is where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from horovod_asl.live.speller import Held
from horovod_asl.live.translator import Translation
from horovod_asl.translation.annotate import at_rate, draw

SIZE = (320, 240)


def seen(**facts: object) -> Translation:
    nothing: dict[str, object] = {
        "time_s": 0.0, "joints": None, "handedness": None, "problem": None, "top": [], "held": None, "taken": [],
        "text": "",
    }  # fmt: skip
    return Translation(**(nothing | facts))  # type: ignore[arg-type]


def changed(text: str = "", **facts: object) -> np.ndarray:
    """Which pixels differ from those of a frame in which nothing is seen, bool (H, W)."""
    frame = np.full((240, 320, 3), 90, np.uint8)
    before, after = draw(frame, seen(), "", SIZE), draw(frame, seen(**facts), text, SIZE)
    assert after.shape == (240, 320, 3)
    assert after.dtype == np.uint8
    return np.asarray((before != after).any(-1))


def test_the_joints_are_drawn_where_they_are() -> None:
    joints = np.random.default_rng(0).uniform((0.4, 0.3), (0.7, 0.6), (21, 2)).astype(np.float32)
    where = changed(joints=joints)
    for x, y in joints * SIZE:
        assert where[round(y), round(x)]
    rows, columns = np.nonzero(where)
    low, high = (joints * SIZE).min(0) - 9, (joints * SIZE).max(0) + 9
    assert low[0] < columns.min() <= columns.max() < high[0]
    assert low[1] < rows.min() <= rows.max() < high[1]


@pytest.mark.parametrize("shift", [-0.5, 0.5, 3.0])
def test_a_hand_that_is_partly_or_wholly_outside_is_no_fault(shift: float) -> None:
    joints = np.random.default_rng(0).uniform(0.3, 0.8, (21, 2)).astype(np.float32) + np.float32(shift)
    assert changed(joints=joints).any() == (shift < 1)


def test_the_ring_fills_as_the_letter_is_held() -> None:
    frame = np.full((240, 320, 3), 90, np.uint8)
    filled = []
    for progress in (0.1, 0.5, 1.0):
        drawn = draw(frame, seen(held=Held("A", 0.9, progress)), "", SIZE).astype(int)
        filled.append((np.abs(drawn - (255, 210, 63)).sum(-1) < 60).sum())
    assert filled[1] / filled[2] == pytest.approx(0.5, abs=0.06)
    assert filled[0] / filled[2] == pytest.approx(0.1, abs=0.06)
    assert not changed(held=Held("space", 0.9, 1.0))[100:].any()


def test_the_end_of_a_long_text_and_the_reason_are_shown() -> None:
    assert changed("HELLO")[200:].any()
    long = "WORD " * 100
    assert np.array_equal(changed(long + "END"), changed("FIRST " + long + "END"))
    assert not np.array_equal(changed(long + "END"), changed(long + "EWE"))
    assert changed(problem="too_dark")[:40, 160:].any()


def test_frames_of_another_size_are_fitted() -> None:
    assert draw(np.zeros((31, 57, 3), np.uint8), seen(), "", (56, 30)).shape == (30, 56, 3)


def test_uneven_times_become_an_even_rate() -> None:
    """Against the definition: at each moment the newest frame that had come."""
    times = [0.0, 0.04, 0.05, 0.31, 0.5, 0.52, 0.54, 1.0]
    frames = [np.full((2, 2, 3), number, np.uint8) for number in range(len(times))]
    shown = [int(frame[0, 0, 0]) for frame in at_rate(zip(times, frames, strict=True), 20)]
    assert shown[:-1] == [max(i for i, t in enumerate(times) if t <= n / 20) for n in range(20)]
    assert shown[-1] == len(times) - 1
    assert list(at_rate([], 20)) == []
