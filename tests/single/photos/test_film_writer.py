"""Films that are written: PyAV reads back as many frames, as fast, and nearly the same pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from horovod_asl.errors import UserError
from horovod_asl.photos.film_writer import FILM_SUFFIXES, write_film

av = pytest.importorskip("av", reason="needs the extra video")
FRAMES, RATE, SIZE = 12, 15, (64, 48)


def frame(number: int) -> np.ndarray:
    pixels = np.full((SIZE[1], SIZE[0], 3), (60, 90, 20 * number), np.uint8)
    pixels[8:40, 4 * number : 4 * number + 16] = (220, 180, 150)
    return pixels


@pytest.mark.parametrize("suffix", FILM_SUFFIXES)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    write_film(path, map(frame, range(FRAMES)), SIZE, RATE)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seen = [shown.to_ndarray(format="rgb24") for shown in container.decode(stream)]
        rate = stream.average_rate
    assert len(seen) == FRAMES
    assert suffix == ".mjpeg" or rate == RATE  # that has none
    for number, pixels in enumerate(seen):
        assert np.abs(pixels.astype(int) - frame(number)).mean() < 6, number
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_film_that_breaks_off_leaves_nothing_and_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"before")

    def broken() -> Iterator[np.ndarray]:
        yield frame(0)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_film(path, broken(), SIZE, RATE)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("film.mp4", b"before")]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"end it with one of \.mp4"):
        write_film(tmp_path / "film.gif", [], SIZE, RATE)
    with pytest.raises(UserError, match="both must be even"):
        write_film(tmp_path / "film.mp4", [], (63, 48), RATE)
    with pytest.raises(UserError, match="cannot be written"):
        write_film(tmp_path / "missing" / "film.mp4", [frame(0)], SIZE, RATE)
