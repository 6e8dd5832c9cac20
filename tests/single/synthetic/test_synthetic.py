"""The built-in sample: the same from anywhere, a hand that keeps its bones, signs that can be told apart."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.synthetic import backgrounds, raster, render
from horovod_asl.synthetic import pose as hand

SIZE = 48
# MediaPipe's joint numbers by digit, root to tip: CMC, MCP, IP, tip for the thumb; MCP, PIP, DIP, tip for a finger.
DIGIT_JOINTS = 1 + np.arange(20).reshape(5, 4)
HAND_CLASSES = [label for label in CLASSES if label != "nothing"]


def rng_of(spec: render.SampleSpec) -> np.random.Generator:
    return np.random.default_rng([spec.seed, spec.recording, CLASS_INDEX[spec.label], spec.index])


def test_specs_cover_the_sample_once_and_are_named_as_files():
    specs = render.sample_specs(seed=3, recordings=2, photos_per_class_per_recording=4)
    assert len(specs) == len({spec.name for spec in specs}) == 2 * len(CLASSES) * 4
    assert specs[0].name == "A/A_r0_0000"
    assert pickle.loads(pickle.dumps(specs[-1])) == specs[-1]


@pytest.mark.parametrize("size", [32, 50, 64, 128])
def test_a_photo_is_square_rgb_bytes_of_any_size(size):
    photo = render.render_spec(render.SampleSpec(0, "Y", 1, 0), size)
    assert photo.shape == (size, size, 3)
    assert photo.dtype == np.uint8
    assert photo.std() > 5


def test_a_spec_gives_the_same_bytes_in_any_order():
    specs = render.sample_specs(seed=1, recordings=2, photos_per_class_per_recording=1)[::5]
    first = [render.render_spec(spec, SIZE).tobytes() for spec in specs]
    render.look_of.cache_clear()
    again = [render.render_spec(spec, SIZE).tobytes() for spec in reversed(specs)]
    assert first == again[::-1]
    assert len(set(first)) == len(specs)


def test_a_spec_gives_the_same_bytes_in_another_process():
    spec = render.SampleSpec(7, "K", 4, 11)
    code = (
        "import hashlib; from horovod_asl.synthetic.render import SampleSpec, render_spec;"
        f"print(hashlib.sha256(render_spec({spec!r}, {SIZE}).tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == hashlib.sha256(render.render_spec(spec, SIZE).tobytes()).hexdigest()


def test_another_seed_gives_other_people():
    looks = [render.look_of(seed, recording) for seed in (0, 1) for recording in range(6)]
    assert len({look.skin for look in looks}) == len({look.room_seed for look in looks}) == 12


def test_recordings_differ_in_skin_light_and_room():
    looks = [render.look_of(0, recording) for recording in range(6)]
    assert {look.room for look in looks} == set(backgrounds.ROOMS)
    assert len({look.light for look in looks}) == 6
    brightness = sorted(sum(look.skin.back) for look in looks)
    assert brightness[-1] > 4 * brightness[0], "the sample should span light and deep skin"
    photos = [render.render_spec(render.SampleSpec(0, "B", r, 0), SIZE).astype(int) for r in range(6)]
    apart = [np.abs(a - b).mean() for i, a in enumerate(photos) for b in photos[:i]]
    assert min(apart) > 8


def test_every_class_is_drawn_differently():
    look = render.look_of(0, 0)
    photos = [render.render(label, look, np.random.default_rng(5), SIZE).astype(int) for label in CLASSES]
    apart = {
        (CLASSES[i], CLASSES[j]): float(np.abs(photos[i] - photos[j]).mean())
        for i in range(len(CLASSES))
        for j in range(i)
    }
    closest = min(apart, key=lambda pair: apart[pair])
    assert apart[closest] > 1.0, closest


@pytest.mark.parametrize(("still", "moved", "finger"), [("I", "J", 4), ("D", "Z", 1)])
def test_signs_that_are_movements_are_tilted(still, moved, finger):
    def pointing(label: str) -> np.ndarray:
        pose = hand.POSES[label]
        skeleton = hand.pose_skeleton(pose).turned(hand.rotation_matrix(*pose.view))
        return skeleton.frames[finger, 0, 1]

    assert np.degrees(np.arccos(pointing(still) @ pointing(moved))) > 25


def test_nothing_is_the_empty_room(monkeypatch):
    monkeypatch.setattr(render, "flesh_out", lambda *_: pytest.fail("a hand was drawn"))
    spec = render.SampleSpec(0, "nothing", 2, 3)
    look, rng = render.look_of(0, 2), rng_of(spec)
    room = backgrounds.paint_room(look.room, look.room_colours, look.room_seed, 2 * SIZE)
    empty = np.sqrt(backgrounds.crop_room(room, SIZE, rng)) * 255
    photo = render.render_spec(spec, SIZE)
    # What is left is exposure, within a sixth, and noise.
    assert np.corrcoef(photo.ravel(), empty.ravel())[0, 1] > 0.95
    assert 0.9 < photo.mean() / empty.mean() < 1.1


def test_empty_rooms_differ():
    photos = [
        render.render_spec(render.SampleSpec(0, "nothing", r, i), SIZE) for r in range(6) for i in (0, 1)
    ]
    assert min(np.abs(a.astype(int) - b).mean() for i, a in enumerate(photos) for b in photos[:i]) > 1.5


def test_the_hand_is_in_the_picture():
    for spec in render.sample_specs(seed=2, recordings=3, photos_per_class_per_recording=2):
        look, rng = render.look_of(2, spec.recording), rng_of(spec)
        skeleton, _ = render.posed(spec.label, look, rng)
        wrist, scale = render.placed(skeleton, look, 100, rng)
        joints = wrist + scale * skeleton.joints[:, :2] * [1, -1]
        assert ((joints > 0) & (joints < 100)).all(), spec


ANGLES = st.floats(-120, 120)
POSES = st.builds(
    hand.Pose,
    thumb=st.tuples(*[ANGLES] * 5),
    **{name: st.tuples(*[ANGLES] * 4) for name in hand.DIGITS[1:]},
)
PROPORTIONS = st.builds(hand.Proportions, *[st.floats(0.8, 1.2)] * 3)


@settings(max_examples=60, deadline=None)
@given(POSES, PROPORTIONS, st.tuples(*[ANGLES] * 3))
def test_bones_keep_their_length_in_any_pose(pose, proportions, view):
    skeleton = hand.pose_skeleton(pose, proportions).turned(hand.rotation_matrix(*view))
    assert skeleton.joints.shape == (21, 3)
    digits = skeleton.joints[DIGIT_JOINTS]
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(digits, axis=1), axis=2), hand.bone_lengths(proportions), atol=1e-12
    )
    frames = skeleton.frames
    np.testing.assert_allclose(
        frames @ frames.swapaxes(-1, -2), np.broadcast_to(np.eye(3), frames.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-9)


def test_an_open_hand_reads_as_anatomy_does():
    joints = hand.pose_skeleton(hand.POSES["nothing"]).joints
    tips = joints[DIGIT_JOINTS[:, 3]]
    assert np.argmax(tips[:, 1]) == 2, "the middle finger is the longest"
    assert (np.diff(tips[:, 0]) < 0).all(), "thumb to pinky, from right to left, palm to the viewer"
    assert 0.85 < tips[2, 1] < 1.05, "the unit is the hand's length"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cones_agree_with_a_row_of_spheres(seed):
    rng = np.random.default_rng(seed)
    start, end = rng.uniform(8, 24, (2, 1, 3)).astype(np.float32)
    ra, rb = rng.uniform(2, 7, (2, 1)).astype(np.float32)
    grid = np.arange(32, dtype=np.float32) + 0.5
    drawn = raster.cone_heights(grid[None, None, :], grid[None, :, None], start, end, ra, rb)[0]
    t = np.linspace(0, 1, 400)[:, None, None]
    (x, y, z), radius = (
        ((1 - t[..., None]) * start[0] + t[..., None] * end[0]).transpose(3, 0, 1, 2),
        ra + t * (rb - ra),
    )
    left = radius**2 - (grid[None, None, :] - x) ** 2 - (grid[None, :, None] - y) ** 2
    spheres = np.where(left > 0, np.sqrt(np.maximum(left, 0)) + z, raster.FAR).max(0)
    both = (drawn > raster.FAR / 2) & (spheres > raster.FAR / 2)
    assert np.mean((drawn > raster.FAR / 2) != (spheres > raster.FAR / 2)) < 0.01
    assert np.quantile(np.abs(drawn - spheres)[both], 0.98) < 0.1


def edges(photos: np.ndarray, cells: int = 6, bins: int = 8) -> np.ndarray:
    """Histograms of gradient directions per cell (Dalal & Triggs, 2005): (n, cells² · bins), unit length."""
    grey = photos.mean(3)
    gy, gx = np.gradient(grey, axis=(1, 2))
    strength, bin_of = np.hypot(gx, gy), ((np.arctan2(gy, gx) / np.pi % 1) * bins).astype(int) % bins
    per_bin = strength[..., None] * (bin_of[..., None] == np.arange(bins))
    side = photos.shape[1] // cells
    cell = per_bin.reshape(len(photos), cells, side, cells, side, bins).sum((2, 4))
    cell = np.sqrt(cell / (np.linalg.norm(cell, axis=3, keepdims=True) + 20))
    return cell.reshape(len(photos), -1)


def test_a_linear_reader_of_edges_reads_an_unseen_recording():
    specs = render.sample_specs(seed=0, recordings=6, photos_per_class_per_recording=4)
    features = edges(np.stack([render.render_spec(spec, SIZE) for spec in specs]))
    labels = np.array([CLASS_INDEX[spec.label] for spec in specs])
    unseen = np.array([spec.recording == 1 for spec in specs])
    mean = features[~unseen].mean(0)
    x, y = features[~unseen] - mean, np.eye(len(CLASSES))[labels[~unseen]]
    weights = np.linalg.solve(x.T @ x + 30.0 * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    accuracy = np.mean(((features[unseen] - mean) @ weights).argmax(1) == labels[unseen])
    assert accuracy > 0.25, f"{accuracy:.2f}; chance is {1 / len(CLASSES):.2f}"
