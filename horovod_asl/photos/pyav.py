"""PyAV, which reads and writes films."""

from __future__ import annotations

from typing import Any

from horovod_asl.errors import UserError


def load_pyav(missing: str) -> Any:
    """The library `av`; UserError with the message `missing` if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(missing) from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a video is said in our own line
    return av


def words(error: Exception) -> str:
    """What FFmpeg says of a fault."""
    return getattr(error, "strerror", None) or str(error)
