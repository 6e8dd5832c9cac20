"""From a photo to a letter with the ONNX file alone: NumPy, Pillow, MediaPipe and ONNX Runtime, no torch.

    python examples/onnx_read.py model.onnx hand_landmarker.task photo.jpg other.png

It imports nothing of horovod_asl: it is a reference of how to feed a network with the inputs `crop` and `hand`, as
docs/onnx.md describes them, in any language. It prints a JSON object per photo. `horovod-asl predict --json` gives
the same classes, and probabilities within 0.001.
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import onnxruntime
from mediapipe import Image as MediaPipeImage
from mediapipe import ImageFormat
from mediapipe.tasks.python import BaseOptions, vision
from PIL import Image, ImageFilter, ImageOps

SQUARE_PX = 384
PALM = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
NO_HAND = {"seen": 0.0, "doubtful": 0.0, "side": 0.0, "image": np.zeros((21, 3)), "world": np.zeros((21, 3))}


# ---- the photo as a square ------------------------------------------------------------------------------------


def square_of(path: str) -> np.ndarray:
    """uint8 (384, 384, 3): the photo upright, its longer side fitted, the shorter one padded with its border."""
    picture = Image.open(path)
    longer = max(picture.size)
    if (
        picture.format == "JPEG"
    ):  # large ones are decoded at a half, a quarter or an eighth: faster, and antialiased
        divisor = next((some for some in (8, 4, 2) if longer >= some * 1.5 * SQUARE_PX), 1)
        picture.draft(None, (picture.width // divisor, picture.height // divisor))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    scale = SQUARE_PX / max(upright.size)
    fitted = upright.resize([max(1, round(side * scale)) for side in upright.size], Image.Resampling.BILINEAR)
    gaps = [SQUARE_PX - side for side in (fitted.height, fitted.width)]
    return np.pad(fitted, [*((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)], mode="edge")


# ---- the hand in it -------------------------------------------------------------------------------------------


class HandFinder:
    """MediaPipe's Hand Landmarker, asked until a look finds a hand: step 2 of docs/onnx.md."""

    LOOKS = (
        (0.25, False),
        (0.5, False),
        (0.25, True),
        (0.0, False),
        (0.5, True),
    )  # padding, whether brightened

    def __init__(self, bundle: str) -> None:
        self.ready, self.sure = (self._landmarker(bundle, confidence) for confidence in (0.1, 0.3))

    @staticmethod
    def _landmarker(bundle: str, confidence: float) -> vision.HandLandmarker:
        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=bundle),
            num_hands=1,
            min_hand_detection_confidence=confidence,
            min_hand_presence_confidence=confidence,
        )
        return vision.HandLandmarker.create_from_options(options)

    def find(self, square: np.ndarray) -> dict:
        """`seen`, `doubtful`, `side` (1 right, −1 left, 0 none) and landmarks `image` and `world`, each (21, 3)."""
        hand = self._search(square)
        if not hand["seen"]:
            return hand
        x, y = np.clip(hand["image"][:, :2] * SQUARE_PX, 0, SQUARE_PX - 1).astype(int).T
        light = float(np.median(square[y, x].mean(1)))
        if light >= 90:
            return hand
        again = self._search(brightened(square, light, 110))
        is_better = again["seen"] and (not again["doubtful"] or hand["doubtful"])
        return again if is_better else hand

    def _search(self, square: np.ndarray) -> dict:
        doubtful = NO_HAND
        for number, (padding, is_brightened) in enumerate(self.LOOKS):
            shown = brightened(square, float(square.mean()), 127.5) if is_brightened else square
            hand = self._look(self.ready, shown, padding)
            if hand is None:
                continue
            if number < 2 and np.ptp(hand["image"][:, :2], axis=0).max() >= 0.25:
                return hand
            confirmed = self._second_look(shown, hand["image"])
            if confirmed is not None:
                return confirmed
            if not doubtful["seen"]:
                doubtful = hand | {"doubtful": 1.0}
        return doubtful

    def _second_look(self, shown: np.ndarray, image: np.ndarray) -> dict | None:
        """The hand once more, on the upright square twice as large as the landmarks' box."""
        low, high = image[:, :2].min(0), image[:, :2].max(0)
        (x, y), side = (low + high) / 2, 2 * float((high - low).max())
        hand = self._look(self.sure, crop_of(shown, (x, y, side, 0.0), SQUARE_PX), 0.0)
        if hand is not None:
            hand["image"] = hand["image"] * np.float32(side) + np.array(
                [x - side / 2, y - side / 2, 0], np.float32
            )
        return hand

    @staticmethod
    def _look(landmarker: vision.HandLandmarker, shown: np.ndarray, padding: float) -> dict | None:
        margin = round(padding * len(shown))
        padded = np.pad(shown, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        seen = landmarker.detect(MediaPipeImage(ImageFormat.SRGB, np.ascontiguousarray(padded)))
        if not seen.hand_landmarks:
            return None
        image, world = (
            np.array([[point.x, point.y, point.z] for point in points[0]], np.float32)
            for points in (seen.hand_landmarks, seen.hand_world_landmarks)
        )
        grown = len(padded) / len(shown)
        image = image * grown - np.array([grown - 1, grown - 1, 0], np.float32) / 2
        side = 1.0 if seen.handedness[0][0].category_name == "Right" else -1.0
        return {"seen": 1.0, "doubtful": 0.0, "side": side, "image": image, "world": world}


def brightened(square: np.ndarray, light: float, wanted: float) -> np.ndarray:
    """By the gamma that makes `light` the light that is wanted, smoothed by how much that is."""
    blur_px = min(0.003 * (wanted / max(light, 1.0) - 1.0), 0.006) * len(square)
    if blur_px > 0:
        square = np.asarray(Image.fromarray(square).filter(ImageFilter.GaussianBlur(blur_px)))
    gamma = math.log(wanted / 255) / math.log(min(max(light / 255, 0.02), 0.98))
    return (255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)[square]


# ---- the two inputs -------------------------------------------------------------------------------------------


def box_of(image: np.ndarray) -> tuple[float, float, float, float]:
    """Centre x and y, side, and turn in radians (clockwise) of the crop around landmarks (21, 3)."""
    points = image[:, :2].astype(np.float64)
    across, up = ((points[6] + points[14]) / 2 + points[10]) / 2 - points[0]
    turn = math.atan2(across, -up)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    palm = points[PALM] @ rotation.T
    low, high = palm.min(0), palm.max(0)
    width, height = high - low
    x, y = ((low + high) / 2 - [0.0, 0.1 * height]) @ rotation
    return float(x), float(y), 2.3 * max(width, height, 1e-3), turn


def crop_of(square: np.ndarray, box: tuple[float, float, float, float], size_px: int) -> np.ndarray:
    """The turned square `box` as uint8 (size_px, size_px, 3), black beyond the edge."""
    x, y, side, turn = (float(np.float32(value)) for value in box)
    picture = Image.fromarray(square)
    side = max(side, 2.0 / len(square))
    shrunk_px = round(size_px / side)
    if shrunk_px < len(square):  # shrunk before it is turned, for the sake of antialiasing
        picture = picture.resize((shrunk_px, shrunk_px), Image.Resampling.BILINEAR)
    step = side * picture.width / size_px
    cos, sin = step * math.cos(turn), step * math.sin(turn)
    left = x * picture.width - (cos - sin) * size_px / 2
    top = y * picture.width - (sin + cos) * size_px / 2
    matrix = (cos, -sin, left, sin, cos, top)
    return np.asarray(
        picture.transform((size_px, size_px), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )


def inputs_of(square: np.ndarray, hand: dict, crop_px: int) -> dict[str, np.ndarray]:
    """`crop` uint8 (1, crop_px, crop_px, 3) and `hand` float32 (1, 50, 3)."""
    box = box_of(hand["image"]) if hand["seen"] else (0.5, 0.5, 1.0, 0.0)
    rows = np.zeros((1, 50, 3), np.float32)
    rows[0, :21], rows[0, 21:42] = hand["image"], hand["world"]
    rows[0, 42] = hand["seen"], hand["side"], hand["doubtful"]
    rows[0, 43] = box[:3]
    rows[0, 44, 0] = box[3]
    rows[0, 45:48] = np.eye(3)
    return {"crop": crop_of(square, box, crop_px)[None], "hand": rows}


def main(model: str, bundle: str, *photos: str) -> None:
    """Read the photos, and print a JSON object for each."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    classes, temperature = json.loads(facts["classes"]), float(facts["temperature"])
    crop_px = next(given.shape[1] for given in session.get_inputs() if given.name == "crop")
    finder = HandFinder(bundle)
    for photo in photos:
        square = square_of(photo)
        hand = finder.find(square)
        (logits,) = session.run(["logits"], inputs_of(square, hand, crop_px))
        scaled = np.exp((logits[0] - logits[0].max()) / temperature)
        probabilities = dict(zip(classes, (scaled / scaled.sum()).tolist(), strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        found = bool(hand["seen"])
        print(json.dumps({"photo": photo, "class": best, "hand": found, "probabilities": probabilities}))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(f"usage: {sys.argv[0]} MODEL.onnx HAND_LANDMARKER.task PHOTO …")
    main(*sys.argv[1:])
