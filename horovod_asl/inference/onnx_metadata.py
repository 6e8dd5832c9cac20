"""What a program needs to know to feed an ONNX file, as its metadata: text by key.

docs/onnx.md says the same at length, and `examples/onnx_read.py` is written from it alone.
"""

from __future__ import annotations

import json

from horovod_asl.hands.record import ARRAY_ROWS, CROP_SIDE
from horovod_asl.inference.classifier import Classifier
from horovod_asl.runs.checkpoint import weights_digest

_CROP = (
    "RGB, 0 to 255: the square around the hand, cut out of the photo's square and turned so that the hand points up "
    "(from the wrist to the middle knuckles), black beyond the photo's edge; without a hand the whole square. See "
    "`box`"
)
_HAND = (
    "the hand; coordinates are shares of the photo's square, x to the right and y down from its upper left corner, z "
    "away from the camera. Rows 0-20: MediaPipe's 21 image landmarks x, y, z. Rows 21-41: its world landmarks in "
    "metres. Row 42: seen (1 or 0), handedness (1 right, -1 left, 0 unseen), doubtful (1 where a second look did "
    "not confirm the hand, else 0). Row 43: the crop's centre x and y, and its side (0.5, 0.5, 1 without a hand). "
    "Row 44: its turn, radians clockwise, 0, 0. Rows 45-47: the identity matrix. Rows 48-49: 0. Landmarks are 0 "
    "without a hand"
)
_SQUARE = (
    "the photo upright (EXIF applied), transparency over white, RGB; resized with an antialiasing bilinear filter "
    "until its longer side is {side} pixels; the missing strips on both sides of the shorter one repeat its border"
)
_BOX = (
    "of the image landmarks p in the photo's square: up is from p0 to ((p6 + p14) / 2 + p10) / 2; turn = "
    "atan2(up.x, -up.y). Turn p by -turn; take the box of p0-3, 5, 6, 9, 10, 13, 14, 17, 18; its centre, moved by "
    "0.1 of the box's height towards the fingers and turned back, is the crop's; the crop's side is {side:g} times "
    "the box's longer one"
)
_LOGITS = "of the classes in the order of `classes`; probabilities are softmax(logits / temperature)"


def metadata(classifier: Classifier) -> dict[str, str]:
    """What the graph's inputs and outputs mean, how to make and read them, and which weights these are."""
    parameters = dict(classifier.model.named_parameters())
    facts = {
        "classes": json.dumps(classifier.classes),
        "image_size": str(classifier.image_size),
        "model": classifier.facts["model"],
        "epoch": classifier.epoch,
        "weights_digest": weights_digest(parameters),
        "temperature": classifier.temperature,
        "finished": "false" if classifier.unfinished is not None else "true",
        "outputs": json.dumps({"logits": f"float32 (n, {len(classifier.classes)}): {_LOGITS}"}),
        **_feeding(classifier),
        "manual": "docs/onnx.md and examples/onnx_read.py of horovod_asl",
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


def _feeding(classifier: Classifier) -> dict[str, str]:
    """`inputs` by name, `square`: what is done to a photo first, and for hands `box`, and how they are found."""
    side = classifier.reader.side_px
    square = {"square": _SQUARE.format(side=side)}
    if not classifier.reader.finds_hands:
        return {
            "inputs": json.dumps({"photo": f"uint8 (n, {side}, {side}, 3): RGB, 0 to 255: the square"}),
            **square,
        }
    inputs = {}
    if classifier.input_type != "landmarks":
        crop_px = classifier.facts["crop_size"]
        name = "crop" if classifier.input_type == "both" else "photo"
        inputs[name] = f"uint8 (n, {crop_px}, {crop_px}, 3): {_CROP}"
    if classifier.input_type != "pixels":
        inputs["hand"] = f"float32 (n, {ARRAY_ROWS}, 3): {_HAND}"
    found = {"hands": json.dumps(classifier.facts["hands"])} if "hands" in classifier.facts else {}
    return {"inputs": json.dumps(inputs), **square, "box": _BOX.format(side=CROP_SIDE), **found}
