"""Frames → a film: H.264, or for a browser's make-believe camera Motion JPEG (.mjpeg) or uncompressed frames (.y4m).

The only file that writes by PyAV; `films` and `film_stream` read by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.photos.pyav import load_pyav, words


@dataclass(frozen=True)
class _Codec:
    name: str
    container: str | None = None
    """None: by the suffix."""
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)


_H264 = _Codec("libx264", options={"crf": "18", "preset": "veryfast"})
_CODECS = {
    ".mp4": _H264,
    ".mov": _H264,
    ".mkv": _H264,
    ".mjpeg": _Codec("mjpeg", "mjpeg", "yuvj420p", {"qmin": "2", "qmax": "4"}),
    ".y4m": _Codec("wrapped_avframe", "yuv4mpegpipe"),
}
FILM_SUFFIXES = tuple(_CODECS)


def require_film_name(path: Path) -> None:
    """UserError unless a film can be written under this name, by what is installed."""
    if path.suffix not in _CODECS:
        raise UserError(f"{path} is no name for a film: end it with one of {', '.join(FILM_SUFFIXES)}")
    _library()


def write_film(
    path: Path, frames: Iterable[NDArray[np.uint8]], size: tuple[int, int], frames_per_second: int
) -> None:
    """Write a film; the file gets its name when it is whole.

    Args:
        path: its suffix, one of `FILM_SUFFIXES`, says how it is coded. A .mjpeg has no frame rate in it.
        frames: RGB, uint8 (height, width, 3).
        size: width and height in pixels, both even.

    Raises:
        UserError: for another suffix, a size that is odd, a disk that refuses it, or without PyAV.
    """
    require_film_name(path)
    width, height = size
    if width % 2 or height % 2:
        raise UserError(f"a film of {width} × {height} pixels cannot be written: both must be even")
    codec, library = _CODECS[path.suffix], _library()
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with library.open(str(partial), "w", format=codec.container) as container:
            stream = container.add_stream(codec.name, rate=frames_per_second, options=codec.options)
            stream.width, stream.height, stream.pix_fmt = width, height, codec.pixels
            for frame in frames:
                container.mux(stream.encode(library.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(path)
    except (OSError, library.FFmpegError) as error:
        raise UserError(f"{path} cannot be written ({words(error)}): choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def _library() -> Any:
    """PyAV. UserError if it is not installed."""
    return load_pyav("PyAV, which writes films, is missing: pip install 'horovod_asl[video]'")
