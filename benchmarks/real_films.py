"""Films of real people who spell a text: their webcam frames, letter after letter, in a grey frame.

The photos are cut around the hand (PROVENANCE.md beside them). A letter's run of consecutive frames is played forth
and back for as long as the letter lasts; where a person has no runs, one still stands. Letters follow by cuts, so
there are no movements between them; at a letter that comes twice the whole photo slides to the left by `_SLIDE_PX`.
Between words the frame is empty. The photos are pasted as large as they are: a hand has then a fifth of the frame's
height. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.synthetic.spelling import letters_of

FRAMES_PER_SECOND = 25
SIZE = 640, 480
_GREY = 128
_GAP_S = 1.2
"""Without a hand, between words and at both ends."""
_SLIDE_PX, _SLIDE_FRAMES = 24, 5


@dataclass(frozen=True, eq=False)
class RealFrame:
    """`pixels` (480, 640, 3) uint8 sRGB at `time_s`; `label`: the letter that is held then, None in gaps."""

    time_s: float
    pixels: NDArray[np.uint8]
    label: str | None


def real_film(
    person: Path, text: str, seconds_per_letter: float = 0.6, seed: int = 0
) -> Iterator[RealFrame]:
    """The film of one person.

    Args:
        person: a folder of class folders of `run-NNN.jpg` and `still-NNN.jpg`.
        text: A to Z and spaces.
        seed: draws where in its run each letter begins.

    Raises:
        UserError: the text cannot be spelled, or the person lacks one of its letters.
    """
    labels = letters_of(text)
    runs = {label: _run(person, label) for label in set(labels) - {"space"}}
    for number, (pixels, label) in enumerate(_frames(labels, runs, seconds_per_letter, seed)):
        yield RealFrame(number / FRAMES_PER_SECOND, pixels, label)


def _run(person: Path, label: str) -> list[Image.Image]:
    paths = sorted((person / label).glob("run-*.jpg")) or sorted((person / label).glob("still-*.jpg"))[:1]
    if not paths:
        raise UserError(f"{person} has no photos of {label}: leave it out of the text")
    return [Image.open(path).convert("RGB") for path in paths]


def _frames(
    labels: Sequence[str], runs: dict[str, list[Image.Image]], seconds_per_letter: float, seed: int
) -> Iterator[tuple[NDArray[np.uint8], str | None]]:
    rng = np.random.default_rng(seed)
    gap = [(_pasted(None, 0), None)] * round(_GAP_S * FRAMES_PER_SECOND)
    held = round(seconds_per_letter * FRAMES_PER_SECOND)
    yield from gap
    before, shift = "", 0
    for label in labels:
        if label == "space":
            yield from gap
        else:
            slide = _SLIDE_PX if label == before else 0
            shift = shift + slide if label == before else 0
            start = int(rng.integers(len(runs[label])))
            for number in range(held):
                left = slide - slide * min(number + 1, _SLIDE_FRAMES) // _SLIDE_FRAMES
                yield _pasted(_there_and_back(runs[label], start + number), left - shift), label
        before = label
    yield from gap


def _there_and_back(run: list[Image.Image], number: int) -> Image.Image:
    period = max(2 * len(run) - 2, 1)
    at = number % period
    return run[min(at, period - at)]


def _pasted(photo: Image.Image | None, right: int) -> NDArray[np.uint8]:
    """The photo in the middle of a grey frame, or so many pixels to the right of it."""
    frame = Image.new("RGB", SIZE, (_GREY, _GREY, _GREY))
    if photo is not None:
        frame.paste(photo, ((SIZE[0] - photo.width) // 2 + right, (SIZE[1] - photo.height) // 2))
    return np.asarray(frame)
