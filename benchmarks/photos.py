"""Photos to measure with where none are at hand: the synthetic sample's, drawn at 200 px and written as JPEGs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from horovod_asl.labels import NUM_CLASSES
from horovod_asl.photos.workers import process_pool
from horovod_asl.synthetic.render import SampleSpec, render_spec, sample_specs
from horovod_asl.system.cores import usable_cores

SIDE_PX = 200
_RECORDINGS = 3
_GRAIN = 6.0  # a camera's noise, in steps of 255: without it a drawing is half a photo's bytes
_FRAMES_PER_RECORDING = 1000  # recordings begin after multiples of it, as the public set's do


def draw_photos(folder: Path, *, count: int, say: Callable[[str], None]) -> Path:
    """About `count` JPEGs in class folders below `folder`, in three recordings, as the public set names them."""
    say(f"drawing {count:,} photos (name a folder of your own to measure with that)")
    each = max(1, round(count / (NUM_CLASSES * _RECORDINGS)))
    specs = sample_specs(0, _RECORDINGS, each)
    first = min(spec.recording for spec in specs)
    tasks = []
    for spec in specs:
        frame = (spec.recording - first) * _FRAMES_PER_RECORDING + spec.index + 1
        tasks.append((spec, folder / spec.label / f"{spec.label}{frame}.jpg"))
    for _, path in tasks:
        path.parent.mkdir(parents=True, exist_ok=True)
    with process_pool(usable_cores()) as pool:
        list(pool.map(_write, tasks, chunksize=64))
    return folder


def _write(task: tuple[SampleSpec, Path]) -> None:
    spec, path = task
    picture = render_spec(spec, SIDE_PX).astype(np.float32)
    seed = [ord(letter) for letter in path.stem]
    picture += np.random.default_rng(seed).normal(0.0, _GRAIN, picture.shape)
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    path.write_bytes(buffer.getvalue())
