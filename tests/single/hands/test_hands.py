"""Finding hands, for real: MediaPipe on drawn hands whose joints are known, and on real photos if there are any."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor
from rich.console import Console

from horovod_asl.commands import inspect
from horovod_asl.errors import UserError
from horovod_asl.hands import bundle as hand_bundle
from horovod_asl.hands import finder as hand_finder
from horovod_asl.hands.finder import FINDER_VERSION, LOOK_PX, HandFinder, shared_finder
from horovod_asl.hands.record import ATTEMPTS, OUTSIDE, box_of, crop, points_in_crop
from horovod_asl.hands.skeleton import FINGER_COLOURS
from horovod_asl.inference.classifier import Classifier
from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.photos.decode import decode_photo
from horovod_asl.prepare.hand_stage import find_chunk
from horovod_asl.prepare.pipeline import PrepareReport
from horovod_asl.sources.sources import SyntheticOptions
from horovod_asl.store.contact_sheet import contact_sheet
from horovod_asl.store.inspection import inspect_store
from horovod_asl.store.store import Store
from horovod_asl.synthetic import backgrounds
from horovod_asl.synthetic.render import SampleSpec, _room, look_of, placed, posed, render_spec
from tests.preparing import prepare_with

CLEAR_SIGNS = ("V", "Y")  # drawn hands are not quite hands to it, these most


def prepare(store: Path, **options: object) -> PrepareReport:
    settings = {
        "image_size": 48,
        "crop_size": 64,
        "hands": True,
        "synthetic": SyntheticOptions(4, 1, 0),
        **options,
    }
    return prepare_with(["synthetic"], store, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of drawn photos with hands. Not to be changed."""
    store = tmp_path_factory.mktemp("stores") / "hands"
    prepare(store)
    return store


def drawn_joints(spec: SampleSpec, size: int) -> np.ndarray:
    """Where the joints of a drawn photo are, (21, 2) as shares of its side."""
    look = look_of(spec.seed, spec.recording)
    rng = np.random.default_rng([spec.seed, spec.recording, CLASS_INDEX[spec.label], spec.index])
    backgrounds.crop_room(_room(look, 2 * size), size, rng)  # takes its draws first, as `render` does
    skeleton, _ = posed(spec.label, look, rng)
    wrist, scale = placed(skeleton, look, 2 * size, rng)
    return (wrist + skeleton.joints[:, :2] * [1, -1] * scale) / (2 * size)


# ---- the finder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", CLEAR_SIGNS)
def test_landmarks_lie_on_the_joints_that_were_drawn(label: str) -> None:
    spec = SampleSpec(seed=3, label=label, recording=1, index=0)
    record = shared_finder().find(render_spec(spec, 256))
    assert record["found"]
    truth = drawn_joints(spec, 256)
    apart = np.linalg.norm(record["image"][:, :2] - truth, axis=1)
    assert np.median(apart) < 0.08 * np.ptp(truth, axis=0).max()


def test_a_mirrored_photo_has_the_other_hand_at_the_mirrored_place() -> None:
    photo = render_spec(SampleSpec(seed=3, label="Y", recording=1, index=0), 256)
    one, other = shared_finder().find(photo), shared_finder().find(photo[:, ::-1])
    assert one["right"] != other["right"]
    mirrored = other["image"][:, :2] * [-1, 1] + [1, 0]
    assert np.abs(one["image"][:, :2] - mirrored).mean() < 0.03


def test_a_dark_photo_is_found_by_a_later_look_and_an_empty_one_by_none() -> None:
    photo = render_spec(SampleSpec(seed=3, label="W", recording=1, index=0), 256)
    dark = shared_finder().find((photo * 0.05).astype(np.uint8))
    assert dark["found"]
    # The hand that the brightened copy showed is dark itself, and looked for again.
    assert dark["attempt"] >= 5
    for recording in range(4):
        empty = render_spec(SampleSpec(seed=3, label="nothing", recording=recording, index=0), 256)
        assert not shared_finder().find(empty)["found"]


@pytest.mark.parametrize("label", ["V", "W"])
def test_a_hand_in_its_own_shadow_is_found_where_it_is(label: str) -> None:
    """All that is no wall has a fifth of the light: the photo as a whole is not dark."""
    spec = SampleSpec(seed=3, label=label, recording=1, index=0)
    photo = render_spec(spec, 256)
    truth = drawn_joints(spec, 256)
    y, x = np.mgrid[0:256, 0:256] / 256
    from_hand = np.min([np.hypot(x - joint[0], y - joint[1]) for joint in truth], axis=0)
    backlit = photo * np.clip(0.2 + 6 * (from_hand - 0.08), 0.2, 1.0)[..., None]
    assert backlit.mean() > 60
    record = shared_finder().find(backlit.astype(np.uint8))
    assert record["found"]
    apart = np.linalg.norm(record["image"][:, :2] - truth, axis=1)
    assert np.median(apart) < 0.1 * np.ptp(truth, axis=0).max()


@pytest.mark.parametrize(("label", "recording"), [("V", 1), ("W", 1), ("L", 2)])
def test_a_hand_in_a_dark_and_noisy_photo_is_found_where_it_is(label: str, recording: int) -> None:
    """An eighth of the light, as a camera that has too little of it: brightened alone, its noise hides the hand."""
    spec = SampleSpec(seed=3, label=label, recording=recording, index=0)
    noise = np.random.default_rng(0).normal(0, 5, (256, 256, 3))
    record = shared_finder().find(np.clip(render_spec(spec, 256) * 0.12 + noise, 0, 255).astype(np.uint8))
    truth = drawn_joints(spec, 256)
    assert record["found"]
    apart = np.linalg.norm(record["image"][:, :2] - truth, axis=1)
    assert np.median(apart) < 0.1 * np.ptp(truth, axis=0).max()


def test_a_small_hand_is_looked_at_again_enlarged_and_lands_where_it_is() -> None:
    photo = render_spec(SampleSpec(seed=3, label="Y", recording=1, index=0), 256)
    large = shared_finder().find(photo)
    canvas = np.full((768, 768, 3), 128, np.uint8)
    small = np.asarray(Image.fromarray(photo).resize((192, 192)))
    canvas[400:592, 100:292] = small
    record = shared_finder().find(canvas)
    assert record["found"]
    there = (large["image"][:, :2] * 192 + [100, 400]) / 768
    assert np.abs(record["image"][:, :2] - there).mean() < 0.012


def test_threads_that_begin_together_share_one_finder_and_leave_standard_error_alone(capfd) -> None:
    """MediaPipe's notes are kept from the terminal while it loads; two threads at once must not lose it for good."""
    hand_finder._finder.cache_clear()
    photo = render_spec(SampleSpec(seed=3, label="Y", recording=1, index=0), 256)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: shared_finder().find(photo), range(8)))
    assert hand_finder._finder.cache_info().misses == 1
    assert all(record == found[0] for record in found)
    os.write(2, b"still heard")
    assert capfd.readouterr().err.endswith("still heard")


def test_real_hands_are_found_and_empty_rooms_have_none(real_data: Path) -> None:
    photos = real_data / "asl_alphabet_train" / "asl_alphabet_train"
    finder = HandFinder()

    def share(label: str) -> float:
        files = sorted((photos / label).glob("*.jpg"))[::15]
        looked = [finder.find(decode_photo(file.read_bytes(), LOOK_PX))["found"] for file in files]
        return float(np.mean(looked))

    assert np.mean([share(label) for label in "ABLNSVY"]) > 0.9
    assert share("nothing") < 0.05  # of 23 photos: none


# ---- boxes and crops -----------------------------------------------------------------------------------------


def test_the_box_turns_with_the_hand_and_grows_with_it() -> None:
    """Held against the geometry: what is done to the landmarks is done to the box."""
    points = np.random.default_rng(0).normal(0.5, 0.1, (21, 3)).astype(np.float32)
    x, y, side, turn = box_of(points)
    for angle in (0.4, -1.2, 2.0):
        cos, sin = np.cos(angle), np.sin(angle)  # clockwise, as y points down
        moved = points.copy()
        moved[:, :2] = points[:, :2] @ np.array([[cos, sin], [-sin, cos]], np.float32) * 1.5 + [0.2, -0.1]
        there = box_of(moved)
        assert there[:2] == (
            pytest.approx((x * cos - y * sin) * 1.5 + 0.2, abs=1e-5),
            pytest.approx((x * sin + y * cos) * 1.5 - 0.1, abs=1e-5),
        )
        assert there[2] == pytest.approx(1.5 * side, rel=1e-5)
        assert (there[3] - turn - angle + np.pi) % (2 * np.pi) == pytest.approx(np.pi, abs=1e-5)


def test_an_upright_hand_has_a_box_that_is_not_turned_and_reaches_beyond_its_fingers() -> None:
    points = np.zeros((21, 3), np.float32)
    points[0, :2] = (0.5, 0.8)
    for finger in range(5):
        for joint in range(4):
            points[1 + 4 * finger + joint, :2] = (0.4 + 0.05 * finger, 0.6 - 0.07 * joint)
    x, y, side, turn = box_of(points)
    assert turn == pytest.approx(0.0, abs=0.3)
    assert (np.abs(points[:, :2] - [x, y]) < side / 2).all()


def test_a_crop_is_what_lies_there_turned_and_black_beyond_the_edge() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    inside = crop(photo, (0.4, 0.5, 0.4, 0.0), 40)
    assert np.array_equal(inside, photo[30:70, 20:60])
    shrunk = crop(photo, (0.5, 0.5, 1.0, 0.0), 50)
    assert np.array_equal(
        shrunk, np.asarray(Image.fromarray(photo).resize((50, 50), Image.Resampling.BILINEAR))
    )
    across = crop(photo, (0.0, 0.0, 1.0, 0.0), 100)
    assert (across[:50] == OUTSIDE).all()
    assert np.array_equal(across[50:, 50:], photo[:50, :50])
    quarter = crop(photo, (0.5, 0.5, 1.0, np.pi / 2), 100)
    # The box is turned clockwise, so what is in it the other way. Its samples lie on the pixels up to rounding, which
    # may move a value by one, and at the rim takes in the black beyond.
    off = np.abs(quarter.astype(int) - np.rot90(photo).astype(int))[1:-1, 1:-1]
    assert off.max() <= 1


def test_the_middle_of_a_crop_is_the_centre_of_its_box() -> None:
    y, x = np.mgrid[0:200, 0:200]
    ramp = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    turned = crop(ramp, (0.6, 0.4, 0.5, 0.7), 101)
    assert turned[50, 50, :2].tolist() == pytest.approx([119.5, 79.5], abs=1.0)
    right = turned[50, 75, :2].astype(float) - turned[50, 50, :2]
    assert np.arctan2(right[1], right[0]) == pytest.approx(0.7, abs=0.05)


def test_a_landmark_lies_in_the_crop_where_the_photo_is_marked_there() -> None:
    upright = Image.fromarray(render_spec(SampleSpec(seed=3, label="Y", recording=1, index=0), LOOK_PX))
    record = shared_finder().find(np.asarray(upright.rotate(40, fillcolor="grey")))
    assert abs(record["box"][3]) > 0.5
    for joint in (0, 4, 12, 20):
        x, y = record["image"][joint, :2] * LOOK_PX
        across, down = np.meshgrid(np.arange(LOOK_PX) + 0.5, np.arange(LOOK_PX) + 0.5)
        dot = np.where(np.hypot(across - x, down - y) < 4, 255, 0).astype(np.uint8)
        shown = crop(np.repeat(dot[..., None], 3, 2), record["box"], 192)[..., 0]
        marked = np.argwhere(shown > 127).mean(0)[::-1] + 0.5
        assert marked == pytest.approx(points_in_crop(record, 192)[joint], abs=1.0)


def test_the_contact_sheet_shows_crops_with_the_fingers_in_their_colours(prepared: Path) -> None:
    store = Store.open(prepared)
    sheet = contact_sheet(store, columns=4)
    assert sheet.width > contact_sheet_of_photos(store).width
    for label in ("V", "nothing"):
        row = int(np.flatnonzero(store.labels == CLASS_INDEX[label])[0])
        x, y = place_of(sheet, store.gather(np.array([row]))[0])
        panel = np.asarray(sheet.crop((x + 98, y, x + 194, y + 96))).astype(int)
        if label == "nothing":
            assert (panel == ImageColor.getrgb("#efece5")).all(2).mean() > 0.7
            continue
        tips = dict(zip(FINGER_COLOURS, points_in_crop(store.hands[row], 96)[4::4].round().astype(int), strict=True))
        for finger, (across, down) in tips.items():
            if 0 <= across < 96 and 0 <= down < 96:
                off = np.abs(panel[down, across] - ImageColor.getrgb(FINGER_COLOURS[finger])).max()
                assert off < 40, finger


def contact_sheet_of_photos(store: Store) -> Image.Image:
    other = Store(store.path, store.manifest | {"hands": None})
    return contact_sheet(other, columns=4)


def place_of(sheet: Image.Image, photo: np.ndarray) -> tuple[int, int]:
    """Where on the sheet this photo stands."""
    shown = np.asarray(Image.fromarray(photo).resize((96, 96), Image.Resampling.LANCZOS))
    pixels = np.asarray(sheet)
    for y, x in np.argwhere((pixels[:-95, :-95] == shown[0, 0]).all(2)):
        if np.array_equal(pixels[y : y + 96, x : x + 96], shown):
            return int(x), int(y)
    raise AssertionError("the photo is not on the sheet")


def test_a_store_of_another_finder_is_told(prepared: Path) -> None:
    store = Store.open(prepared)
    settings = store.require_hands()
    run: Any = SimpleNamespace(input_type="landmarks", facts={"hands": settings})
    assert Classifier.other_finder(run, store.hand_settings) is None
    assert Classifier.other_finder(run) is None  # as it is found here and now
    for changed in ({"finder": 1}, {"bundle": "of my own"}):
        run.facts = {"hands": settings | changed}
        told = Classifier.other_finder(run, store.hand_settings)
        assert told is not None
        assert Classifier.other_finder(run) == told
        assert told.endswith(
            f"in training by finder {changed.get('finder', FINDER_VERSION)} with bundle "
            f"{changed.get('bundle', settings['bundle'])[:12]}"
        )


# ---- the store -----------------------------------------------------------------------------------------------


def test_the_store_holds_hands_and_crops(prepared: Path) -> None:
    store = Store.open(prepared, verify=True)
    assert len(store.hands) == len(store) == 116
    nothing = store.labels == CLASS_INDEX["nothing"]
    assert store.hands["found"][~nothing].mean() > 0.9
    assert not store.hands["found"][nothing].any()
    for row in (0, 40, int(np.flatnonzero(nothing)[0])):
        label, recording, index = store.paths[row].split("/")[1].split(".")[0].split("_")
        spec = SampleSpec(0, label, int(recording[1:]), int(index))
        photo = render_spec(spec, 48)
        look = decode_photo(_png(photo), LOOK_PX)
        assert store.hands[row] == shared_finder().find(look)
        assert np.array_equal(store.gather_crops(np.array([row]))[0], crop(look, store.hands[row]["box"], 64))


def test_inspect_counts_the_hands(prepared: Path, tmp_path: Path, capsys) -> None:
    store = Store.open(prepared)
    assert inspect.main([str(prepared), "--json", str(tmp_path / "facts.json")]) == 0
    signs, nothing = json.loads((tmp_path / "facts.json").read_text())["hands"]
    seen = [
        hand for hand, label in zip(store.hands, store.labels, strict=True) if CLASSES[label] != "nothing"
    ]
    assert signs == {
        "source": "synthetic",
        "of": "signs",
        "photos": 112,
        "found": sum(bool(hand["found"]) for hand in seen),
        "unconfirmed": sum(bool(hand["doubtful"]) for hand in seen),
        "late": sum(bool(hand["found"]) and int(hand["attempt"]) not in (0, 1, 5, 6) for hand in seen),
        "dark": sum(bool(hand["found"]) and int(hand["attempt"]) > 4 for hand in seen),
        "right": sum(bool(hand["found"] and hand["right"]) for hand in seen),
    }
    assert (nothing["of"], nothing["photos"], nothing["found"], nothing["right"]) == ("nothing", 4, 0, 0)
    printed = capsys.readouterr().out
    assert f"{signs['found'] / 112:.1%}" in printed
    assert next(line for line in printed.splitlines() if " nothing " in line).endswith("–")  # a share of none
    assert len(hand_finder._ATTEMPTS) == ATTEMPTS
    assert f"a hand in {signs['found']} of 112 photos of signs" in printed
    assert "a hand in 0 of 4 photos of `nothing`" in printed
    facts = inspect_store(store)
    found = {name: {"photos": 4, "found": count} for name, count in (("A", 4), ("B", 3), ("C", 1), ("nothing", 0))}
    inspect._print_hands(Console(), replace(facts, hands_by_class=found))
    assert "least often in C (25.0%), B (75.0%)\n" in capsys.readouterr().out


def test_workers_and_interruptions_do_not_change_it(prepared: Path, tmp_path: Path, monkeypatch) -> None:
    digest = Store.open(prepared).digest
    assert prepare(tmp_path / "two", workers=2).digest == digest

    done = []

    def failing(task):
        if len(done) == 3:
            raise UserError("the power went")
        done.append(task)
        return find_chunk(task)

    monkeypatch.setattr("horovod_asl.prepare.hand_stage.find_chunk", failing)
    monkeypatch.setattr("horovod_asl.prepare.pipeline.worker_pool", _here)
    with pytest.raises(UserError, match="the power went"):
        prepare(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    kept = len(list((tmp_path / "store.partial" / "chunks").glob("hands-*.npy")))
    assert kept == 3
    done.clear()
    monkeypatch.setattr(
        "horovod_asl.prepare.hand_stage.find_chunk", lambda task: done.append(task) or find_chunk(task)
    )
    assert prepare(tmp_path / "store").digest == digest
    assert len(done) == -(-116 // 16) - kept


def test_it_is_up_to_date_until_the_crops_change(prepared: Path, tmp_path: Path) -> None:
    assert prepare(prepared).up_to_date
    other = tmp_path / "other"
    assert prepare(other, hands=False).hands_found is None
    with pytest.raises(UserError, match="holds no hands: run its prepare again with --hands"):
        _ = Store.open(other).hands
    said: list[str] = []
    report = prepare(other, log=said.append)
    assert not report.up_to_date
    assert any("hands none → finder" in line for line in said)
    assert Store.open(other).digest == Store.open(prepared).digest


# ---- the bundle ----------------------------------------------------------------------------------------------


def test_the_shipped_bundle_is_the_one_we_know_and_its_notice_names_its_parts() -> None:
    path = hand_bundle.find_bundle()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hand_bundle.SHA256
    notice = (path.parent / "NOTICE").read_text()
    assert hand_bundle.SHA256 in notice
    with zipfile.ZipFile(path) as bundle:
        assert set(bundle.namelist()) == set(hand_bundle._PARTS)
        for name, origin in hand_bundle._PARTS.items():
            assert re.search(rf"{re.escape(origin)}\s+{re.escape(name)}", notice)
            assert hashlib.sha256(bundle.read(name)).hexdigest() in notice


def test_the_shipped_bundle_is_what_is_made_of_a_wheel_with_its_models(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(hand_bundle.find_bundle()) as bundle,
        zipfile.ZipFile(tmp_path / "mediapipe.whl", "w", zipfile.ZIP_DEFLATED) as wheel,
    ):
        for name, origin in hand_bundle._PARTS.items():
            wheel.writestr(origin, bundle.read(name))
    made = hand_bundle.assemble(tmp_path / "mediapipe.whl", tmp_path / "made" / "hand.task")
    assert made.read_bytes() == hand_bundle.find_bundle().read_bytes()


def test_models_that_are_missing_or_others_are_refused(tmp_path: Path, monkeypatch) -> None:
    wheel, target = tmp_path / "mediapipe.whl", tmp_path / "share" / "hand.task"
    with pytest.raises(UserError, match="cannot take the hand models"):
        hand_bundle.assemble(wheel, target)
    wheel.write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot take the hand models"):
        hand_bundle.assemble(wheel, target)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in hand_bundle._PARTS.values():
            archive.writestr(path, b"another model")
    with pytest.raises(UserError, match=r"not those of mediapipe 0\.10\.21"):
        hand_bundle.assemble(wheel, target)
    assert list(target.parent.iterdir()) == []

    monkeypatch.setattr(hand_bundle, "SHIPPED", target)
    with pytest.raises(UserError, match="missing or damaged: install horovod_asl again"):
        hand_bundle.find_bundle()
    target.write_bytes(b"damaged")
    with pytest.raises(UserError, match="missing or damaged: install horovod_asl again"):
        hand_bundle.find_bundle()


def test_a_bundle_of_one_s_own_wins_and_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for missing in ("~/mine.task", "~nosuchuser/mine.task"):
        monkeypatch.setenv(hand_bundle.VARIABLE, missing)
        with pytest.raises(UserError, match="which is no file"):
            hand_bundle.find_bundle()
    (tmp_path / "mine.task").touch()
    monkeypatch.setenv(hand_bundle.VARIABLE, "~/mine.task")
    assert hand_bundle.find_bundle() == tmp_path / "mine.task"


def test_a_bundle_that_mediapipe_cannot_read_is_one_line(tmp_path: Path, monkeypatch) -> None:
    own = tmp_path / "mine.task"
    own.write_bytes(b"not a bundle")
    monkeypatch.setenv(hand_bundle.VARIABLE, str(own))
    with pytest.raises(UserError, match=r"MediaPipe cannot use .*mine\.task"):
        HandFinder()


def test_a_machine_without_mediapipe_or_its_libraries_is_one_line(monkeypatch) -> None:
    from mediapipe.tasks.python import vision

    def begin(options: object) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file")

    monkeypatch.setattr(vision.HandLandmarker, "create_from_options", begin)
    with pytest.raises(UserError, match=r"libEGL.*apt-get install libgl1 libegl1 libgles2 libglib2\.0-0"):
        HandFinder()
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.python", None)  # its import fails
    with pytest.raises(UserError, match=r"pip install 'horovod_asl\[hands\]'"):
        HandFinder()


def _png(photo: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


def _here(workers: int, *, across_ranks: bool = False):
    """The pool's interface, in this process."""
    import contextlib
    from concurrent.futures import Executor, Future

    class Here(Executor):
        def submit(self, work, /, *values, **named):  # type: ignore[override]
            future: Future = Future()
            try:
                future.set_result(work(*values, **named))
            except Exception as error:
                future.set_exception(error)
            return future

    return contextlib.nullcontext(Here())
