"""Films of the drawn hand: the same bytes from a seed, letters in time, J and Z on their paths, double letters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from horovod_asl.errors import UserError
from horovod_asl.synthetic.film import (
    Film,
    FilmSpec,
    film_frames,
    idle_frames,
    open_film,
    open_idle_film,
)
from horovod_asl.synthetic.motion import STEP_S, Posture, Span, Track, minimum_jerk
from horovod_asl.synthetic.pose import POSES, Pose

RIGHT, LEFT = 1, 25
"""Seeds of a right-handed and of a left-handed signer."""
TIPS = [4, 8, 12, 16, 20]


def path(film: Film, span: Span, joint: int, points: int = 61) -> np.ndarray:
    """Where a joint is during a letter, (points, 2) pixels, as a right-handed signer's viewer sees it."""
    times = np.linspace(span.start_s, span.end_s - 1e-6, points)
    places = np.array([film.joints(float(time))[joint] for time in times]) * film.size
    return places * [-1, 1] if film.left_handed else places


def test_the_same_spec_gives_the_same_bytes_in_any_order() -> None:
    spec = FilmSpec("HI", 3, 3.0, width=320, height=240)
    whole = [frame.pixels for frame in film_frames(spec)]
    again = open_film(spec)
    assert len(whole) == again.frames
    assert whole[0].shape == (240, 320, 3)
    for number in (again.frames // 2, again.frames // 3, 0, again.frames - 1):
        assert (again.frame(number).pixels == whole[number]).all()
    other = open_film(FilmSpec("HI", 4, 3.0, width=320, height=240))
    assert (other.frame(0).pixels != whole[0]).any()


@pytest.mark.parametrize("speed", [1.0, 2.0, 3.5])
def test_letters_come_at_the_speed_that_is_asked_for(speed: float) -> None:
    text = "BLACK QUARTS VEX MY WHISKED FOPS"
    film = open_film(FilmSpec(text, 5, speed, frames_per_second=30))
    spans = film.track.spans
    assert [span.label for span in spans] == [{" ": "space"}.get(letter, letter) for letter in text]
    ends = np.array([span.end_s for span in spans])
    assert np.diff(ends).mean() == pytest.approx(1 / speed, rel=0.03)
    assert np.diff(ends).std() > 0.05 / speed  # nobody signs like a clock
    for before, after in itertools.pairwise(spans):
        assert before.end_s < after.start_s < after.end_s
        middle = (after.start_s + after.end_s) / 2
        assert film.track.label_at(middle) == after.label
        assert film.track.label_at((before.end_s + after.start_s) / 2) is None


def test_the_frames_carry_the_label_of_their_time() -> None:
    film = open_film(FilmSpec("AB", 1, 2.0, width=160, height=120, frames_per_second=20))
    frames = [film.frame(number) for number in range(film.frames)]
    assert [frame.time_s for frame in frames] == pytest.approx([number / 20 for number in range(film.frames)])
    seen = [label for label, _ in itertools.groupby(frame.label for frame in frames)]
    assert seen == [None, "A", None, "B", None]


def test_a_letter_is_held_as_its_pose_says_and_holds_still() -> None:
    film = open_film(FilmSpec("KFY", 8, 1.0, variety=0.0))
    for span in film.track.spans:
        times = np.linspace(span.start_s, span.end_s, 9)
        rows = [Posture.of_row(film.row(float(time))).pose for time in times]
        pose = POSES[span.label]
        for held in rows:
            assert np.abs(held.fingers - pose.fingers).max() < 6
            assert np.abs(np.subtract(held.view, pose.view)).max() < 8
        tips = np.array([film.joints(float(time))[TIPS] * film.size for time in times])
        assert np.ptp(tips, axis=0).max() < 0.1 * film.hand_px


def strokes(points: np.ndarray, number: int) -> np.ndarray:
    """The displacement in each of so many equal times, (number, 2)."""
    at = np.linspace(0, len(points) - 1, number + 1).round().astype(int)
    return np.diff(points[at], axis=0)


@pytest.mark.parametrize("seed", [RIGHT, LEFT, 9])
def test_z_goes_across_back_and_across_as_its_signer_sees_it(seed: int) -> None:
    """A right-handed signer's viewer sees it in a mirror: to the left, down to the right, to the left."""
    film = open_film(FilmSpec("Z", seed, 1.0))
    first, diagonal, last = strokes(path(film, film.track.spans[0], joint=8), 3) / film.hand_px
    assert first == pytest.approx([-0.6, 0.0], abs=0.15)
    assert diagonal == pytest.approx([0.6, 0.45], abs=0.15)
    assert last == pytest.approx([-0.6, 0.0], abs=0.15)


@pytest.mark.parametrize("seed", [RIGHT, LEFT, 9])
def test_j_goes_down_and_hooks_as_its_signer_sees_it(seed: int) -> None:
    """The hook is to the signer's left of a right hand, which is the viewer's right."""
    film = open_film(FilmSpec("J", seed, 1.0))
    points = path(film, film.track.spans[0], joint=20) / film.hand_px
    points -= points[0]
    lowest = int(points[:, 1].argmax())
    assert 0.4 < points[lowest, 1] < 0.8
    assert 0.1 < points[lowest, 0] < 0.45
    assert points[-1, 0] > points[lowest, 0] + 0.15
    assert 0.1 < points[-1, 1] < points[lowest, 1] - 0.15
    down = int((points[:, 1] > 0.25).argmax())
    assert abs(points[down, 0]) < 0.12  # straight down first


def test_one_signer_in_ten_is_left_handed_and_mirrored() -> None:
    left = [open_film(FilmSpec("A", seed, width=64, height=48)).left_handed for seed in range(200)]
    assert 8 <= sum(left) <= 34
    assert left[LEFT]
    assert not left[RIGHT]
    for seed in (LEFT, RIGHT):  # in L the thumb points to the other side
        film = open_film(FilmSpec("L", seed, 1.0))
        joints = film.joints((film.track.spans[0].start_s + film.track.spans[0].end_s) / 2)
        assert (joints[4, 0] < joints[9, 0]) == film.left_handed


@pytest.mark.parametrize("seed", [4, LEFT])
def test_the_hand_is_drawn_where_its_joints_are(seed: int) -> None:
    film = open_film(FilmSpec("W", seed, 1.0, frames_per_second=30))
    span = film.track.spans[0]
    number = round((span.start_s + span.end_s) / 2 * 30)
    changed = np.abs(film.frame(number).pixels.astype(int) - film.frame(0).pixels).max(-1) > 25
    x, y = (film.joints(number / 30) * film.size).astype(int).T
    assert changed[y, x].mean() > 0.85
    far = np.ones_like(changed)
    far[max(y.min() - 40, 0) :, max(x.min() - 60, 0) : x.max() + 60] = False
    assert changed[far].mean() < 0.001


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_double_letter_moves_in_between(seed: int) -> None:
    """It slides to the signer's right, the viewer's left, or lets go; held, it moves by less than half of that."""
    film = open_film(FilmSpec("OLLO", seed, 2.0))
    first, second = film.track.spans[1:3]
    side = -1 if film.left_handed else 1

    def tips(start_s: float, end_s: float) -> np.ndarray:
        times = np.linspace(start_s, end_s, 15)
        return np.array([film.joints(float(time))[TIPS] * film.size for time in times]) / film.hand_px

    between = tips(first.end_s, second.start_s)
    moved = float(np.linalg.norm(between - between[0], axis=-1).max())
    held = float(np.linalg.norm(np.ptp(tips(second.start_s, second.end_s), axis=0), axis=-1).max())
    assert moved > 0.15
    assert held < moved / 2
    slid = side * float((between[-1] - between[0])[:, 0].mean())
    assert slid < -0.15 or abs(slid) < 0.12
    assert (slid < -0.15) != (_opened(film, first, second) > 15)


def _opened(film: Film, first: Span, second: Span) -> float:
    """By how many degrees the little finger's middle joint is straighter between two letters."""
    times = np.linspace(first.end_s, second.start_s, 15)
    bends = [Posture.of_row(film.row(float(time))).pose.pinky[2] for time in times]
    return bends[0] - min(bends)


def test_both_kinds_of_double_letters_are_drawn() -> None:
    films = [open_film(FilmSpec("OLLO", seed, 2.0, width=64, height=48)) for seed in range(1, 9)]
    assert {_opened(film, *film.track.spans[1:3]) > 15 for film in films} == {True, False}


def test_words_are_set_apart_by_the_sign_or_by_a_gap_out_of_sight() -> None:
    signed = open_film(FilmSpec("A B", 1, 2.0))
    assert [span.label for span in signed.track.spans] == ["A", "space", "B"]
    gap = open_film(FilmSpec("A B", 1, 2.0, spaces="gap"))
    a, b = gap.track.spans
    assert (a.label, b.label) == ("A", "B")
    times = np.arange(a.end_s, b.start_s, 0.02)
    away = [bool((gap.joints(float(time))[:, 1] > 1).all()) for time in times]
    assert 0.02 * sum(away) > 1.0


def test_del_is_signed_on_request() -> None:
    assert [span.label for span in open_film(FilmSpec("AB<", 1)).track.spans] == ["A", "B", "del"]


@pytest.mark.parametrize("text", ["a", "A1", "É", "A\n", "", "  "])
def test_what_cannot_be_spelled_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="the manual alphabet has A to Z"):
        film_frames(FilmSpec(text))


def test_an_idle_hand_signs_nothing_and_moves() -> None:
    film = open_idle_film(2, 30.0, width=160, height=120)
    assert film.frames == 30 * film.frames_per_second
    assert film.track.spans == []
    joints = np.array([film.joints(float(time)) for time in np.arange(0, 30, 0.1)])
    in_sight = (joints[:, :, 1] < 1).all(1)
    assert in_sight.mean() > 0.5
    assert np.linalg.norm(np.diff(joints[:, 8], axis=0), axis=-1)[in_sight[1:]].mean() > 0.005
    first = next(idle_frames(2, 2.0))
    assert (first.label, first.pixels.shape) == (None, (480, 640, 3))


def test_a_movement_starts_and_ends_slowly() -> None:
    """As Flash and Hogan have it: no speed and no acceleration at both ends, and the greatest speed is 15/8."""
    time = np.linspace(0, 1, 2001)
    speed = np.gradient(minimum_jerk(time), time)
    assert minimum_jerk(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])) == pytest.approx([0, 0, 0.5, 1, 1])
    assert speed.max() == pytest.approx(15 / 8, rel=1e-4)
    assert np.abs(np.gradient(speed, time)[[1, -2]]).max() < 0.1
    assert np.abs(speed[[0, -1]]).max() < 1e-4


def test_what_is_rounded_off_of_pieces_does_not_add_up() -> None:
    pose = Pose((0,) * 5, *[(0,) * 4] * 4)
    track = Track(Posture(pose, (0.5, 0.5)), np.random.default_rng(0))
    for _ in range(1000):
        track.hold(0.3 * STEP_S)
    assert track.end_s == pytest.approx(300 * STEP_S)
    assert len(track.rows()) == 301
