"""What may be a SOURCE: a film, a folder of frames in natural order, a camera; all else is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.photos.film_stream import DamagedFilmError, FilmFrame
from horovod_asl.translation.source import FrameFolder, is_camera, open_source, thinned
from tests.single.photos.test_films import film

pytest.importorskip("av", reason="needs the extra video")


def frame(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), (grey, grey, grey)).save(path)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        frame(tmp_path / f"take1_{number}.{'jpg' if number % 2 else 'png'}", number)
    (tmp_path / "notes.txt").write_text("no frame")
    with open_source(str(tmp_path)) as source:
        frames = list(source)
    assert [round(float(one.pixels.mean())) for one in frames] == [1, 2, 9, 10, 11, 100]
    assert [one.time_s for one in frames] == pytest.approx(np.arange(6) / 25)
    assert frames[0].pixels.shape == (24, 32, 3)
    with open_source(str(tmp_path), 10) as source:
        assert (source.seconds, source.fps) == (0.6, 10)
        assert [one.time_s for one in source] == pytest.approx(np.arange(6) / 10)


def test_a_folder_is_read_up_to_a_picture_that_is_damaged(tmp_path: Path) -> None:
    for number in range(5):
        frame(tmp_path / f"{number}.png", number)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    frames = iter(FrameFolder(tmp_path, 25))
    assert [next(frames).time_s for _ in range(3)] == pytest.approx([0, 0.04, 0.08])
    with pytest.raises(DamagedFilmError, match=r"3\.png cannot be read"):
        next(frames)


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    frame(tmp_path / "photo.jpg", 3)
    film(tmp_path / "film.mp4", 3)
    (tmp_path / "empty").mkdir()
    for name, words in {
        str(tmp_path / "photo.jpg"): "is a photo: `horovod-asl predict`",
        str(tmp_path / "none.mp4"): "there is no .*none.mp4: name a video, a folder of frames, or camera:0",
        str(tmp_path / "empty"): "no frames in .*empty",
        "camera": "camera is no camera: name the first camera:0",
        "camera:97": "camera:97 cannot be opened",
    }.items():
        with pytest.raises(UserError, match=words):
            open_source(name)
    with pytest.raises(UserError, match="--fps is for a folder of frames"):
        open_source(str(tmp_path / "film.mp4"), 25)
    assert is_camera("camera:0")
    assert not is_camera(str(tmp_path / "film.mp4"))


@pytest.mark.parametrize(("fps", "kept"), [(15, 15), (25, 25), (30, 30), (60, 30), (120, 30), (240, 30)])
def test_a_fast_film_is_thinned_evenly_and_others_are_left_alone(fps: int, kept: int) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    times = [one.time_s for one in thinned(FilmFrame(number / fps, pixels) for number in range(4 * fps))]
    assert len(times) / 4 == pytest.approx(kept, abs=2.1)
    assert max(np.diff(times)) - min(np.diff(times)) < 1 / fps + 1e-9
