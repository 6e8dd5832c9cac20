"""Single photos of an evaluation: which are worth a look, where to have them, and what explains their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from horovod_asl.discovery.class_names import USUAL, ClassNames
from horovod_asl.discovery.find_photos import FoundPhoto, find_photos
from horovod_asl.engine.dataset import Dataset
from horovod_asl.engine.predictions import Predictions
from horovod_asl.errors import UserError
from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.hands.record import LANDMARKS
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.readers import Reader
from horovod_asl.photos.decode import decode_photo
from horovod_asl.reports.example_sheets import ConfusedPair, Example, Pixels
from horovod_asl.reports.gradcam import grad_cam
from horovod_asl.reports.plots import most_confused
from horovod_asl.store.store import Store

_AT_ONCE = 16  # photos whose gradients are in memory together
_SAME_CONFIDENCE = 4  # decimals: the last ones change with the number of ranks, and must not choose


@dataclass(frozen=True)
class Readings:
    """What was said of n photos: class and answer int64 (n,), the answer's probability float64 (n,)."""

    labels: NDArray[np.int64]
    said: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(
        cls, predictions: Predictions, temperature: float, order: Sequence[int] | NDArray[np.int64]
    ) -> Readings:
        """The answers, taken in this order: that of the photos, whatever ranks answered for them."""
        order = np.asarray(order, np.int64)
        said = predictions.logits.argmax(axis=1)[order]
        return cls(predictions.labels[order], said, predictions.confidence(temperature)[order])

    def rightly(self) -> NDArray[np.int64]:
        """The photos that were correctly classified."""
        return np.flatnonzero(self.said == self.labels)

    def wrongly(self) -> NDArray[np.int64]:
        """The others."""
        return np.flatnonzero(self.said != self.labels)

    def as_read(self, label: int, said: int) -> NDArray[np.int64]:
        """The photos of one class that were read as one class."""
        return np.flatnonzero((self.labels == label) & (self.said == said))

    def surest(self, photos: NDArray[np.int64], count: int) -> list[int]:
        """The `count` of these photos with the highest confidence, of equals the first."""
        return sorted(
            photos.tolist(), key=lambda i: (-round(float(self.confidence[i]), _SAME_CONFIDENCE), i)
        )[:count]

    def spread(self, photos: NDArray[np.int64], count: int) -> list[int]:
        """`count` of these photos: of each class its surest, then of each its second, and so on."""
        before: Counter[int] = Counter()
        turns: list[tuple[int, int, int]] = []
        for place, photo in enumerate(self.surest(photos, len(photos))):
            label = int(self.labels[photo])
            turns.append((before[label], place, photo))
            before[label] += 1
        return [photo for _, _, photo in sorted(turns)[:count]]


def ranks_apart(count: int, world_size: int) -> NDArray[np.int64]:
    """Where photo 0, 1, … of `count` is among answers that come rank by rank, each rank's every world_size-th."""
    by_rank = np.concatenate([np.arange(rank, count, world_size) for rank in range(world_size)])
    return np.argsort(by_rank).astype(np.int64)


class Album(Protocol):
    """Where the photos of an evaluation, by number, can be had again."""

    def name(self, photo: int) -> str:
        """What it is called where it came from."""

    def whole(self, photo: int) -> Pixels:
        """The whole photo, uint8 (S, S, 3)."""

    def array(self, photo: int) -> NDArray[Any]:
        """What the network reads of it."""

    def landmarks(self, photo: int) -> NDArray[np.float32] | None:
        """The landmarks of its hand, float32 (21, 3) as shares of the photo's side; None where none are known."""

    @property
    def lack(self) -> str | None:
        """Why no landmarks are known at all, if so."""


@dataclass(frozen=True)
class StoreAlbum:
    """Rows of a store; `photos` are the same as the network reads them."""

    store: Store
    rows: NDArray[np.int64]
    photos: Dataset

    def name(self, photo: int) -> str:
        """Source and path."""
        row = self.rows[photo]
        return f"{self.store.sources[row]}/{self.store.paths[row]}"

    def whole(self, photo: int) -> Pixels:
        """As large as the store has it."""
        return np.asarray(self.store.gather(self.rows[[photo]])[0])

    def array(self, photo: int) -> NDArray[Any]:
        """As it was scored."""
        return np.asarray(self.photos.gather(np.array([photo]))[0])

    def landmarks(self, photo: int) -> NDArray[np.float32] | None:
        """Those that `prepare --hands` saw, doubtful ones too: networks read them."""
        if self.lack is not None:
            return None
        hand = self.store.hands[self.rows[photo]]
        return np.array(hand["image"]) if hand["found"] or hand["doubtful"] else None

    @property
    def lack(self) -> str | None:
        """A store without hands."""
        return None if self.store.hand_settings else "the store holds no hands (prepare --hands)"


@dataclass
class FolderAlbum:
    """Photos of a folder, or of a zip, by their paths; they are read and decoded again."""

    folder: Path
    paths: Sequence[str]
    reader: Reader
    has_hands: bool
    """Whether what the reader makes holds the hand; else it is looked for here."""
    classes: ClassNames = USUAL
    """What names of folders and of files mean."""
    lack: str | None = None
    _found: dict[str, FoundPhoto] = field(default_factory=dict)
    _arrays: dict[int, NDArray[Any]] = field(default_factory=dict)

    def name(self, photo: int) -> str:
        """Its path in the folder."""
        return str(Path(self.paths[photo]).relative_to(self.folder))

    def whole(self, photo: int) -> Pixels:
        """At the size at which hands are looked for."""
        return decode_photo(self._read(photo), LOOK_PX)

    def array(self, photo: int) -> NDArray[Any]:
        """As it was scored; read once, for the reader may have to find the hand."""
        if photo not in self._arrays:
            self._arrays[photo] = self.reader(self._read(photo))
        return self._arrays[photo]

    def landmarks(self, photo: int) -> NDArray[np.float32] | None:
        """Those that the network was given; for a network without, those that are found now."""
        if self.has_hands:
            return landmarks_in(self.array(photo))
        try:
            hand = None if self.lack else shared_finder().find(self.whole(photo))
        except UserError as error:  # without mediapipe there is still all the rest
            self.lack, hand = str(error), None
        return np.array(hand["image"]) if hand is not None and hand["found"] else None

    def _read(self, photo: int) -> bytes:
        if not self._found:
            photos = find_photos(self.folder, classes=self.classes).photos
            self._found = {str(self.folder / one.path): one for one in photos}
        return self._found[self.paths[photo]].origin.read()


def landmarks_in(array: NDArray[Any]) -> NDArray[np.float32] | None:
    """The image landmarks float32 (21, 3) in what a network of hands reads of a photo; None where none was seen."""
    hand = array if array.dtype.names is None else array["hand"]
    return np.array(hand[:LANDMARKS]) if hand[2 * LANDMARKS, 0] > 0 else None


def explained(
    classifier: Classifier, album: Album, readings: Readings, photos: Sequence[int], *, landmarks: bool
) -> list[Example]:
    """These photos with what explains their answers; `landmarks`: also the hand, which may have to be looked for."""
    arrays = [album.array(photo) for photo in photos]
    heats: list[NDArray[np.float32] | None] = [None] * len(photos)
    if classifier.input_type != "landmarks":
        heats = _heats(classifier, arrays, readings.said[list(photos)])
    return [
        Example(
            photo=album.whole(photo),
            shown=classifier.classes[readings.labels[photo]],
            said=classifier.classes[readings.said[photo]],
            confidence=float(readings.confidence[photo]),
            name=album.name(photo),
            seen=_crop_in(array, classifier.input_type),
            heat=heat,
            landmarks=album.landmarks(photo) if landmarks else None,
        )
        for photo, array, heat in zip(photos, arrays, heats, strict=True)
    ]


def confused_pairs(
    classifier: Classifier,
    album: Album,
    readings: Readings,
    scores: dict[str, Any],
    *,
    pairs: int = 6,
    each: int = 3,
) -> list[ConfusedPair]:
    """The pairs that cost the most photos, with the surest of their mistakes and of the other class's right ones."""
    found = []
    for shown, said, count, total in most_confused(scores, pairs):
        label, answer = classifier.classes.index(shown), classifier.classes.index(said)
        right = readings.as_read(answer, answer)
        other = right if len(right) else np.flatnonzero(readings.labels == answer)
        misread, others = (
            explained(classifier, album, readings, readings.surest(rows, each), landmarks=False)
            for rows in (readings.as_read(label, answer), other)
        )
        found.append(ConfusedPair(shown, said, count, total, misread, others))
    return found


def _heats(
    classifier: Classifier, arrays: Sequence[NDArray[Any]], said: NDArray[np.int64]
) -> list[NDArray[np.float32] | None]:
    # Named by a network whose last maps are not all it looks at.
    layer = getattr(classifier.model, "grad_cam_layer", None)
    heats: list[NDArray[np.float32] | None] = []
    for start in range(0, len(arrays), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        inputs = classifier.inputs(np.stack(arrays[part]))
        heats += list(grad_cam(classifier.model, inputs, said[part], layer=layer))
    return heats


def _crop_in(array: NDArray[Any], input_type: str) -> Pixels | None:
    if input_type in ("photos", "landmarks"):
        return None
    return np.asarray(array if array.dtype.names is None else array["crop"])
