"""The 26 signs as pictures and as joints, for the page that teaches them (`web/page/signs`).

`python -m horovod_asl.reports.sign_pictures FOLDER` draws them anew.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.synthetic.flesh import flesh_out
from horovod_asl.synthetic.pose import AVERAGE, POSES, Pose, Skeleton, pose_skeleton, rotation_matrix
from horovod_asl.synthetic.skin import Light, Skin, paint

LETTERS = tuple(string.ascii_uppercase)
_SKIN = Skin(back=(0.46, 0.24, 0.14), palm=(0.60, 0.35, 0.24), nail=(0.72, 0.47, 0.38), sleeve=(0.03, 0.13, 0.17))
_LIGHT = Light(direction=(-0.45, -0.55, 0.70), lamp=(1.02, 1.0, 0.96), room=(0.52, 0.53, 0.56))
_PICTURE_PX, _FINER = 224, 3
_HAND_FRACTION = 0.72
"""The longer side of the hand's joints, as a fraction of the picture's."""
_LONGEST_HAND = 0.8
"""Hand lengths: a hand whose joints span less is drawn no larger, so that a fist stays a fist."""
_EYE = np.array([1.0, -1.0, -1.0])
"""From the camera's frame to MediaPipe's: x right, y down, z away from the camera."""


def sign_joints(pose: Pose) -> NDArray[np.float64]:
    """A right hand's joints as MediaPipe's world landmarks have them, but in hand lengths: float64 (21, 3)."""
    return np.asarray(_in_view(pose).joints * _EYE)


def draw_sign(letter: str, size: int = _PICTURE_PX) -> Image.Image:
    """The sign as others see it, a right hand on nothing: RGBA, (size, size)."""
    fine = _FINER * size
    skeleton = _in_view(POSES[letter])
    flat = skeleton.joints[:, :2] * [1, -1]
    low, high = flat.min(0), flat.max(0)
    scale = _HAND_FRACTION * fine / max(_LONGEST_HAND, float((high - low).max()))
    wrist = fine / 2 - scale * (low + high) / 2
    flesh = flesh_out(skeleton, np.asarray(POSES[letter].forearm), AVERAGE, wrist, scale)
    light, coverage = paint(flesh, _SKIN, _LIGHT, fine)
    colour = np.sqrt(np.clip(light, 0, 1))
    pixels = np.dstack([colour, coverage]) * 255
    return Image.fromarray(pixels.astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)


def draw_signs(folder: Path) -> None:
    """Write `A.webp` … `Z.webp` and `signs.json`, which has the joints of each letter by `sign_joints`."""
    folder.mkdir(parents=True, exist_ok=True)
    for letter in LETTERS:
        draw_sign(letter).save(folder / f"{letter}.webp", quality=82, method=6)
    joints = {letter: sign_joints(POSES[letter]).round(3).tolist() for letter in LETTERS}
    lines = ",\n".join(f'"{letter}": {json.dumps(rows, separators=(",", ":"))}' for letter, rows in joints.items())
    (folder / "signs.json").write_text(f"{{\n{lines}\n}}\n")


def _in_view(pose: Pose) -> Skeleton:
    return pose_skeleton(pose).turned(rotation_matrix(*pose.view))


if __name__ == "__main__":
    draw_signs(Path(sys.argv[1]))
