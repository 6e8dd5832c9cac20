"""The frames of a SOURCE in order: a video, a folder of frames, or a camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from horovod_asl.discovery.file_names import is_picture, pictures_among
from horovod_asl.errors import UserError
from horovod_asl.photos.decode import PhotoError, decode_upright
from horovod_asl.photos.film_stream import MOST_PX, CameraStream, DamagedFilmError, FilmFrame, FilmStream

FOLDER_FPS = 25.0
"""Of a folder of frames, where `--fps` does not say more."""
MOST_FPS = 32.0
"""Of what is translated; every second frame of a film with 60 a second is left out."""
_CAMERA = re.compile(r"camera:(\d+)")


class Source(Protocol):
    """Frames, to be iterated over once within `with`.

    Iterating raises DamagedFilmError where the frames end before their time.

    Attributes:
        seconds: how long it is; None where that is not known.
        fps: its mean number of frames a second.
    """

    @property
    def seconds(self) -> float | None: ...  # noqa: D102
    @property
    def fps(self) -> float: ...  # noqa: D102
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __iter__(self) -> Iterator[FilmFrame]: ...


def open_source(name: str, fps: float | None = None) -> Source:
    """The source of this name: `camera:0`, a folder of pictures, or a video.

    Args:
        name: what the user typed.
        fps: frames a second, for a folder; None: `FOLDER_FPS`.

    Raises:
        UserError: there is no such source, or it cannot be read, or `fps` is given for one that has its own.
    """
    path = Path(name)
    if path.is_dir():
        return FrameFolder(path, FOLDER_FPS if fps is None else fps)
    if fps is not None:
        raise UserError("--fps is for a folder of frames: videos and cameras have times of their own")
    if camera := _CAMERA.fullmatch(name):
        return CameraStream(int(camera[1]))
    if name.startswith("camera"):
        raise UserError(f"{name} is no camera: name the first camera:0, the second camera:1")
    if not path.exists():
        raise UserError(f"there is no {name}: name a video, a folder of frames, or camera:0")
    if is_picture(name):
        raise UserError(f"{name} is a photo: `horovod-asl predict` reads photos; translate wants a video")
    return FilmStream(path)


def is_camera(name: str) -> bool:
    """Whether a source goes on until the user stops it."""
    return _CAMERA.fullmatch(name) is not None and not Path(name).is_dir()


@dataclass(frozen=True)
class FrameFolder:
    """The pictures of a folder in natural order (`frame2` before `frame10`), `fps` a second.

    Raises:
        UserError: there is no picture in it.
    """

    folder: Path
    fps: float

    def __post_init__(self) -> None:
        if not self._names():
            raise UserError(f"no frames in {self.folder}: it must hold pictures (.jpg, .png …), one for each frame")

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self._names()) / self.fps

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to close."""

    def __iter__(self) -> Iterator[FilmFrame]:
        """The frames. DamagedFilmError at the first picture that cannot be read."""
        for number, name in enumerate(self._names()):
            try:
                pixels = decode_upright((self.folder / name).read_bytes(), MOST_PX)
            except (PhotoError, OSError) as error:
                raise DamagedFilmError(f"{name} cannot be read ({error})") from error
            yield FilmFrame(number / self.fps, pixels)

    def _names(self) -> list[str]:
        return sorted(pictures_among(path.name for path in self.folder.iterdir()), key=_natural)


class Timed(Protocol):
    """A frame of any film."""

    @property
    def time_s(self) -> float:
        """Since the film began."""


T = TypeVar("T", bound=Timed)


def thinned(frames: Iterator[T], most_fps: float = MOST_FPS) -> Iterator[T]:
    """Frames, at most so many a second."""
    due_s = 0.0
    for frame in frames:
        if frame.time_s >= due_s:
            due_s = max(due_s + 1 / most_fps, frame.time_s)
            yield frame


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers count by their value, other parts by their letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(0, name)]
