"""MediaPipe's Hand Landmarker, for photos and for films: the only file that imports mediapipe."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from horovod_asl.errors import UserError
from horovod_asl.hands.bundle import find_bundle
from horovod_asl.hands.record import Pixels, Record, hand, no_hand

_FOLLOWED_CONFIDENCE = 0.3
_LIBRARIES = "libgl1 libegl1 libgles2 libglib2.0-0"  # Debian's packages, as launch/setup.sh installs them


class Landmarker:
    """The models loaded once. Not for several threads at a time.

    Args:
        confidence: that a hand must have to be detected, 0 to 1.
        hands: the most that are looked for.
        film: whether the pictures are the frames of a film, where a hand is looked for near its last place first.

    Raises:
        UserError: with the remedy, where mediapipe, a library that it loads, or the bundle is missing.
    """

    def __init__(self, confidence: float, *, hands: int = 1, film: bool = False) -> None:
        self._models = _open_models(confidence, hands, film)

    def detect(self, picture: Pixels) -> list[dict[str, Any]]:
        """The hands in an RGB picture uint8 (H, W, 3), as arguments of `record.hand`."""
        return _hands_of(self._models.detect(_image(picture)))

    def detect_in_film(self, frame: Pixels, time_ms: int) -> list[dict[str, Any]]:
        """As `detect`, for the next frame of the film; the time must grow."""
        return _hands_of(self._models.detect_for_video(_image(frame), time_ms))

    def close(self) -> None:
        """Let the models go."""
        try:
            self._models.close()
        except RuntimeError:  # at the interpreter's end no thread can start any more, which this would need
            self._models._handle = None
        _OPEN.discard(self._models)


class HandFollower:
    """The hand in the frames of a film, by MediaPipe's tracking: a few milliseconds where it was in the frame before.

    One film, one follower. UserError as `Landmarker`.
    """

    def __init__(self) -> None:
        self._landmarker = Landmarker(_FOLLOWED_CONFIDENCE, film=True)
        self._last_ms = 0

    def follow(self, frame: Pixels, time_s: float) -> Record:
        """The record of the hand in an RGB frame uint8 (S, S, 3), or `no_hand`; the time must grow."""
        self._last_ms = max(self._last_ms + 1, round(time_s * 1000))
        seen = self._landmarker.detect_in_film(frame, self._last_ms)
        return hand(**seen[0], attempt=0) if seen else no_hand()

    def close(self) -> None:
        """Let the models go."""
        self._landmarker.close()


def _open_models(confidence: float, hands: int, film: bool) -> Any:
    bundle = find_bundle()
    try:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(bundle)),
            num_hands=hands,
            min_hand_detection_confidence=confidence,
            min_hand_presence_confidence=confidence,
            running_mode=vision.RunningMode.VIDEO if film else vision.RunningMode.IMAGE,
        )
        with _quiet_stderr():
            landmarker = vision.HandLandmarker.create_from_options(options)
            # What it has to remark, it remarks once.
            first = _image(np.zeros((32, 32, 3), np.uint8))
            landmarker.detect_for_video(first, 0) if film else landmarker.detect(first)
    except ModuleNotFoundError as error:
        raise UserError(
            f"finding hands needs mediapipe, not installed here ({error}): pip install 'horovod_asl[hands]', or in a "
            "checkout `make setup`"
        ) from error
    except (ImportError, OSError) as error:  # some libraries it loads as it is imported, some when it begins
        raise UserError(
            f"mediapipe cannot load a library of the system ({error}): on Debian and Ubuntu, apt-get install "
            f"{_LIBRARIES}"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise UserError(f"MediaPipe cannot use {bundle}: {str(error).splitlines()[0]}") from error
    if not _OPEN:
        atexit.register(_leave_open)
    _OPEN.add(landmarker)
    return landmarker


_OPEN: set[Any] = set()


def _leave_open() -> None:
    """At the interpreter's end: MediaPipe would close them by a thread, which no longer can start, and complain."""
    for models in _OPEN:
        models._handle = None


def _image(pixels: Pixels) -> Any:
    import mediapipe

    return mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(pixels))


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """MediaPipe's libraries write their notes to the file descriptor, before any setting of theirs is read."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _hands_of(result: Any) -> list[dict[str, Any]]:
    """MediaPipe's result as the arguments of `record.hand`."""
    return [
        {
            "image": _points(image),
            "world": _points(world),
            "right": handedness[0].category_name == "Right",
            "score": handedness[0].score,
        }
        for image, world, handedness in zip(
            result.hand_landmarks, result.hand_world_landmarks, result.handedness, strict=True
        )
    ]


def _points(landmarks: Any) -> NDArray[np.float32]:
    return np.array([[point.x, point.y, point.z] for point in landmarks], np.float32)
