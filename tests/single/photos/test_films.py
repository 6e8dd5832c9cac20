"""Videos as sources: some frames of each, upright, of one recording, as far as the video is whole."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.discovery.class_names import classes_by
from horovod_asl.discovery.find_photos import find_photos
from horovod_asl.errors import UserError
from horovod_asl.inference.folder import load_folder
from horovod_asl.inference.readers import PixelReader
from horovod_asl.labels import CLASSES
from horovod_asl.photos import films
from horovod_asl.photos.decode import PhotoError
from horovod_asl.prepare.options import Tolerance
from horovod_asl.splits.recordings import group_recordings
from horovod_asl.store.store import Store
from tests.preparing import prepare_with

av = pytest.importorskip("av", reason="needs the extra video")
RATE = 30
HEIGHT, WIDTH = 48, 64
GREY_STEP = 2.5  # between neighbouring frames; of those that are taken, every sixth, 15


def shown(number: int, seed: int = 0) -> np.ndarray:
    """Frame `number`: a grey that tells it, with a red strip on the left and a block that tells the video."""
    pixels = np.full((HEIGHT, WIDTH, 3), GREY_STEP * number, np.uint8)
    pixels[:, :8] = (255, 0, 0)
    pixels[8:40, 16:48] = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    return pixels


def film(
    path: Path, frames: int = 90, *, rotation: int | None = None, codec: str = "libx264", seed: int = 0
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(codec, rate=RATE, options={"g": "30"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown(number, seed), format="rgb24")))
        container.mux(stream.encode())
    return path


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx")])
def test_five_frames_a_second_by_their_number_in_any_order(tmp_path, name, codec):
    frames, fault = films.frames_of(str(film(tmp_path / name, codec=codec)))
    assert ([number for number, _ in frames], fault) == (list(range(0, 90, 6)), "")
    for number, origin in [*frames[:3], frames[-1], frames[4], frames[4]]:
        assert abs(pixels(origin.read())[2:6, 20:60].mean() - GREY_STEP * number) < 7.4, number


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_frames_are_upright_as_the_container_says(tmp_path, rotation):
    frames, _ = films.frames_of(str(film(tmp_path / "a.mov", 6, rotation=rotation)))
    expected = np.asarray(Image.fromarray(shown(0)).rotate(rotation, expand=True)).astype(int)
    assert np.abs(pixels(frames[0][1].read()) - expected).mean() < 12


def test_a_video_that_ends_early_gives_the_frames_before_and_one_line(tmp_path):
    whole = film(tmp_path / "A.mp4").read_bytes()
    (tmp_path / "A.mp4").write_bytes(whole[: len(whole) * 7 // 10])
    found = find_photos(tmp_path)
    first, second = found.film_lines
    assert first == f"{len(found.photos)} frames of 1 videos"
    assert second.startswith("A.mp4 is damaged: its first ")
    assert second.endswith(" frames are used (of 90)")
    assert 5 < len(found.photos) < 15
    assert all(photo.origin.read().startswith(b"P6") for photo in found.photos)


def test_what_is_no_video_is_one_problem(tmp_path):
    (tmp_path / "A.mp4").write_bytes(b"hello" * 100)
    film(tmp_path / "B.mp4", 12)
    found = find_photos(tmp_path)
    assert found.film_lines[1] == "A.mp4 is no video that can be read (Invalid data found when processing input)"
    with pytest.raises(PhotoError, match="no frame of the video can be read"):
        found.photos[0].origin.read()


def test_the_class_is_the_folder_or_the_name_of_the_video(tmp_path):
    for name in ("A.mp4", "b.mp4", "C/take1.mp4", "C/take2.mov"):
        film(tmp_path / name, 3)
    (tmp_path / "C" / "take3.jpg").write_bytes(b"")
    (tmp_path / "C" / "take3.mov").write_bytes(b"the video of a live photo")
    found = find_photos(tmp_path)
    assert [(photo.path, CLASSES[photo.label], photo.film, photo.group_folders) for photo in found.photos] == [
        ("A.mp4#000000", "A", "A.mp4", ()),
        ("C/take1.mp4#000000", "C", "C/take1.mp4", ("take1",)),
        ("C/take2.mov#000000", "C", "C/take2.mov", ("take2",)),
        ("C/take3.jpg", "C", "", ()),
        ("b.mp4#000000", "B", "b.mp4", ()),
    ]
    assert found.other_files == {".mov": 1}


def test_numbered_videos_and_names_that_hold_the_class(tmp_path):
    for name in ("0.mp4", "1.mp4"):
        film(tmp_path / "numbers" / name, 3)
    with pytest.raises(UserError, match=r"2 folders with numbers for names \(0, 1\)"):
        find_photos(tmp_path / "numbers")
    (tmp_path / "classes.txt").write_text("space\nB\n")
    found = find_photos(tmp_path / "numbers", classes=classes_by(tmp_path / "classes.txt", None))
    assert [CLASSES[photo.label] for photo in found.photos] == ["space", "B"]
    for name in ("a_1.mp4", "a_2.mp4", "b_1.mp4"):
        film(tmp_path / "named" / name, 3)
    found = find_photos(tmp_path / "named", classes=classes_by(None, "^([a-z])_"))
    assert [(CLASSES[photo.label], photo.group_folders) for photo in found.photos] == [
        ("A", ("1",)),
        ("A", ("2",)),
        ("B", ("1",)),
    ]


def test_no_rule_cuts_a_video(tmp_path):
    film(tmp_path / "A" / "A12.mp4", 12)
    found = find_photos(tmp_path)
    assert group_recordings(found.photos) == (["all"] * 2, "source")
    with pytest.raises(UserError, match=r"makes several recordings of the video A/A12\.mp4"):
        group_recordings(found.photos, r"#0*(\d+)")


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "1.mov").write_bytes(b"")
    (tmp_path / "A" / "2.jpg").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"A/1\.mov is a video: pip install 'horovod_asl\[video\]' .* '\*\.mov'"):
        find_photos(tmp_path)
    assert len(find_photos(tmp_path, ["*.mov"]).photos) == 1


def test_videos_that_are_not_read_say_how(tmp_path):
    film(tmp_path / "A.mp4", 3)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(tmp_path / "A.mp4", "A.mp4")
    with pytest.raises(UserError, match=r"set\.zip holds videos, such as A\.mp4: unpack the zip"):
        find_photos(tmp_path / "set.zip")
    with pytest.raises(UserError, match=r"A\.mp4 is one video: give a folder of videos"):
        find_photos(tmp_path / "A.mp4")


def test_prepare_and_evaluate_take_videos_and_each_stays_on_one_side(tmp_path):
    for place, name in enumerate(("ann/A", "ann/B", "ben/A", "ben/B", "cleo/A", "cleo/B")):
        film(tmp_path / "set" / f"{name}.mp4", 24, seed=place)
    lines: list[str] = []
    report = prepare_with(
        [str(tmp_path / "set")],
        tmp_path / "store",
        image_size=32,
        degraded_copies=1,
        tolerance=Tolerance(allow_missing=True),
        log=lines.append,
    )
    assert report is not None
    assert (report.photos, report.copies, report.problems) == (24, 24, ())
    assert lines[0] == "set: 24 frames of 6 videos"
    store = Store.open(tmp_path / "store")
    assert store.paths[0] == "ann/A.mp4#000000"
    sides = {(path.partition("#")[0], split) for path, split in zip(store.paths, store.splits, strict=True)}
    assert {film.partition("/")[0]: side for film, side in sides} == {
        "ann": "train",
        "ben": "train",
        "cleo": "test",
    }
    assert len(sides) == 6
    loaded = load_folder(tmp_path / "set", reader=PixelReader(32))
    assert sorted(loaded.digests) == sorted(digest for digest in store.digests[~store.copies])
