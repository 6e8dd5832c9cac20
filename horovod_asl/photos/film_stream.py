"""All frames of a video or of a camera, in order, each with its time: for translation (`films` samples some frames).

A video ends where it is damaged, and says so: what comes after a hole would be read as if nothing were missing.
A camera gives the newest frame, and drops those that came while nobody asked.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.photos.pyav import load_pyav, words

if TYPE_CHECKING:
    import av

MOST_PX = 1280
"""Of the longer side; a larger frame is reduced as it is converted."""
USUAL_FPS = 30.0
"""Where a video does not say how many frames a second it has."""
_MISSING_S = 0.5  # a film that ends so much before its declared duration was cut short
_OPENS_WITHIN_S = 5.0
_DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "{}")}
"""By `sys.platform`: libavdevice's format, and what a camera's number becomes; dshow wants a name."""


class DamagedFilmError(ValueError):
    """A film ends before its time; the message says where and why."""


@dataclass(frozen=True, eq=False)
class FilmFrame:
    """`pixels`: uint8 (H, W, 3), RGB, upright. `time_s` is counted from the first frame."""

    time_s: float
    pixels: NDArray[np.uint8]


class FilmStream:
    """An open video: iterate over it once, within `with`.

    Attributes:
        seconds: how long it says that it is; None where it does not.
        fps: its mean number of frames a second.

    Raises:
        UserError: the file is no video, has no frame, or PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._av = _library()
        self._path = path
        try:
            self._container = self._av.open(str(path))
        except (self._av.FFmpegError, OSError) as error:
            raise UserError(_unreadable(path, error)) from error
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{path} has sound but no picture: name a video")
        self._stream = self._container.streams.video[0]
        duration = self._container.duration
        self.seconds = duration / self._av.time_base if duration else None
        rate = float(self._stream.average_rate or 0)
        self.fps = rate if 1 <= rate <= 240 else USUAL_FPS

    def __enter__(self) -> FilmStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[FilmFrame]:
        """The frames, their times growing. DamagedFilmError after the last frame before the damage."""
        first_s = last_s = None
        for frame in self._decoded():
            next_s = 0.0 if last_s is None else last_s + 1 / self.fps
            time_s = next_s if frame.pts is None else frame.time  # raw streams have no times
            if last_s is not None and time_s <= last_s:
                continue
            first_s = time_s if first_s is None else first_s
            last_s = time_s
            yield FilmFrame(time_s - first_s, upright(frame, MOST_PX))
        if last_s is None:
            raise UserError(f"{self._path} has no frame that can be read: name another video")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Frames up to the first that cannot be decoded. Where these are the very first, the others are still read,
        and the end says so."""
        ended_s: float | None = None
        begun = False
        at_first = ""
        for packet in self._packets():
            if packet.pts is not None and packet.time_base is not None:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                ended_s = end_s if ended_s is None else max(ended_s, end_s)
            if packet.stream.index != self._stream.index:
                continue
            frames, fault = self._frames_of(packet)
            for frame in frames:
                begun = True
                yield frame
            if fault and begun:
                raise DamagedFilmError(f"it is damaged ({fault})")
            at_first = at_first or fault
        self._require_whole(ended_s)
        if at_first and begun:
            raise DamagedFilmError(f"its first frames are damaged ({at_first})")

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux()
        try:
            yield from packets
        except (self._av.FFmpegError, OSError) as error:
            raise DamagedFilmError(f"it is damaged ({words(error)})") from error

    def _frames_of(self, packet: Any) -> tuple[list[av.VideoFrame], str]:
        """The whole frames of a packet, and what is wrong with it or with the frame after them."""
        if packet.is_corrupt:
            return [], "a part of the file is missing"
        try:
            decoded = packet.decode()
        except self._av.FFmpegError as error:
            return [], words(error)
        frames: list[Any] = []
        for frame in decoded:
            if frame.is_corrupt:
                return frames, "a frame cannot be decoded"
            frames.append(frame)
        return frames, ""

    def _require_whole(self, ended_s: float | None) -> None:
        """Containers whose index stands in front do not notice that their end is missing."""
        start_s = (self._container.start_time or 0) / self._av.time_base
        if self.seconds is not None and ended_s is not None:
            missing_s = self.seconds - (ended_s - start_s)
            if missing_s > _MISSING_S:
                raise DamagedFilmError(f"its last {missing_s:.1f} s are missing")


class CameraStream:
    """A camera of this machine, until the caller stops: the newest frame each time, within `with`.

    Args:
        number: 0 is the first camera.

    Raises:
        UserError: there is no such camera, it is in use, or PyAV is not installed.
    """

    seconds = None
    fps = USUAL_FPS

    def __init__(self, number: int) -> None:
        self._av = _library()
        self._name = f"camera:{number}"
        self._container = _open_camera(self._av, number)
        self._newest: FilmFrame | None = None
        self._fault: str | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CameraStream:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._thread.join(_OPENS_WITHIN_S)
        if not self._thread.is_alive():
            self._container.close()

    def __iter__(self) -> Iterator[FilmFrame]:
        """Frames as they come. DamagedFilmError where the camera goes."""
        while True:
            with self._changed:
                came = self._changed.wait_for(lambda: self._newest or self._fault is not None, _OPENS_WITHIN_S)
                if not came or self._newest is None:
                    raise DamagedFilmError(self._fault or f"{self._name} sends no pictures")
                frame, self._newest = self._newest, None
            yield frame

    def _watch(self) -> None:
        """Runs in a thread of its own, so that frames do not wait in the driver."""
        fault = f"{self._name} was closed"
        first_s: float | None = None
        try:
            for frame in self._container.decode(video=0):
                if self._closed:
                    break
                first_s = frame.time if first_s is None else first_s
                shown = FilmFrame(frame.time - first_s, upright(frame, MOST_PX))
                with self._changed:
                    self._newest = shown
                    self._changed.notify()
        except (self._av.FFmpegError, OSError) as error:
            fault = f"{self._name} was lost ({words(error)})"
        with self._changed:
            self._fault = fault
            self._changed.notify()


def _open_camera(library: Any, number: int) -> Any:
    kind, place = _DEVICES.get(sys.platform, _DEVICES["linux"])
    cameras = _cameras(library, kind)
    name = place.format(number)
    if kind == "dshow" and number < len(cameras):
        name = f"video={cameras[number]}"
    try:
        return library.open(name, format=kind, options={"framerate": "30"}, timeout=_OPENS_WITHIN_S)
    except (library.FFmpegError, OSError, ValueError) as error:
        there = f"here are {', '.join(cameras)}" if cameras else "none was found here"
        raise UserError(
            f"camera:{number} cannot be opened ({words(error)}): connect one, end the program that uses it, or "
            f"name a video file; {there}"
        ) from error


def _cameras(library: Any, kind: str) -> list[str]:
    try:
        return [device.name for device in library.enumerate_input_devices(kind)]
    except (AttributeError, ValueError, OSError, library.FFmpegError):
        return []


def upright(frame: av.VideoFrame, most_px: int | None = None) -> NDArray[np.uint8]:
    """The frame as uint8 (H, W, 3), RGB, turned as the container says; its longer side at most `most_px`."""
    longer = max(frame.width, frame.height)
    turns = round(frame.rotation / 90)
    if most_px is not None and longer > most_px:
        width, height = (max(2, round(side * most_px / longer)) for side in (frame.width, frame.height))
        frame = frame.reformat(width=width, height=height, format="rgb24")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read as a video ({words(error)}): where it is a copy or a download, it may be "
        "incomplete; get it anew"
    )


def _library() -> Any:
    """PyAV. UserError if it is not installed."""
    return load_pyav(
        "videos and cameras are read by PyAV, not installed here: pip install 'horovod_asl[live]', or in a checkout "
        "`make setup`"
    )
