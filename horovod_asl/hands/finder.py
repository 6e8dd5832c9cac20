"""Find the hand in a photo with MediaPipe's Hand Landmarker.

One attempt misses many hands: those that fill the picture, dark ones, small ones. So there are several, until one
finds something: on the photo padded by its own border, a little and more, then brightened, then as it is, then
brightened and padded more. What a late attempt finds, or what is small, is often no hand at all: it must be confirmed
on the enlarged square around it, which also gives finer landmarks. A hand that is dark, perhaps before a bright wall,
is searched once more in a copy in which the hand itself has light, since landmarks in the dark are guesses. Light
that is multiplied multiplies the camera's noise, which hides more hands than the dark does: so copies are smoothed
by how much they were brightened.
docs/log.md has the figures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from horovod_asl.hands.bundle import digest, find_bundle
from horovod_asl.hands.landmarker import Landmarker
from horovod_asl.hands.record import ATTEMPTS, LATE_ATTEMPT, Pixels, Record, crop, hand, no_hand, upright_box

FINDER_VERSION = 4
"""Raise when the same photo would give another record."""
LOOK_PX = 384
"""The side at which a photo is searched; the networks within take 192 and 224 px."""

_CONFIDENCE = 0.1
_SURE_CONFIDENCE = 0.3
_SMALL = 0.25  # of the photo: the landmarks' longer side
_CONFIRMATION_MARGIN = 2.0
_DARK = 90  # of 255: a hand whose median light is below is searched again
_LIT = 110  # of 255: in a copy where it has this light
_PAIR_CONFIDENCE = 0.5  # of the attempt to find a second hand: a wrong note would cost more than a missing one
_PAIR_PADDING = 0.25  # as in the first attempt
_SAME_HAND = 0.3  # two boxes that overlap by more than this fraction of the smaller one are of one hand
_SMOOTHED, _MOST_SMOOTHED = 0.003, 0.006
"""How a brightened copy is smoothed: the Gaussian's deviation in sides of the photo, per gain above 1; at most."""


class HandFinder:
    """The models loaded once. `find` may be called for any number of photos; threads take turns.

    UserError with the remedy where mediapipe, a library that it loads, or the bundle is missing.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._landmarker = Landmarker(_CONFIDENCE)
        self._sure_landmarker = Landmarker(_SURE_CONFIDENCE)
        self._pair_landmarker: Landmarker | None = None  # made when it is first needed; `prepare` never does

    def find(self, photo: Pixels) -> Record:
        """The record of the hand in an RGB photo uint8 (S, S, 3): found, unconfirmed, or `no_hand`."""
        with self._turn:
            record = self._search(photo)
            light = _light_of(photo, record)
            if light is None or light >= _DARK:
                return record
            again = self._search(_brightened(photo, light, _LIT))
            if not (again["found"] or (again["doubtful"] and not record["found"])):
                return record
            again["attempt"] += ATTEMPTS
            return again

    def find_near(self, frame: Pixels, before: Record) -> Record:
        """One attempt in the square around the hand `before`, of the frame before: its record, or `no_hand`."""
        with self._turn:
            seen = self._confirm(frame, {"image": before["image"]})
        return no_hand() if seen is None else hand(**seen, attempt=0)

    def sees_another(self, photo: Pixels, record: Record) -> bool:
        """Whether a hand other than that of `record`, which `find` gave for this photo, is in it: one attempt more.

        Hands that overlap by much count as one.
        """
        with self._turn:
            if self._pair_landmarker is None:
                self._pair_landmarker = Landmarker(_PAIR_CONFIDENCE, hands=2)
            seen = self._detect_all(self._pair_landmarker, photo, _PAIR_PADDING)
        return any(_shared(hand["image"], record["image"]) < _SAME_HAND for hand in seen)

    def _search(self, photo: Pixels) -> Record:
        unconfirmed = None
        for attempt, (padding, change) in enumerate(_ATTEMPTS):
            shown = change(photo)
            seen = self._detect(self._landmarker, shown, padding)
            if seen is None:
                continue
            if attempt < LATE_ATTEMPT and np.ptp(seen["image"][:, :2], axis=0).max() >= _SMALL:
                return hand(**seen, attempt=attempt)
            confirmed = self._confirm(shown, seen)
            if confirmed is not None:
                return hand(**confirmed, attempt=attempt)
            if unconfirmed is None:
                unconfirmed = hand(**seen, attempt=attempt, unconfirmed=True)
        return no_hand() if unconfirmed is None else unconfirmed

    def _confirm(self, photo: Pixels, first: dict[str, Any]) -> dict[str, Any] | None:
        x, y, side, _ = box = upright_box(first["image"], _CONFIRMATION_MARGIN)
        seen = self._detect(self._sure_landmarker, crop(photo, box, LOOK_PX), 0.0)
        if seen is not None:
            corner = np.array([x - side / 2, y - side / 2, 0.0], np.float32)
            seen["image"] = seen["image"] * np.float32(side) + corner
        return seen

    def _detect(self, landmarker: Landmarker, photo: Pixels, padding: float) -> dict[str, Any] | None:
        """The first hand of `_detect_all`."""
        return next(iter(self._detect_all(landmarker, photo, padding)), None)

    def _detect_all(self, landmarker: Landmarker, photo: Pixels, padding: float) -> list[dict[str, Any]]:
        """The hands in the photo padded by this fraction on each edge, in the photo's coordinates."""
        margin = round(padding * len(photo))
        padded = np.pad(photo, ((margin, margin), (margin, margin), (0, 0)), mode="edge") if margin else photo
        seen = landmarker.detect(padded)
        grown = len(padded) / len(photo)
        corner = np.array([grown - 1, grown - 1, 0], np.float32) / 2
        return [hand | {"image": hand["image"] * grown - corner} for hand in seen]


_ONE_AT_A_TIME = threading.Lock()


def shared_finder() -> HandFinder:
    """This process's finder, made by the first thread that asks; UserError as `HandFinder`."""
    with _ONE_AT_A_TIME:
        return _finder()


@lru_cache(maxsize=1)
def _finder() -> HandFinder:
    return HandFinder()


def finder_settings(crop_size: int) -> dict[str, Any]:
    """What decides the records and crops of a photo, for the record of a store.

    UserError with the remedy where hands cannot be found: no mediapipe, none of its libraries, no bundle.
    """
    shared_finder()
    return finder_identity() | {"crop_size": crop_size}


def finder_identity() -> dict[str, Any]:
    """What decides where in a photo a hand is found: our attempts' version and the bundle's SHA-256.

    UserError with the remedy where there is no bundle.
    """
    return {"finder": FINDER_VERSION, "bundle": digest(find_bundle())}


def _shared(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How much of the smaller of two hands' boxes lies in the other, 0 to 1: landmarks float (21, 3)."""
    low = np.maximum(one[:, :2].min(0), other[:, :2].min(0))
    high = np.minimum(one[:, :2].max(0), other[:, :2].max(0))
    areas = [float(np.ptp(points[:, :2], axis=0).prod()) for points in (one, other)]
    return float(np.maximum(high - low, 0).prod()) / max(min(areas), 1e-9)


def _as_it_is(photo: Pixels) -> Pixels:
    return photo


def _mean_brightened(photo: Pixels) -> Pixels:
    return _brightened(photo, float(photo.mean()), 127.5)


def _brightened(photo: Pixels, light: float, wanted: float) -> Pixels:
    """By the gamma that makes `light` (0 to 255) of the photo `wanted`, smoothed by as much as their ratio asks."""
    blur_px = min(_SMOOTHED * (wanted / max(light, 1.0) - 1.0), _MOST_SMOOTHED) * len(photo)
    if blur_px > 0:
        photo = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(blur_px)))
    gamma = np.log(wanted / 255) / np.log(np.clip(light / 255, 0.02, 0.98))
    table = 255 * (np.arange(256) / 255) ** gamma
    brightened: Pixels = table.astype(np.uint8)[photo]
    return brightened


def _light_of(photo: Pixels, record: Record) -> float | None:
    """The median over the landmarks of how light the photo is there, 0 to 255; None without landmarks."""
    if not (record["found"] or record["doubtful"]):
        return None
    x, y = np.clip(record["image"][:, :2] * len(photo), 0, len(photo) - 1).astype(int).T
    return float(np.median(photo[y, x].mean(1)))


_ATTEMPTS: tuple[tuple[float, Callable[[Pixels], Pixels]], ...] = (
    (0.25, _as_it_is),
    (0.5, _as_it_is),
    (0.25, _mean_brightened),
    (0.0, _as_it_is),
    (0.5, _mean_brightened),
)
"""Padding on each edge, and what is done to the photo, in each attempt."""
