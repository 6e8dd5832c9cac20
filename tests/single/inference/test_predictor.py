"""`horovod_asl.load().read`: one photo in every form, many, and the places of drawn hands whose joints are known."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import horovod_asl
from horovod_asl.commands import predict
from horovod_asl.errors import UserError
from horovod_asl.hands import finder
from horovod_asl.inference.photo_view import in_photo_pixels, view_photo
from horovod_asl.inference.predictor import NO_HAND, TWO_HANDS, WHOLE_PHOTO, Predictor, Reading
from horovod_asl.inference.readers import PixelReader
from horovod_asl.labels import CLASSES
from horovod_asl.synthetic import backgrounds
from horovod_asl.synthetic.flesh import flesh_out
from horovod_asl.synthetic.render import SampleSpec, _room, look_of, placed, posed, render_spec
from horovod_asl.synthetic.skin import paint
from tests.launching import ROOT, clean_environment
from tests.single.hands.test_hands import drawn_joints
from tests.single.inference.test_classifier import make_run

SIDE = 256
Y = SampleSpec(seed=3, label="Y", recording=1, index=0)
V = SampleSpec(seed=3, label="V", recording=1, index=0)
W = SampleSpec(seed=3, label="W", recording=1, index=0)
EMPTY = SampleSpec(seed=3, label="nothing", recording=2, index=0)


@pytest.fixture(scope="module")
def model() -> Predictor:
    """The model that ships, on the CPU."""
    return horovod_asl.load(device="cpu")


@pytest.fixture(scope="module")
def square() -> np.ndarray:
    return render_spec(Y, SIDE)


@pytest.fixture(scope="module")
def wide(square: np.ndarray) -> np.ndarray:
    """The drawn photo with 150 pixels of its own edge on the left and 250 on the right, then twice as large."""
    padded = np.pad(square, ((0, 0), (150, 250), (0, 0)), mode="edge")
    return np.asarray(
        Image.fromarray(padded).resize((2 * padded.shape[1], 2 * SIDE), Image.Resampling.BICUBIC)
    )


def joints_in_wide() -> np.ndarray:
    return 2 * (drawn_joints(Y, SIDE) * SIDE + [150, 0])


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def assert_same(one: Reading, other: Reading, *, apart: float = 1e-5) -> None:
    assert (one.letter, one.note) == (other.letter, other.note)
    assert next(iter(one.probabilities)) == next(iter(other.probabilities))
    assert one.probabilities == pytest.approx(other.probabilities, abs=apart)
    assert (one.hand is None) == (other.hand is None)
    if one.hand is not None and other.hand is not None:
        assert one.hand.handedness == other.hand.handedness
        assert one.hand.confidence == pytest.approx(other.hand.confidence)
        np.testing.assert_allclose(one.hand.joints, other.hand.joints, atol=0.01)
        np.testing.assert_allclose(one.hand.box, other.hand.box, atol=0.01)


def test_three_lines_read_a_photo(tmp_path: Path, square: np.ndarray) -> None:
    """As docs/api.md has them, in a process of their own; torch is imported by `load` and not before."""
    (tmp_path / "photo.jpg").write_bytes(encoded(square, "JPEG", quality=95))
    lines = (ROOT / "docs" / "api.md").read_text().split("```python\n")[1].split("```")[0]
    first, rest = lines.split("\n", 1)
    program = (
        f"{first}\nimport sys\nassert 'torch' not in sys.modules\n{rest}\nprint(reading.letter, reading.note)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.split()  # by the page's own line, then by this test's
    assert (printed[0], printed[-2:]) == ("Y", ["Y", "None"])


def test_every_form_of_a_photo_gives_the_same_reading(model: Predictor, wide: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(encoded(wide))
    expected = model.read(path)
    assert expected.letter == "Y"
    assert sorted(expected.probabilities) == sorted(CLASSES)
    assert sum(expected.probabilities.values()) == pytest.approx(1, abs=1e-5)
    shares = list(expected.probabilities.values())
    assert shares == sorted(shares, reverse=True)
    for form in (str(path), path.read_bytes(), Image.open(path), wide, wide[:, ::-1][:, ::-1]):
        assert_same(model.read(form), expected)


def test_many_are_read_as_one_by_one_in_order(model: Predictor, square: np.ndarray) -> None:
    photos = [square, encoded(render_spec(EMPTY, SIDE)), Image.fromarray(render_spec(V, SIDE))]
    one_by_one = [model.read(photo) for photo in photos]
    for many in (photos, tuple(photos), iter(photos)):
        for one, other in zip(model.read(many), one_by_one, strict=True):
            assert_same(one, other)
    stacked = np.stack([square, render_spec(V, SIDE)])
    for one, other in zip(model.read(stacked), [one_by_one[0], one_by_one[2]], strict=True):
        assert_same(one, other)
    assert model.read([]) == []


@pytest.mark.parametrize("form", ["wide", "tall", "turned by EXIF"])
def test_joints_and_box_are_in_the_photo_s_own_pixels(model: Predictor, wide: np.ndarray, form: str) -> None:
    truth = joints_in_wide()
    if form == "tall":
        photo, truth = encoded(wide.transpose(1, 0, 2)), truth[:, ::-1]
    elif form == "wide":
        photo = encoded(wide)
    else:  # stored lying on its side; orientation 6: to be turned by 90° clockwise
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = encoded(np.rot90(wide), "PNG", exif=exif.tobytes())
        assert_same(model.read(Image.open(io.BytesIO(photo))), model.read(photo))
    hand = model.read(photo).hand
    assert hand is not None
    assert (hand.joints.shape, hand.joints.dtype) == ((21, 3), np.float32)
    size = np.ptp(truth, axis=0).max()
    assert np.median(np.linalg.norm(hand.joints[:, :2] - truth, axis=1)) < 0.12 * size
    left, top, right, bottom = hand.box
    assert ((truth >= [left, top]) & (truth <= [right, bottom])).all(1).mean() > 0.8
    assert (right - left) * (bottom - top) < (1.7 * size) ** 2


@pytest.mark.parametrize(("width", "height"), [(900, 300), (301, 877), (640, 640), (50, 20)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_points_of_the_square_go_back_to_where_they_are_in_the_photo(
    width: int, height: int, orientation: int
) -> None:
    """A white spot is where it was put: its centre of mass in the square, taken back, against the photo's own."""
    seen = np.zeros((height, width, 3), np.uint8)
    x, y, radius = int(0.7 * width), int(0.3 * height), max(3, width // 40)
    seen[y - radius : y + radius + 1, x - radius : x + radius + 1] = 255
    stored = {1: seen, 3: seen[::-1, ::-1], 6: np.rot90(seen), 8: np.rot90(seen, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    reader = PixelReader(384)
    view = view_photo(encoded(stored, "PNG", exif=exif.tobytes()), reader)
    assert view.size == (width, height)
    mass = view.given[:, :, 0].astype(float)
    rows, columns = np.indices(mass.shape)
    centre = np.array([[(columns * mass).sum() + mass.sum() / 2, (rows * mass).sum() + mass.sum() / 2]])
    placed = in_photo_pixels(centre / mass.sum() / 384, view)
    np.testing.assert_allclose(placed, [[x + 0.5, y + 0.5]], atol=1.0)


def drawn_flesh(spec: SampleSpec, side: int) -> np.ndarray:
    """Where a drawn photo shows the hand, without the forearm: bool (side, side)."""
    look = look_of(spec.seed, spec.recording)
    rng = np.random.default_rng([spec.seed, spec.recording, CLASSES.index(spec.label), spec.index])
    backgrounds.crop_room(_room(look, 2 * side), side, rng)  # takes its draws first, as `render` does
    skeleton, forearm = posed(spec.label, look, rng)
    wrist, scale = placed(skeleton, look, 2 * side, rng)
    _, coverage = paint(
        flesh_out(skeleton, forearm, look.proportions, wrist, scale), look.skin, look.light, 2 * side
    )
    places = np.moveaxis(np.indices(coverage.shape)[::-1], 0, -1)
    is_forearm = (places - wrist) @ (forearm[:2] * [1, -1]) > 0
    return ((coverage > 0.5) & ~is_forearm)[::2, ::2]


@pytest.mark.parametrize("spec", [Y, V], ids=["Y", "V"])
def test_the_box_holds_the_drawn_hand(model: Predictor, spec: SampleSpec) -> None:
    hand = model.read(render_spec(spec, SIDE)).hand
    assert hand is not None
    left, top, right, bottom = hand.box
    rows, columns = np.nonzero(drawn_flesh(spec, SIDE))
    inside = (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
    assert inside.mean() > 0.93  # a drawn hand is not quite a hand to MediaPipe
    assert (right - left) * (bottom - top) < 2 * np.ptp(rows) * np.ptp(columns)


def test_a_mirrored_photo_has_the_other_hand(model: Predictor, square: np.ndarray) -> None:
    one, other = model.read([square, square[:, ::-1]])
    assert one.hand is not None
    assert other.hand is not None
    assert {one.hand.handedness, other.hand.handedness} == {"left", "right"}


def test_it_says_why_there_is_no_hand_and_where_there_are_two(model: Predictor, square: np.ndarray) -> None:
    none = model.read(render_spec(EMPTY, SIDE))
    assert (none.hand, none.note) == (None, NO_HAND)
    assert model.read(square).note is None
    two = model.read(np.concatenate([render_spec(V, SIDE), render_spec(W, SIDE)], axis=1))
    assert two.note == TWO_HANDS
    assert two.hand is not None


def test_the_second_hand_is_not_looked_for_by_prepare(
    square: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*words: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(finder.HandFinder, "sees_another", forbidden)
    assert finder.shared_finder().find(square)["found"]


def test_grey_rgba_and_palettes_are_read_as_their_files(model: Predictor, square: np.ndarray) -> None:
    grey = np.asarray(Image.fromarray(square).convert("L"))
    cut_out = np.dstack([square, np.where(np.indices((SIDE, SIDE))[1] < 20, 0, 255).astype(np.uint8)])
    for array in (grey, cut_out):
        assert_same(model.read(array), model.read(encoded(array)))
    assert_same(model.read(grey[..., None]), model.read(grey))
    palette = Image.fromarray(square).convert("P")
    file = io.BytesIO()
    palette.save(file, "PNG")
    assert_same(model.read(palette), model.read(file.getvalue()))
    assert palette.mode == "P"


def test_it_agrees_with_predict(
    model: Predictor, wide: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(render_spec(EMPTY, SIDE)).save(tmp_path / "b.png")
    assert predict.main([str(tmp_path), "--json", "--top", "29"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    readings = model.read([line["photo"] for line in lines])
    for line, reading in zip(lines, readings, strict=True):
        assert (line["class"], line["note"]) == (reading.letter, reading.note)
        said = {row["class"]: row["probability"] for row in line["top"]}
        assert list(said) == list(reading.probabilities)
        assert said == pytest.approx(reading.probabilities, abs=1e-5)
        assert (line["hand"] is None) == (reading.hand is None)
        if reading.hand is not None:
            np.testing.assert_allclose(line["hand"]["joints"], reading.hand.joints, atol=0.01)
            np.testing.assert_allclose(line["hand"]["box"], reading.hand.box, atol=0.01)
            assert line["hand"]["handedness"] == reading.hand.handedness
    assert [reading.hand is None for reading in readings] == [False, True]


def test_it_abstains(square: np.ndarray, model: Predictor) -> None:
    best = next(iter(model.read(square).probabilities.values()))
    assert Predictor(model.classifier, abstain=best + 1e-3).read(square).letter is None
    with pytest.raises(UserError, match="abstain 2 must be a probability"):
        horovod_asl.load(abstain=2)


def test_a_run_of_whole_photos_looks_for_no_hand(tmp_path: Path, square: np.ndarray) -> None:
    whole = horovod_asl.load(make_run(tmp_path / "run"), "cpu").read(square)
    assert (whole.hand, whole.note, len(whole.probabilities)) == (None, WHOLE_PHOTO, len(CLASSES))


@pytest.mark.parametrize(
    ("photo", "part"),
    [
        (lambda p: p / "absent.jpg", r"absent\.jpg: cannot be read: No such file"),
        (lambda p: str(p), "cannot be read: Is a directory"),
        (lambda p: b"", "the photo: empty file"),
        (lambda p: b"nothing", "the photo: not a picture"),
        (lambda p: np.zeros((8, 8, 3)), r"an array float64 \(8, 8, 3\) is no photo: give uint8 RGB"),
        (lambda p: np.zeros((8, 8, 2), np.uint8), r"uint8 \(8, 8, 2\) is no photo"),
        (lambda p: np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\) is no photo"),
        (lambda p: np.zeros(8, np.uint8), r"uint8 \(8,\) is no photo"),
        (lambda p: 3, "a photo cannot be a int: give a path"),
        (lambda p: [np.zeros((8, 8, 3), np.uint8), b"x"], r"photo 1 \(from 0\): not a picture"),
        (lambda p: [p / "absent.jpg"], r"absent\.jpg: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    model: Predictor, tmp_path: Path, photo: Callable[[Path], object], part: str
) -> None:
    with pytest.raises(ValueError, match=part) as error:
        model.read(photo(tmp_path))  # type: ignore[call-overload]
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)


def test_runs_and_devices_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder"):
        horovod_asl.load(tmp_path)
    for device in ("gpu", "cuda:99", "meta"):
        with pytest.raises(UserError, match=f"device '{device}'"):
            horovod_asl.load(device=device)
