"""What the server offers, by the bundled model: a reader for each page, one photo's letter, a spoken text."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.inference.photo_view import PhotoView, in_photo_pixels
from horovod_asl.live.calibration import Examples, Teacher
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.speech import can_speak, speak
from horovod_asl.live.suggestions import Suggestions
from horovod_asl.live.translator import Translator
from horovod_asl.photos.decode import check_size, decode_photo, upright_size
from horovod_asl.web.limits import Limits
from horovod_asl.web.page_reader import PageReader

_ONE_AT_A_TIME = threading.Lock()
"""MediaPipe's models are loaded with standard error turned away, which two threads must not do at one time."""


@dataclass(frozen=True)
class Services:
    """What the server offers. Several threads may call each at one time."""

    make_reader: Callable[[], PageReader]
    """A reader for a new page."""
    read_photo: Callable[[bytes], dict[str, Any]]
    """What is in a photo, as JSON; PhotoError where the bytes are none that can be read."""
    speak: Callable[[str], bytes] | None
    """A text as a WAV; None where this machine cannot speak."""


def bundled_services(limits: Limits) -> Services:
    """The services of the model that ships.

    Raises:
        UserError: ONNX Runtime, MediaPipe, symspellpy or a file of the model is missing, or the kept examples are
            damaged.
    """
    network, suggest, examples = HandNetwork(), Suggestions(), Examples()
    shared_finder()

    def make_reader() -> PageReader:
        with _ONE_AT_A_TIME:
            translator = Translator(network, examples)
        return PageReader(translator, suggest, limits, Teacher(examples, translator))

    return Services(
        make_reader, lambda photo: read_photo(photo, network, limits), speak if can_speak() else None
    )


def read_photo(data: bytes, network: HandNetwork, limits: Limits) -> dict[str, Any]:
    """What `horovod-asl predict` says of a photo, with the joints in fractions of its width and height.

    Raises:
        PhotoError: the bytes are no photo that can be read, or it is too large.
    """
    check_size(data, limits.photo_megapixels)
    square = decode_photo(data, LOOK_PX, max_megapixels=limits.photo_megapixels)
    record = shared_finder().find(square)
    shares = network.read(square, record).softmax
    order = np.argsort(-shares, kind="stable")
    probabilities = {network.classes[k]: round(float(shares[k]), 4) for k in order}
    hand = None
    if record["found"] or record["doubtful"]:
        size = upright_size(data)
        joints = in_photo_pixels(record["image"], PhotoView(square, size, LOOK_PX, record, False))[:, :2] / size
        hand = {"joints": np.round(joints, 4).tolist(), "handedness": "right" if record["right"] else "left"}
    return {"letter": next(iter(probabilities)), "probabilities": probabilities, "hand": hand}
