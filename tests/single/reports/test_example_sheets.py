"""The pictures of an evaluation: which photos are chosen, what is drawn where, and a page that holds them."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.commands import evaluate
from horovod_asl.engine.predictions import Predictions
from horovod_asl.errors import UserError
from horovod_asl.hands import finder
from horovod_asl.hands.record import HAND_DTYPE, hand_arrays, readings
from horovod_asl.hands.skeleton import with_skeleton
from horovod_asl.inference.readers import PixelReader
from horovod_asl.labels import CLASSES, NUM_CLASSES
from horovod_asl.models.registry import build_model, head_of
from horovod_asl.photos.decode import decode_photo
from horovod_asl.reports.example_sheets import (
    ConfusedPair,
    Example,
    examples_sheet,
    overlay,
    pairs_sheet,
    panels_of,
    window_around,
)
from horovod_asl.reports.examples import FolderAlbum, Readings, landmarks_in, ranks_apart
from horovod_asl.runs.run_folder import RunFolder
from tests.single.reports.test_report import Page, assert_is_one_file_for_any_screen

torch.set_num_threads(1)


def assert_is_a_sheet(path: Path) -> None:
    """Paper, and as much on it as photos take."""
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    on_paper = (np.abs(pixels - pixels[0, 0]) > 8).any(2)
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels[::4, ::4] @ [1, 256, 65536])) > 20
    assert 0.05 < on_paper.mean() < 0.9
    assert not on_paper[:, [0, -1]].any()
    assert not on_paper[[0, -1]].any()


def readings_of(count: int, seed: int = 0) -> Readings:
    generator = np.random.default_rng(seed)
    labels, said = generator.integers(0, 4, (2, count))
    return Readings(labels, said, generator.uniform(0.25, 1, count).round(1))


def photo(seed: int = 0, side: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def hand(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.3, 0.6, (21, 3)).astype(np.float32)


def test_examples_are_the_surest_of_each_class_in_turns() -> None:
    known = readings_of(80)
    wrong = known.wrongly()
    chosen = known.spread(wrong, 7)
    expected: list[int] = []
    for turn in range(3):  # a long count by hand
        best = []
        for label in range(4):
            own = [i for i in range(80) if known.labels[i] == label and known.said[i] != label]
            own.sort(key=lambda i: (-known.confidence[i], i))
            best += own[turn : turn + 1]
        expected += sorted(best, key=lambda i: (-known.confidence[i], i))
    assert chosen == expected[:7]
    assert set(known.labels[chosen[:4]].tolist()) == {0, 1, 2, 3}
    assert sorted(known.spread(wrong, 1000)) == wrong.tolist()
    assert known.spread(np.zeros(0, np.int64), 5) == []


def test_the_last_bits_of_a_sum_choose_nothing() -> None:
    known = readings_of(80)
    noise = np.random.default_rng(3).uniform(-1e-7, 1e-7, 80)
    nearly = Readings(known.labels, known.said, known.confidence + noise)
    assert nearly.spread(known.rightly(), 9) == known.spread(known.rightly(), 9)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_the_answers_of_ranks_are_put_into_the_photos_order(world_size: int) -> None:
    logits, labels = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32), np.arange(7)
    by_rank = np.concatenate([np.arange(7)[rank::world_size] for rank in range(world_size)])
    order = ranks_apart(7, world_size)
    known = Readings.of(Predictions(logits[by_rank], labels[by_rank]), 2.0, order)
    assert known.labels.tolist() == labels.tolist()
    assert known.said.tolist() == logits.argmax(1).tolist()
    expected = torch.softmax(torch.from_numpy(logits) / 2, 1).amax(1).numpy()
    np.testing.assert_allclose(known.confidence, expected, rtol=1e-5)


def test_cold_places_are_grey_and_warm_ones_glow_where_the_heat_is() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    shown = np.asarray(overlay(photo(side=64), heat), int)
    colour = np.ptp(shown, axis=2)
    assert shown.shape == (64, 64, 3)
    assert colour[32:, :32].max() <= 1
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row < 24
    assert column > 40


def test_bones_lie_on_the_joints_and_nothing_else_is_touched() -> None:
    points = np.linspace(40, 90, 21)[:, None] * [1.0, 0.8]
    before = Image.new("RGB", (176, 176), "#808080")
    after = np.asarray(with_skeleton(before, points))
    for x, y in points:
        assert (after[round(y), round(x)] != 128).any()
    changed = (after != 128).any(2)
    assert not changed[:20].any()
    assert not changed[:, 110:].any()


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.5])
def test_the_window_is_within_the_photo_and_holds_the_hand(shift: float) -> None:
    points = np.clip(hand()[:, :2] + shift, 0, 1)
    left, top, side = window_around(points)
    assert min(left, top) >= 0
    assert max(left, top) + side <= 1 + 1e-6
    assert (points >= [left - 1e-6, top - 1e-6]).all()
    assert (points <= [left + side + 1e-6, top + side + 1e-6]).all()


def test_a_sheet_has_the_panels_that_something_is_known_for(tmp_path: Path) -> None:
    plain = Example(photo(), "M", "N", 0.9, "home/1.jpg")
    heat = np.random.default_rng(0).uniform(size=(8, 8)).astype(np.float32)
    full = Example(photo(), "M", "M", 0.4, "home/" + 80 * "x", photo(1), heat, hand())
    assert len(panels_of([plain])) == 1
    assert len(panels_of([plain, full])) == 3
    for examples in ([plain], 5 * [full, plain], [Example(photo(), "A", "A", 1.0, landmarks=hand())]):
        examples_sheet(examples, "title").save(tmp_path / "sheet.png")
        assert_is_a_sheet(tmp_path / "sheet.png")


def test_pairs_are_drawn_though_the_other_class_has_no_photo(tmp_path: Path) -> None:
    examples = [Example(photo(seed), "M", "N", 0.9) for seed in range(3)]
    pairs = [ConfusedPair("M", "N", 5, 9, examples, []), ConfusedPair("M", "N", 5, 9, examples[:1], examples)]
    pairs_sheet(pairs, "title").save(tmp_path / "pairs.png")
    assert_is_a_sheet(tmp_path / "pairs.png")


def test_landmarks_are_those_that_the_network_is_given() -> None:
    records = np.zeros(2, HAND_DTYPE)
    records["found"] = [True, False]
    records["image"][0] = hand()
    both = readings(np.zeros((2, 8, 8, 3), np.uint8), records)
    for arrays in (hand_arrays(records), both):
        np.testing.assert_array_equal(landmarks_in(arrays[0]), hand())
        assert landmarks_in(arrays[1]) is None


def folder_of_photos(path: Path, classes: str = "ABC", each: int = 2) -> Path:
    for index, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(photo(10 * index + number)).save(path / name / f"{number}.png")
    return path


def without_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise UserError("finding hands needs mediapipe")

    monkeypatch.setattr("horovod_asl.reports.examples.shared_finder", refuse)


def test_a_folder_s_photos_are_had_again_also_from_a_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_finder(monkeypatch)
    folder = folder_of_photos(tmp_path / "photos")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", folder))
    for source in (folder, archive):
        album = FolderAlbum(
            source, [str(source / "B/0.png"), str(source / "C/1.png")], PixelReader(16), False
        )
        data = (folder / "C/1.png").read_bytes()
        np.testing.assert_array_equal(album.whole(1), decode_photo(data, finder.LOOK_PX))
        np.testing.assert_array_equal(album.array(1), decode_photo(data, 16))
        assert album.name(1) == "C/1.png"
        assert album.lack is None
        assert album.landmarks(1) is None
        assert album.lack == "finding hands needs mediapipe"


def make_run(path: Path, image_size: int) -> Path:
    """A network with random weights that says different things of different photos."""
    folder = RunFolder(path)
    path.mkdir()
    facts = {"model": "small_cnn", "input": "photos", "classes": list(CLASSES), "image_size": image_size}
    rule = {"trained_on": ["a/1"], "split_rule": {"kind": "recording"}, "precision": "fp32"}
    folder.write_facts(facts | rule)
    torch.manual_seed(0)
    network = build_model("small_cnn", num_classes=NUM_CLASSES).train()
    for _ in range(3):
        network(torch.randn(8, 3, image_size, image_size))
    head_of(network).weight.data *= 50
    folder.save_best(1, 0.5, network.state_dict(), keep=1)
    return path


def test_evaluate_writes_a_whole_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_finder(monkeypatch)
    run, photos = make_run(tmp_path / "run", 32), folder_of_photos(tmp_path / "photos", each=4)
    report = tmp_path / "new" / "report"
    report.mkdir(parents=True)
    (report / "right.png").write_text("of an earlier report")
    assert evaluate.main([str(run), str(photos), "--report", str(report), "--device", "cpu"]) == 0
    assert f"{report}/report.html" in capsys.readouterr().out
    text = (report / "report.html").read_text()
    page = Page(text)
    assert_is_one_file_for_any_screen(text)
    words = "".join(page.words)
    assert "No landmarks: finding hands needs mediapipe." in words
    assert "small_cnn on photos" in words
    files = {file.name for file in report.iterdir()} - {"report.html"}
    assert {"wrong.png", "confused.png", "confusion.png", "per_class.png"} <= files
    for sheet in {"wrong.png", "right.png", "confused.png"} & files:
        assert_is_a_sheet(report / sheet)
    shown = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in page.pictures]
    assert len(shown) > 12
    assert {one.height for one in shown} == {176, 2 * 176 + 3}  # an example, and a pair's with where it looked


def test_a_store_s_report_shows_its_own_photos(small_store: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 32)
    words = [str(run), str(small_store), "--split", "all", "--device", "cpu"]
    scores = tmp_path / "scores.json"
    assert evaluate.main([*words, "--report", str(tmp_path / "report"), "--json", str(scores)]) == 0
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert f"{json.loads(scores.read_text())['n']:,}" in page.cells
    assert "the store holds no hands" in "".join(page.words)
    assert_is_a_sheet(tmp_path / "report" / "wrong.png")


def test_a_place_that_holds_a_run_or_a_file_is_refused(tmp_path: Path) -> None:
    run, photos = make_run(tmp_path / "run", 32), folder_of_photos(tmp_path / "photos")
    (run / "config.yaml").write_text("epochs: 1\n")
    with pytest.raises(UserError, match=r"is a run folder.*run/evaluation"):
        evaluate.main([str(run), str(photos), "--report", str(run)])
    with pytest.raises(UserError, match="a file of that name is there"):
        evaluate.main([str(run), str(photos), "--report", str(run / "config.yaml")])
