"""Draw docs/sample.png, the built-in sample's 29 classes under three looks each.

python docs/sample.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from horovod_asl.labels import CLASSES
from horovod_asl.synthetic.render import SampleSpec, render_spec

CELL_PX, CAPTION_PX, GAP_PX = 100, 20, 6
COLUMNS, LOOKS, RECORDINGS = 10, 3, 6


def sheet() -> Image.Image:
    """A captioned strip of photos per class, ten classes a row."""
    rows = -(-len(CLASSES) // COLUMNS)
    width, height = CELL_PX + GAP_PX, CAPTION_PX + LOOKS * CELL_PX + GAP_PX
    page = Image.new("RGB", (COLUMNS * width + GAP_PX, rows * height + GAP_PX), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for k, label in enumerate(CLASSES):
        x, y = GAP_PX + k % COLUMNS * width, GAP_PX + k // COLUMNS * height
        pen.text((x + CELL_PX / 2, y + CAPTION_PX / 2 - 1), label, "#28282e", font, anchor="mm")
        for index in range(LOOKS):
            spec = SampleSpec(seed=0, label=label, recording=(k + 2 * index) % RECORDINGS, index=index)
            photo = Image.fromarray(render_spec(spec, 2 * CELL_PX)).reduce(2)
            page.paste(photo, (x, y + CAPTION_PX + index * CELL_PX))
    return page


if __name__ == "__main__":
    # 256 colours keep the file small enough for a README.
    small = sheet().quantize(256, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(Path(__file__).with_suffix(".png"), optimize=True)
