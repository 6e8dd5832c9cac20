"""A model that reads photos, for programs: `horovod_asl.load()`, then `model.read(photo)`; see docs/api.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.distributed.base import Serial
from horovod_asl.distributed.gpu import refuse_unfit_gpu
from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.photo_view import Photo, PhotoView, in_photo_pixels, view_photo
from horovod_asl.photos.decode import PhotoError
from horovod_asl.runs.bundled_model import DEFAULT
from horovod_asl.system.cores import usable_cores

NO_HAND = "no hand found: read from the whole photo"
UNCONFIRMED = "unsure of the hand: a closer look did not confirm it"
TWO_HANDS = "two hands: the clearer one was read"
WHOLE_PHOTO = "this run reads whole photos and looks for no hand"
_MARGIN = 0.15
"""By how much of the longer side a hand's box is larger than that of its joints, which lie within the fingers."""
_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class Hand:
    """A hand in a photo, in pixels of the photo as it is shown (after its EXIF rotation), from the upper left corner.

    Attributes:
        box: left, top, right, bottom of the upright box around the hand, within the photo.
        joints: float32 (21, 3), x, y, and z away from the camera, in MediaPipe's order: 0 the wrist, then four joints
            per finger from the thumb to the little one, each from the palm to the tip. A joint may lie outside.
        handedness: the hand's own side, in a photo that is not mirrored.
        confidence: MediaPipe's in the handedness, 0.5 to 1.
    """

    box: tuple[float, float, float, float]
    joints: NDArray[np.float32]
    handedness: Literal["left", "right"]
    confidence: float


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model reads in a photo.

    Attributes:
        letter: the likeliest class, `A` to `Z`, `space`, `del` or `nothing`; None where its probability is less than
            the model's `abstain`.
        probabilities: of every class, likeliest first; they sum to 1.
        hand: None where none was found, or the run looks for none.
        note: why there is no hand, or what is doubtful about it; None where one hand was found.
    """

    letter: str | None
    probabilities: dict[str, float]
    hand: Hand | None
    note: str | None


class Predictor:
    """A run that reads photos. One thread may use it at a time."""

    def __init__(self, classifier: Classifier, *, abstain: float = 0.0) -> None:
        self.classifier, self.abstain = classifier, abstain
        self._reader = classifier.reader

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the network's outputs."""
        return self.classifier.classes

    @overload
    def read(self, photos: Photo) -> Reading: ...  # type: ignore[overload-overlap]  # text and bytes iterate, too

    @overload
    def read(self, photos: Iterable[Photo]) -> list[Reading]: ...

    def read(self, photos: Photo | Iterable[Photo]) -> Reading | list[Reading]:
        """Read one photo, or several (a list, any iterable, an array uint8 (n, height, width, 3)) in order.

        Args:
            photos: a path (str or Path), the bytes of a picture's file, a Pillow image of any mode, or a NumPy array
                uint8: RGB (height, width, 3), RGBA (height, width, 4), grey (height, width). Transparency is laid
                over white. A path, bytes and a Pillow image are turned by their EXIF orientation.

        Raises:
            UserError: (a ValueError) a photo cannot be read; the message names it.
        """
        if not _are_several(photos):
            return self.readings([self._view(photos, "the photo")])[0]  # type: ignore[arg-type]
        return list(self._read_all(photos))  # type: ignore[arg-type]

    def readings(self, views: Sequence[PhotoView]) -> list[Reading]:
        """What the network makes of photos that were viewed by this model's reader, as one batch."""
        if not views:
            return []
        rows = self.classifier.probabilities(np.stack([view.given for view in views]))
        return [self._reading(view, row) for view, row in zip(views, rows, strict=True)]

    def _read_all(self, photos: Iterable[Photo]) -> Iterator[Reading]:
        named = ((photo, f"photo {number} (from 0)") for number, photo in enumerate(photos))
        with ThreadPoolExecutor(usable_cores()) as pool:
            while chunk := list(islice(named, _TOGETHER)):
                yield from self.readings(list(pool.map(self._view, *zip(*chunk, strict=True))))

    def _view(self, photo: Photo, called: str) -> PhotoView:
        try:
            return view_photo(photo, self._reader)
        except PhotoError as error:
            name = str(photo) if isinstance(photo, str | os.PathLike) else called
            raise UserError(f"{name}: {error}") from error

    def _reading(self, view: PhotoView, row: NDArray[np.float32]) -> Reading:
        order = np.argsort(-row, kind="stable")
        probabilities = {self.classes[k]: float(row[k]) for k in order}
        best, confidence = next(iter(probabilities.items()))
        letter = best if confidence >= self.abstain else None
        return Reading(letter, probabilities, _hand_of(view), _note_on(view))


def load(run: str | os.PathLike[str] = DEFAULT, device: str = "auto", *, abstain: float = 0.0) -> Predictor:
    """A run as a reader of photos.

    Args:
        run: the folder of a run or bundle, or `default`, the model that ships.
        device: `auto` (the GPU where there is one), `cpu`, `cuda`, or `cuda:1` and so on.
        abstain: `letter` is None where the likeliest class has less than this probability, 0 to 1.

    Raises:
        UserError: (a ValueError) there is no such run or device, or hands cannot be found here.
    """
    if not 0 <= abstain <= 1:
        raise UserError(f"abstain {abstain} must be a probability between 0 and 1, such as 0.9")
    classifier = Classifier.from_run(Path(run).expanduser(), Serial(_device(device)))
    return Predictor(classifier, abstain=abstain)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is none: give 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs; give 'auto' or 'cpu'"
            )
        refuse_unfit_gpu(device)
    elif device.type != "cpu":
        raise UserError(f"device {name!r} was never tried: give 'auto', 'cpu' or 'cuda'")
    return device


def _are_several(photos: object) -> bool:
    if isinstance(photos, np.ndarray):
        return photos.ndim == 4
    return isinstance(photos, Iterable) and not isinstance(
        photos, str | bytes | bytearray | os.PathLike | Image.Image
    )


def _hand_of(view: PhotoView) -> Hand | None:
    record = view.record
    if record is None or not (record["found"] or record["doubtful"]):
        return None
    joints = in_photo_pixels(record["image"], view)
    low, high = joints[:, :2].min(0), joints[:, :2].max(0)
    margin = _MARGIN * float((high - low).max())
    left, top = (float(value) for value in np.maximum(low - margin, 0))
    right, bottom = (float(value) for value in np.minimum(high + margin, view.size))
    side: Literal["left", "right"] = "right" if record["right"] else "left"
    return Hand((left, top, right, bottom), joints, side, float(record["score"]))


def _note_on(view: PhotoView) -> str | None:
    if view.record is None:
        return WHOLE_PHOTO
    if view.has_another_hand:
        return TWO_HANDS
    if view.record["doubtful"]:
        return UNCONFIRMED
    return None if view.record["found"] else NO_HAND
