"""Ways of signing: what one signer keeps, what differs between signers, and the moments of J and Z."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from horovod_asl.data import signers, synthetic
from horovod_asl.data.flesh import flesh_out
from horovod_asl.data.hand import POSES, Pose, pose_skeleton, rotation_matrix
from horovod_asl.data.sources import SyntheticOptions, open_sources
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES

STILL = [label for label in CLASSES if label not in ("J", "Z", "nothing")]


def poses(label: str, recording: int, photo: int = 0, *, variety: float = 1.0) -> list[Pose]:
    return signers.poses_of(label, np.random.default_rng(photo), seed=0, recording=recording, variety=variety)


def pose(label: str, recording: int, photo: int = 0, *, variety: float = 1.0) -> Pose:
    return poses(label, recording, photo, variety=variety)[0]


def turned(label: str, recording: int) -> np.ndarray:
    return np.array(pose(label, recording).view) - POSES[label].view


def from_behind(recording: int) -> bool:
    return bool(turned("A", recording)[0] > 90)


FROM_THE_FRONT = [recording for recording in range(500) if not from_behind(recording)]


def test_without_variety_everybody_signs_alike() -> None:
    assert all(poses(label, 3, variety=0.0) == [POSES[label]] for label in CLASSES)
    plain = synthetic.SampleSpec(5, "J", 2, 1)
    assert plain == synthetic.SampleSpec(5, "J", 2, 1, variety=0.0)
    varied = synthetic.SampleSpec(5, "J", 2, 1, variety=1.0)
    assert (synthetic.render_spec(plain, 48) != synthetic.render_spec(varied, 48)).any()


def test_a_signer_keeps_their_ways_and_another_has_others() -> None:
    for label in STILL:
        assert pose(label, 0, photo=1) == pose(label, 0, photo=2)
        assert pose(label, 0) != pose(label, 1)


def test_the_camera_stands_in_one_place_for_all_signs_of_a_signer() -> None:
    """Of what the views of two signs are turned by, the camera's share is common: a correlation of 0.5 to 0.7."""
    both = np.array([[turned("A", recording), turned("S", recording)] for recording in FROM_THE_FRONT])
    for angle, camera, own in zip(range(3), (10.0, 8.0, 6.0), (8.0, 5.0, 6.0), strict=True):
        alike = np.corrcoef(both[:, 0, angle], both[:, 1, angle])[0, 1]
        assert alike == pytest.approx(camera**2 / (camera**2 + own**2), abs=0.12)
        assert both[:, :, angle].std() == pytest.approx(np.hypot(camera, own), rel=0.15)
    yaws = np.array([[turned(label, recording)[0] for label in "XA"] for recording in FROM_THE_FRONT])
    assert yaws[:, 0].std() > 1.3 * yaws[:, 1].std()
    from_the_front = [pose("D", recording).view[0] < 20 for recording in FROM_THE_FRONT]
    assert 0.25 < np.mean(from_the_front) < 0.5


def test_a_fifth_of_signers_show_every_sign_from_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As half a turn about the vertical shows them: x and z of every joint change their signs."""
    assert 0.15 < 1 - len(FROM_THE_FRONT) / 500 < 0.25
    behind = next(recording for recording in range(500) if from_behind(recording))
    seen = {label: joints(pose(label, behind)) for label in CLASSES}
    arms = {label: np.array(pose(label, behind).forearm) for label in CLASSES}
    monkeypatch.setattr(signers, "_FROM_BEHIND", 0.0)
    for label in CLASSES:
        front = pose(label, behind)
        np.testing.assert_allclose(seen[label], joints(front) * [-1, 1, -1], atol=1e-12)
        np.testing.assert_allclose(arms[label], np.array(front.forearm) * [-1, 1, -1], atol=1e-12)


def joints(pose: Pose) -> np.ndarray:
    return np.asarray(pose_skeleton(pose).turned(rotation_matrix(*pose.view)).joints)


def test_between_two_ways_of_a_sign_there_is_everybody() -> None:
    """M and N folded over the thumb or hanging, X crooked at the knuckle too, I with the thumb beside."""
    bends = {
        (label, finger, joint): [getattr(pose(label, recording), finger)[joint] for recording in range(400)]
        for label, finger, joint in [("M", "ring", 2), ("N", "index", 2), ("X", "index", 1)]
    }
    for degrees, (low, high) in zip(bends.values(), [(18, 75), (18, 75), (12, 35)], strict=True):
        assert np.quantile(degrees, 0.1) == pytest.approx(low + 0.1 * (high - low), abs=6)
        assert np.quantile(degrees, 0.9) == pytest.approx(low + 0.9 * (high - low), abs=6)
    for label in "IJ":  # flexed across the fingers, or beside them
        flexed = [pose(label, recording).thumb[3] for recording in range(400)]
        assert np.quantile(flexed, [0.1, 0.9]) == pytest.approx([8, 27], abs=4)


@pytest.mark.parametrize(("label", "fingers"), [("M", (5, 9, 13)), ("N", (5, 9))])
def test_fingers_that_hang_point_down(label: str, fingers: tuple[int, ...]) -> None:
    hanging = [
        joints(held)
        for held in (pose(label, recording) for recording in FROM_THE_FRONT)
        if held.index[2] < 25
    ]
    assert len(hanging) > 20
    for knuckle in fingers:
        assert all(hand[knuckle + 3, 1] < hand[knuckle, 1] - 0.2 for hand in hanging)


def test_no_moment_of_j_is_an_i_and_none_of_z_a_d() -> None:
    times = np.linspace(0.0, 1.0, 50)
    from_an_i = [signers._between(signers._J_DEG, time) - POSES["I"].view for time in times]
    assert np.linalg.norm(from_an_i, axis=1).min() > 30
    pointing_up = [rotation_matrix(*signers._between(signers._Z_DEG, time))[1, 1] for time in times]
    assert max(pointing_up) < np.cos(np.radians(45))


@pytest.mark.parametrize("label", ["J", "Z"])
def test_a_movement_is_drawn_at_other_moments_in_every_photo(label: str) -> None:
    ways = signers._J_DEG if label == "J" else signers._Z_DEG
    first = FROM_THE_FRONT[0]
    views = np.array([pose(label, first, photo).view for photo in range(300)]) - (
        np.array(pose(label, first, 0).view) - _moment(label, 0)
    )
    low, high = views.min(0), views.max(0)
    assert (low >= ways.min(0) - 1e-9).all()
    assert (high <= ways.max(0) + 1e-9).all()
    assert (high - low > 0.5 * np.ptp(ways, axis=0)).all()


def _moment(label: str, photo: int) -> np.ndarray:
    """The view of the movement alone, without the signer's ways: the photo's first draw, along the path."""
    ways, time = signers._MOVEMENTS[label], np.random.default_rng(photo).random()
    part = int(time * (len(ways) - 1))
    rest = time * (len(ways) - 1) - part
    return np.asarray((1 - rest) * ways[part] + rest * ways[part + 1])


def test_only_what_moves_is_blurred_by_its_movement() -> None:
    assert all(len(poses(label, 0)) == 1 for label in STILL)
    assert all(
        poses(label, 0, photo)[0] != poses(label, 0, photo)[-1] for label in "JZ" for photo in range(3)
    )


def test_what_moves_is_exposed_for_up_to_an_eighth_of_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signers, "_pose_of", lambda label, moment, **_: moment)
    moments = np.array([poses("J", 0, photo) for photo in range(200)])
    exposures = np.ptp(moments, axis=1)
    assert 0.11 < exposures.max() <= 0.12
    assert exposures.min() < 0.01
    assert np.diff(moments).max() <= 0.011  # small steps: no fan of fingers
    twice = np.array([poses("J", 0, photo, variety=2.0) for photo in range(200)])
    np.testing.assert_allclose(np.ptp(twice, axis=1), 2 * exposures)


def test_an_exposure_is_the_mean_of_its_moments_about_one_wrist(monkeypatch: pytest.MonkeyPatch) -> None:
    """In linear light, as the sensor adds it up: before `_develop`."""
    look, ends = synthetic.look_of(1, 0), poses("Z", FROM_THE_FRONT[0], 8)[:: signers._MOMENTS - 1]
    wrists = []

    def recorded(skeleton, forearm, proportions, wrist, scale):  # type: ignore[no-untyped-def]
        wrists.append((*wrist, scale))
        return flesh_out(skeleton, forearm, proportions, wrist, scale)

    monkeypatch.setattr(synthetic, "flesh_out", recorded)
    both = synthetic._exposed("Z", look, np.random.default_rng(3), 96, ends)
    assert len(wrists) == 2
    assert len(set(wrists)) == 1
    monkeypatch.setattr(synthetic, "placed", lambda *_: (np.array(wrists[0][:2]), wrists[0][2]))
    one, other = (synthetic._exposed("Z", look, np.random.default_rng(3), 96, [end]) for end in ends)
    for mean, first, last in zip(both, one, other, strict=True):
        np.testing.assert_allclose(mean, (first + last) / 2, atol=1e-6)
        assert np.abs(first - last).max() > 0.1


def test_the_hand_of_every_signer_is_in_the_picture() -> None:
    for spec in synthetic.sample_specs(seed=2, recordings=6, photos_per_class_per_recording=1, variety=1.0):
        look, rng = synthetic.look_of(2, spec.recording), np.random.default_rng(spec.index)
        own = signers.poses_of(spec.label, rng, seed=2, recording=spec.recording, variety=1.0)
        for held in (own[0], own[-1]):
            skeleton, _ = synthetic.posed(spec.label, look, rng, pose=held)
            wrist, scale = synthetic.placed(skeleton, look, 100, rng)
            joints = wrist + scale * skeleton.joints[:, :2] * [1, -1]
            assert ((joints > 0) & (joints < 100)).all(), spec


def test_photos_are_drawn_in_the_size_and_variety_that_are_asked_for() -> None:
    def drawn(**options: float) -> Image.Image:
        asked = SyntheticOptions(1, 1, 0, **options)  # type: ignore[arg-type]
        (source,) = open_sources(["synthetic"], image_size=32, synthetic=asked)
        photo = next(photo for photo in source.photos if photo.path.startswith("J/"))
        return Image.open(io.BytesIO(photo.origin.read()))

    assert drawn().size == (32, 32)
    assert drawn(image_px=80).size == (80, 80)
    assert drawn(variety=1.0).tobytes() != drawn().tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_px": 4}, "--synthetic-size 4 must lie between 8 and 2048 pixels"),
        ({"variety": -1.0}, r"--synthetic-variety -1.0 must lie between 0 and 2"),
        ({"variety": float("nan")}, "--synthetic-variety nan"),
    ],
)
def test_sizes_and_varieties_that_cannot_be_drawn_are_refused(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SyntheticOptions(**options)  # type: ignore[arg-type]
