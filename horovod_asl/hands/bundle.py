"""The Hand Landmarker's models: the bundle that ships with the package, how it was made, and that it is that one.

MediaPipe reads a hand through two small networks, a palm detector and a landmark regressor, packed in a `.task` file
that is normally downloaded from Google. The same two lie in MediaPipe's older wheels (Apache-2.0). hand_models/ holds
the bundle that was made from one of these; the same commands give the same bytes:

    pip download --no-deps mediapipe==0.10.21
    python -m horovod_asl.hands.bundle mediapipe-0.10.21-*.whl

A bundle of one's own is named in $HOROVOD_ASL_HAND_BUNDLE; it may be any that MediaPipe takes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path

from horovod_asl.errors import UserError

VARIABLE = "HOROVOD_ASL_HAND_BUNDLE"
SHIPPED = Path(__file__).parents[1] / "hand_models" / "hand_landmarker-0.10.21.task"
SHA256 = "aaf5dc391ce1cda387ee696293c4bef6ac305fa8fb9409da0700392d1956a93c"
_PARTS = {
    "hand_detector.tflite": "mediapipe/modules/palm_detection/palm_detection_full.tflite",
    "hand_landmarks_detector.tflite": "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
}
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever it is made


def find_bundle() -> Path:
    """The bundle that the user named, or else the shipped one; UserError where it is missing or not what we know."""
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(os.path.expanduser(named))  # noqa: PTH111 - Path's own raises a RuntimeError for an unknown user
        if not path.is_file():
            raise UserError(f"{VARIABLE} names {named}, which is no file")
        return path
    if not SHIPPED.is_file() or digest(SHIPPED) != SHA256:
        raise UserError(
            f"MediaPipe's hand models, {SHIPPED}, are missing or damaged: install horovod_asl again, or name a "
            f"hand_landmarker.task in {VARIABLE}"
        )
    return SHIPPED


def digest(path: Path) -> str:
    """SHA-256 of the file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assemble(wheel: Path, target: Path) -> Path:
    """Pack the two models of MediaPipe's wheel into a bundle at `target`; it appears when it is whole and verified.

    Raises:
        UserError: the wheel is none, lacks them, or gives a bundle other than the known one.
    """
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(wheel) as models,
            temporary.open("wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as bundle,
        ):
            for name, path in _PARTS.items():
                bundle.writestr(_aligned(name, file.tell()), models.read(path))
        if digest(temporary) != SHA256:
            raise UserError(
                f"the models in {wheel} are not those of mediapipe 0.10.21: name that version's wheel"
            )
        temporary.replace(target)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot take the hand models from {wheel}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _aligned(name: str, offset: int) -> zipfile.ZipInfo:
    """The entry of a file whose bytes begin at a multiple of 16: MediaPipe maps its models where they lie."""
    entry = zipfile.ZipInfo(name, _DATE)
    header = 30 + len(name)  # of a zip's local file header
    padding = -(offset + header + 4) % 16
    entry.extra = b"\xfe\xca" + padding.to_bytes(2, "little") + bytes(padding)
    return entry


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m horovod_asl.hands.bundle WHEEL")
    try:
        print(assemble(Path(sys.argv[1]), SHIPPED))
    except UserError as error:
        sys.exit(f"hand bundle: {error}")
