"""Videos as photos: some frames of each, decoded by the workers.

A video is listed without being decoded: its packets say when each frame is shown. One frame is taken every
`SECONDS_PER_FRAME`, since neighbouring frames are all but equal. A frame is named by its number in the order of
display (`A.mp4#000123`), and is read by seeking to the key frame before it. Workers take frames in order, so a video
that is open is decoded forwards, once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from horovod_asl.photos.decode import PhotoError
from horovod_asl.photos.film_stream import upright
from horovod_asl.photos.pyav import load_pyav, words

if TYPE_CHECKING:
    import av

SECONDS_PER_FRAME = 0.2


@dataclass(frozen=True, slots=True)
class FrameOrigin:
    """The frame of a video that is shown at the time `pts`, in units of the stream; None: nothing can be read."""

    path: str
    pts: int | None

    def read(self) -> bytes:
        """The frame, upright, as a PPM file: exact pixels, and one way through the decoder for all photos.

        PhotoError if the video is damaged there.
        """
        library = _library(self.path)
        try:
            if self.pts is None:
                raise PhotoError("no frame of the video can be read")
            return _ppm(_film(self.path).frame_at(self.pts))
        except (library.FFmpegError, OSError, IndexError) as error:
            raise PhotoError(f"damaged video: {words(error)}") from error


def frames_of(path: str) -> tuple[list[tuple[int, FrameOrigin]], str]:
    """The frames to take of a video, each with its number, and what is wrong with it (empty if nothing is).

    Of a video that is damaged these are the frames before the damage; if nothing can be read, one that says so.
    Nothing is decoded here: damage inside of a packet shows when its frame is read. UserError without the library.
    """
    library = _library(path)
    times: list[int] = []
    expected, unit, fault = 0, 1.0, ""
    try:
        with library.open(path) as container:
            stream = container.streams.video[0]
            expected, unit = stream.frames, float(stream.time_base or 0)
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    fault = "a part of the file is missing"
                    break
                if packet.pts is not None and packet.size and not packet.is_discard:
                    times.append(packet.pts)
    except (library.FFmpegError, OSError, IndexError) as error:
        fault = words(error)
    if not times:
        return [(0, FrameOrigin(path, None))], f"is no video that can be read ({fault or 'it has no frame'})"
    times.sort()
    lacks = f"of {expected}" if expected > len(times) else fault
    note = f"is damaged: its first {len(times)} frames are used ({lacks})" if lacks else ""
    return [(number, FrameOrigin(path, times[number])) for number in _sampled(times, unit)], note


def _sampled(times: list[int], unit: float) -> Iterator[int]:
    """The numbers of the first frame in each `SECONDS_PER_FRAME`, given the times of all in units of seconds."""
    due = times[0]
    for number, time in enumerate(times):
        if time >= due:
            yield number
            due = time + round(SECONDS_PER_FRAME * 0.99 / unit)  # times are rounded to their unit


class _Film:
    """An open video and how far it is decoded."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = _library(path)
        self._container = self._library.open(path)
        self._stream = self._container.streams.video[0]
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._time: int | None = None
        self._asked: tuple[int, av.VideoFrame] | None = None
        self._tolerance = SECONDS_PER_FRAME / 2 / float(self._stream.time_base or 1)

    def frame_at(self, pts: int) -> av.VideoFrame:
        """The frame of this time. PhotoError if there is none, or it is damaged."""
        if self._asked is not None and self._asked[0] == pts:
            return self._asked[1]  # a copy of the photo is made, or its hand is looked for
        if self._time is None or self._time >= pts:
            self._container.seek(pts, stream=self._stream)
            self._frames = self._decoded()
        for frame in self._frames:
            self._time = frame.pts
            if self._time is not None and self._time >= pts:
                break
        else:
            self._time = None
        # In some containers the times of frames are not exactly those of their packets.
        if self._time is None or self._time - pts > self._tolerance or frame.is_corrupt:
            raise PhotoError("damaged video: this frame cannot be decoded")
        self._asked = pts, frame
        return frame

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """The frames from here on; packets that cannot be decoded are passed over, as players do."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except self._library.FFmpegError:
                continue
            yield from frames

    def close(self) -> None:
        self._container.close()


_OPEN = threading.local()  # a decoder belongs to one thread; each keeps the video that it read last


def _film(path: str) -> _Film:
    film: _Film | None = getattr(_OPEN, "film", None)
    if film is None or film.path != path:
        if film is not None:
            film.close()
        film = _OPEN.film = _Film(path)
    return film


def _ppm(frame: Any) -> bytes:
    pixels = upright(frame)
    return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def _library(path: str) -> Any:
    """PyAV. UserError if it is not installed."""
    suffix = path.rpartition(".")[2]
    return load_pyav(
        f"{path} is a video: pip install 'horovod_asl[video]' to read its frames, or --exclude '*.{suffix}' to "
        "leave videos out"
    )
