"""Photos as they would be with less light: class folders of darker and noisier copies, for `evaluate` and `prepare`.

    python benchmarks/darken.py ../shared/data/asl_alphabet_train dark --light 0.35 --recording 3
    horovod-asl evaluate runs/model/crossval/asl-3 dark

Pixel values × `--light` (they are gamma-encoded: 0.35 is about a tenth of the light), a sensor's noise (normal, 1.5 %
of the largest value), a JPEG of quality 85. Unlike the copies of `prepare --poor-copies` all are dark, and have no
other damage.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from horovod_asl.data.sources import SyntheticOptions, open_sources

_NOISE = 0.015


def main() -> None:
    """Write the copies, every third photo of the recording."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--light", type=float, default=0.35)
    parser.add_argument("--recording", help="only photos of this one")
    parser.add_argument("--every", type=int, default=3, help="take each so-manieth photo")
    asked = parser.parse_args()
    (source,) = open_sources([str(asked.photos)], image_size=64, synthetic=SyntheticOptions())
    photos = [photo for photo in source.photos if asked.recording in (None, photo.recording)]
    for number, photo in enumerate(photos[:: asked.every]):
        picture = Image.open(io.BytesIO(photo.origin.read())).convert("RGB")
        pixels = np.asarray(picture, np.float32) / 255 * asked.light
        pixels += np.random.default_rng(number).normal(0, _NOISE, pixels.shape)
        path = asked.out / Path(photo.path).parent.name / Path(photo.path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(path, "JPEG", quality=85)
    print(f"{len(photos[:: asked.every])} photos in {asked.out}")


if __name__ == "__main__":
    main()
