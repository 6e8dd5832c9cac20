"""Draw a film of a hand that spells a text, or that signs nothing: its text is known, to test and measure with.

    horovod-asl draw "HELLO WORLD" hello.mp4
    horovod-asl draw "HELLO WORLD" hello.mp4 --seed 3 --speed 3.5 --spaces gap
    horovod-asl draw "" nothing.mp4 --idle 60       # it rests, waves, scratches, types, points
    horovod-asl draw HELLO camera.y4m               # for Chromium's --use-file-for-fake-video-capture

The seed draws who signs (the hand, its skin and side, the way of signing), the room, the light, the camera and its
frame rate, 15 to 30. The same seed gives the same frames, 640 × 480 pixels each. Beside the film comes OUT.json: the
text, the frame rate, and from when to when each letter is held, in seconds. OUT ends with .mp4, .mov or .mkv (H.264),
.mjpeg, or .y4m (about 14 MB a second).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from horovod_asl.command_line.checks import require_range
from horovod_asl.command_line.cli import parse, require_writable, write_text
from horovod_asl.command_line.progress import Progress, Report
from horovod_asl.errors import UserError
from horovod_asl.photos.film_writer import require_film_name, write_film

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from horovod_asl.synthetic.film import Film
    from horovod_asl.synthetic.motion import Span


@dataclass(frozen=True)
class DrawConfig:
    """Flags of `draw`."""

    text: Positional[Annotated[str, arg(metavar="TEXT")]]
    """The letters A to Z, and spaces. With --idle, empty quotes."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """The film to write."""
    seed: int = 0
    """Who signs, where, and by which camera."""
    speed: float = 2.0
    """Letters a second: 1 is slow, 3.5 as fast as people finger-spell."""
    spaces: Literal["sign", "gap"] = "sign"
    """Between words: the sign `space`, or the hand goes out of sight for a second."""
    idle: float | None = None
    """In place of a text: so many seconds in which the hand signs nothing."""

    def __post_init__(self) -> None:
        require_range("--seed", self.seed, 0)
        require_range("--speed", self.speed, 0.2, 6, unit="letters a second")
        require_range("--idle", self.idle, 1, 3600, unit="seconds")
        if self.idle is not None and self.text:
            raise UserError(f"a hand cannot spell {self.text!r} and sign nothing: leave one of TEXT and --idle out")


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 on success."""
    config = parse(DrawConfig, argv, prog="horovod-asl draw", description=__doc__)
    film = _film(config)
    require_film_name(config.out)
    require_writable(config.out, "OUT")
    with Progress("frames drawn") as progress:
        write_film(config.out, _frames(film, progress.update), film.size, film.frames_per_second)
    labels = config.out.with_suffix(".json")
    write_text(labels, json.dumps(_facts(config, film), indent=1) + "\n", "OUT")
    seconds = film.frames / film.frames_per_second
    print(f"wrote {config.out} ({seconds:.1f} s at {film.frames_per_second} frames a second) and {labels}")
    return 0


def _film(config: DrawConfig) -> Film:
    from horovod_asl.synthetic.film import FilmSpec, open_film, open_idle_film

    if config.idle is not None:
        return open_idle_film(config.seed, config.idle)
    text = config.text.upper()
    if "<" in text:  # a way to say the sign `del`, for programs alone
        raise UserError("cannot spell '<': the manual alphabet has A to Z, and words are set apart by spaces")
    return open_film(FilmSpec(text, config.seed, config.speed, spaces=config.spaces))


def _frames(film: Film, report: Report) -> Iterator[NDArray[np.uint8]]:
    for number in range(film.frames):
        yield film.frame(number).pixels
        report(number + 1, film.frames)


def _rounded(span: Span) -> dict[str, object]:
    return {"label": span.label, "start_s": round(span.start_s, 3), "end_s": round(span.end_s, 3)}


def _facts(config: DrawConfig, film: Film) -> dict[str, object]:
    return {
        "text": config.text.upper(),
        "seed": config.seed,
        "letters_per_second": None if config.idle else config.speed,
        "frames_per_second": film.frames_per_second,
        "frames": film.frames,
        "letters": [_rounded(span) for span in film.track.spans],
    }
