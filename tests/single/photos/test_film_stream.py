"""All frames of a film: in order, with their times, upright, up to the damage; and a camera's newest frame."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.photos import film_stream
from horovod_asl.photos.film_stream import CameraStream, DamagedFilmError, FilmStream
from horovod_asl.photos.film_writer import write_film
from tests.single.photos.test_films import GREY_STEP, RATE, film, shown

av = pytest.importorskip("av", reason="needs the extra video")


def number_of(pixels: np.ndarray) -> int:
    """Which frame this is, by its grey (`shown`)."""
    return round(float(pixels[2:6, 20:60].mean()) / GREY_STEP)


def read(path: Path) -> tuple[list[int], list[float], str]:
    """The numbers and times of the frames, and why they ended."""
    numbers, times = [], []
    with FilmStream(path) as stream:
        try:
            for frame in stream:
                numbers.append(number_of(frame.pixels))
                times.append(frame.time_s)
        except DamagedFilmError as error:
            return numbers, times, str(error)
    return numbers, times, ""


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.ts", "libx264")]
)
def test_every_frame_in_order_with_its_time(tmp_path, name, codec):
    path = film(tmp_path / name, 60, codec=codec)
    numbers, times, fault = read(path)
    assert fault == ""
    assert len(numbers) == 60
    assert np.abs(np.array(numbers) - np.arange(60)).max() <= 3  # the codec's loss
    assert times == pytest.approx(np.arange(60) / RATE, abs=0.002)
    with FilmStream(path) as stream:
        assert stream.seconds == pytest.approx(2.0, abs=0.1)
        assert stream.fps == RATE


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_frames_are_upright_as_the_container_says_also_when_reduced(tmp_path, rotation, monkeypatch):
    path = film(tmp_path / "a.mov", 6, rotation=rotation)
    expected = np.asarray(Image.fromarray(shown(0)).rotate(rotation, expand=True)).astype(int)
    with FilmStream(path) as stream:
        assert np.abs(next(iter(stream)).pixels - expected).mean() < 12
    monkeypatch.setattr(film_stream, "MOST_PX", 32)
    small = np.asarray(Image.fromarray(expected.astype(np.uint8)).resize(np.array(expected.shape[1::-1]) // 2))
    with FilmStream(path) as stream:
        pixels = next(iter(stream)).pixels
    assert pixels.shape == small.shape
    assert np.abs(pixels - small.astype(int)).mean() < 14


@pytest.mark.parametrize(
    ("name", "codec", "reason"),
    [
        ("a.mp4", "libx264", "a part of the file is missing"),  # its index stands in front
        ("a.webm", "libvpx", r"its last 1\.\d s are missing"),  # it ends between two frames
        ("a.avi", "mpeg4", "damaged|missing"),
    ],
)
def test_a_film_that_was_cut_short_gives_the_frames_before(tmp_path, name, codec, reason):
    whole = film(tmp_path / name, 90, codec=codec)
    _, all_times, _ = read(whole)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 6 // 10])
    numbers, times, fault = read(whole)
    assert re.search(reason, fault), fault
    assert 10 < len(numbers) < 85
    assert times == pytest.approx(all_times[: len(times)])
    assert np.abs(np.array(numbers) - np.arange(len(numbers))).max() <= 3


def make_hole(path: Path, number: int) -> None:
    """Noise in place of a frame's packet."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        hole = [packet for packet in container.demux(video=0) if packet.size][number]
    data[hole.pos : hole.pos + hole.size] = np.random.default_rng(0).bytes(hole.size)
    path.write_bytes(data)


def test_a_hole_ends_it_and_what_comes_after_is_not_read(tmp_path):
    path = film(tmp_path / "a.mp4", 90)
    make_hole(path, 45)
    numbers, _, fault = read(path)
    assert fault.startswith("it is damaged (")
    assert 30 <= len(numbers) <= 46
    make_hole(film(path, 90), 0)
    numbers, times, fault = read(path)
    assert fault.startswith("its first frames are damaged (")  # and the rest is read
    assert numbers[-1] >= 86
    assert times[0] == 0


def test_a_stream_that_was_recorded_from_some_moment_on_is_whole(tmp_path):
    """Its first frames need one that is not there: the decoder leaves them out."""
    whole = film(tmp_path / "a.ts", 90)
    data = whole.read_bytes()
    whole.write_bytes(data[len(data) // 188 // 6 * 188 :])
    numbers, times, fault = read(whole)
    assert fault == ""
    assert 55 <= len(numbers) <= 62  # from the second key frame on
    assert times[0] == 0


def test_what_is_no_film_is_the_users_mistake(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"hello" * 100)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video \(Invalid data"):
        FilmStream(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
    with pytest.raises(UserError, match="has sound but no picture"):
        FilmStream(tmp_path / "b.mkv")


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'horovod_asl\[live\]'"):
        FilmStream(tmp_path / "a.mp4")


def test_a_camera_that_is_not_there_is_named_with_the_remedy():
    with pytest.raises(UserError, match=r"camera:97 cannot be opened \(.+\): connect one, .* or name a video file"):
        CameraStream(97)


class Slow:
    """A container whose frames come at the pace of a camera."""

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path))
        self.sent = 0
        self.closed = threading.Event()

    def decode(self, video):
        for frame in self._container.decode(video=video):
            time.sleep(0.01)
            self.sent += 1
            yield frame
        self.closed.wait(20)
        raise av.error.OSError(19, "No such device")

    def close(self):
        self._container.close()


@pytest.mark.timeout(60)
def test_a_camera_gives_the_newest_frame_and_says_when_it_is_lost(tmp_path, monkeypatch):
    camera = Slow(film(tmp_path / "a.mp4", 60))
    monkeypatch.setattr(film_stream, "_open_camera", lambda library, number: camera)
    numbers: list[int] = []

    def read_slowly(stream: CameraStream) -> None:
        for frame in stream:
            numbers.append(number_of(frame.pixels))
            if numbers[-1] >= 56:
                camera.closed.set()
                continue
            before = camera.sent
            while camera.sent < min(before + 10, 60):
                time.sleep(0.005)

    with CameraStream(0) as stream, pytest.raises(DamagedFilmError, match=r"camera:0 was lost \(No such device\)"):
        read_slowly(stream)
    assert numbers == sorted(numbers)
    assert 3 <= len(numbers) <= 12  # of 60: the others were dropped, not queued


def test_what_the_writer_wrote_is_read_back(tmp_path):
    frames = [shown(number) for number in range(20)]
    write_film(tmp_path / "a.mp4", iter(frames), (64, 48), 20)
    with FilmStream(tmp_path / "a.mp4") as stream:
        read_back = list(stream)
    assert [frame.time_s for frame in read_back] == pytest.approx(np.arange(20) / 20, abs=1e-3)
    for frame, written in zip(read_back, frames, strict=True):
        assert np.abs(frame.pixels - written.astype(int)).mean() < 10
