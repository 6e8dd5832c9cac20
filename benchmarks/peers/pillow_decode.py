"""Peer of `prepare` (P3): Pillow decodes each photo in full and resizes it, antialiased; nothing is written.

python benchmarks/peers/pillow_decode.py PHOTOS
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    paths = sorted(options.photos.rglob("*.jpg"))
    started, processor_started = time.perf_counter(), time.process_time()
    for path in paths:
        with Image.open(path) as photo:
            small = photo.convert("RGB").resize((options.size, options.size), Image.Resampling.BILINEAR)
        np.asarray(small)
    seconds = {
        "seconds": time.perf_counter() - started,
        "core_seconds": time.process_time() - processor_started,
    }
    print(json.dumps(seconds | {"photos": len(paths)}))
