"""Draw docs/reading.png: ten drawn hands, the joints found in them, and what the bundled model reads.

python docs/reading.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import horovod_asl
from horovod_asl.hands.skeleton import with_skeleton
from horovod_asl.synthetic.render import SampleSpec, render_spec

WORD = "HOROVODASL"
PHOTO_PX, CELL_PX, CAPTION_PX, GAP_PX = 384, 128, 44, 6
SEED = 5  # not the seed of the drawn hands in the bundled model's training
INK, GREY = "#28282e", "#6b6b76"


def picture() -> Image.Image:
    """Two rows of hands, as drawn and with their joints; the answer and its probability below each."""
    specs = [
        SampleSpec(seed=SEED, label=letter, recording=number, index=0) for number, letter in enumerate(WORD)
    ]
    photos = [render_spec(spec, PHOTO_PX) for spec in specs]
    readings = horovod_asl.load(device="cpu").read(photos)
    page = Image.new(
        "RGB", (len(WORD) * (CELL_PX + GAP_PX) + GAP_PX, 2 * CELL_PX + 3 * GAP_PX + CAPTION_PX), "white"
    )
    pen = ImageDraw.Draw(page)
    for number, (pixels, reading) in enumerate(zip(photos, readings, strict=True)):
        photo, x = Image.fromarray(pixels), GAP_PX + number * (CELL_PX + GAP_PX)
        found = photo if reading.hand is None else with_skeleton(photo, reading.hand.joints[:, :2])
        for row, shown in enumerate((photo, found)):
            page.paste(shown.reduce(PHOTO_PX // CELL_PX), (x, GAP_PX + row * (CELL_PX + GAP_PX)))
        middle, y = x + CELL_PX / 2, 2 * (CELL_PX + GAP_PX) + GAP_PX
        pen.text((middle, y + 12), str(reading.letter), INK, ImageFont.load_default(22), anchor="mm")
        percent = f"{100 * next(iter(reading.probabilities.values())):.1f}%"
        pen.text((middle, y + 33), percent, GREY, ImageFont.load_default(13), anchor="mm")
    return page


if __name__ == "__main__":
    # 256 colours keep the file small enough for a README.
    small = picture().quantize(256, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(Path(__file__).with_suffix(".png"), optimize=True)
