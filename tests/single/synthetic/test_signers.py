"""Ways of signing: what one signer keeps, what differs between signers, and the moments of J and Z."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.sources.sources import SyntheticOptions, open_sources
from horovod_asl.synthetic import render, signers
from horovod_asl.synthetic.pose import POSES, Pose

STILL = [label for label in CLASSES if label not in ("J", "Z", "nothing")]


def pose(label: str, recording: int, photo: int = 0, *, variety: float = 1.0) -> Pose:
    return signers.pose_of(label, np.random.default_rng(photo), seed=0, recording=recording, variety=variety)


def turned(label: str, recording: int) -> np.ndarray:
    return np.array(pose(label, recording).view) - POSES[label].view


def test_without_variety_everybody_signs_alike() -> None:
    assert all(pose(label, 3, variety=0.0) is POSES[label] for label in CLASSES)
    plain = render.SampleSpec(5, "J", 2, 1)
    assert plain == render.SampleSpec(5, "J", 2, 1, variety=0.0)
    varied = render.SampleSpec(5, "J", 2, 1, variety=1.0)
    assert (render.render_spec(plain, 48) != render.render_spec(varied, 48)).any()


def test_a_signer_keeps_their_ways_and_another_has_others() -> None:
    for label in STILL:
        assert pose(label, 0, photo=1) == pose(label, 0, photo=2)
        assert pose(label, 0) != pose(label, 1)


def test_the_camera_stands_in_one_place_for_all_signs_of_a_signer() -> None:
    """Of what the views of two signs are turned by, the camera's share is common: a correlation of 0.5 to 0.7."""
    both = np.array([[turned("A", recording), turned("S", recording)] for recording in range(400)])
    for angle, camera, own in zip(range(3), (10.0, 8.0, 6.0), (8.0, 5.0, 6.0), strict=True):
        alike = np.corrcoef(both[:, 0, angle], both[:, 1, angle])[0, 1]
        assert alike == pytest.approx(camera**2 / (camera**2 + own**2), abs=0.12)
        assert both[:, :, angle].std() == pytest.approx(np.hypot(camera, own), rel=0.15)
    yaws = np.array([[turned(label, recording)[0] for label in "XA"] for recording in range(400)])
    assert yaws[:, 0].std() > 1.3 * yaws[:, 1].std()
    from_the_front = [pose("D", recording).view[0] < 20 for recording in range(400)]
    assert 0.25 < np.mean(from_the_front) < 0.5


@pytest.mark.parametrize("label", ["J", "Z"])
def test_a_movement_is_drawn_at_other_moments_in_every_photo(label: str) -> None:
    """From the sign's beginning on, but for J's first fifth, which is an I."""
    ways = signers._J_DEG if label == "J" else signers._Z_DEG
    views = np.array([pose(label, 0, photo).view for photo in range(300)]) - (
        np.array(pose(label, 0, 0).view) - _moment(label, 0)
    )
    low, high = views.min(0), views.max(0)
    assert (low >= ways.min(0) - 1e-9).all()
    assert (high <= ways.max(0) + 1e-9).all()
    assert (high - low > 0.5 * np.ptp(ways, axis=0)).all()
    assert np.linalg.norm(views - ways[0], axis=1).min() > (20.0 if label == "J" else 0.0)


def _moment(label: str, photo: int) -> np.ndarray:
    """The view of the movement alone, without the signer's ways: the photo's one draw, along the path."""
    ways, first = (signers._J_DEG, 0.2) if label == "J" else (signers._Z_DEG, 0.0)
    time = first + (1.0 - first) * np.random.default_rng(photo).random()
    part = int(time * (len(ways) - 1))
    rest = time * (len(ways) - 1) - part
    return np.asarray((1 - rest) * ways[part] + rest * ways[part + 1])


def test_the_hand_of_every_signer_is_in_the_picture() -> None:
    for spec in render.sample_specs(seed=2, recordings=6, photos_per_class_per_recording=1, variety=1.0):
        look, rng = render.look_of(2, spec.recording), np.random.default_rng(spec.index)
        own = signers.pose_of(spec.label, rng, seed=2, recording=spec.recording, variety=1.0)
        skeleton, _ = render.posed(spec.label, look, rng, pose=own)
        wrist, scale = render.placed(skeleton, look, 100, rng)
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
