"""Translate a film in which somebody finger-spells: letters → words, captions and speech.

    horovod-asl translate film.mp4                       # prints the text
    horovod-asl translate film.mp4 > text.txt            # the text alone; progress goes to standard error
    horovod-asl translate film.mp4 --srt film.srt --json film.json
    horovod-asl translate film.mp4 --speak speech.wav    # by espeak-ng
    horovod-asl translate film.mp4 --annotate out.mp4    # with the joints, the letters and the text in the picture
    horovod-asl translate frames/ --fps 30               # pictures, in the order of the numbers in their names
    horovod-asl translate camera:0                       # until Ctrl-C

On a terminal the text comes letter by letter. Existing files are replaced.

A film that is damaged is read up to the damage: what was read is printed and written, a line on standard error says
where it ended, and the exit code is 1. Ctrl-C ends a film in the same way, with exit code 130; a camera with 0. Where
one file cannot be written, the text is printed and the others are written; the exit code is 2.

--json writes one object:

    text      all of it
    letters   a list of {"label", "start_s", "end_s", "confidence"}: `A` to `Z`, `space` or `del`; seconds from the
              first frame; the mean probability, 0 to 1
    words     a list of {"text", "start_s", "end_s"}
    source, model, version, seconds, frames
              what was read, by what, and how much of it
    fault     why it ended before its time, or null

Fingerspelling is not sign language, and the text has errors: do not rely on it where it matters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from horovod_asl.command_line.checks import require_range
from horovod_asl.command_line.cli import fail, parse, require_writable, write_bytes, write_text
from horovod_asl.errors import UserError

if TYPE_CHECKING:
    from horovod_asl.live.speller import Letter
    from horovod_asl.translation.captions import Word
    from horovod_asl.translation.film_text import FilmText
    from horovod_asl.translation.source import Source

_SUFFIXES = {"srt": ".srt", "speak": ".wav", "annotate": ".mp4"}
_ANNOTATED_FPS = 30.0


@dataclass(frozen=True)
class TranslateConfig:
    """Flags of `translate`."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]] = field(metadata={"is_place": True})
    """A video, a folder of frames, or `camera:0`."""
    json: Path | None = None
    """The file for letters, words and text, for programs."""
    srt: Path | None = None
    """The file for captions, one for each word."""
    speak: Path | None = None
    """The WAV file for the spoken text."""
    annotate: Path | None = None
    """The .mp4 file for the film with what was read."""
    fps: float | None = None
    """Frames a second of a folder; 25 unless given."""

    def __post_init__(self) -> None:
        require_range("--fps", self.fps, 1, 240)
        for name, suffix in _SUFFIXES.items():
            path = getattr(self, name)
            if path is not None and path.suffix.lower() != suffix:
                raise UserError(f"--{name} {path}: end its name with {suffix}")

    def outputs(self) -> dict[str, Path]:
        """The files to write, by flag."""
        named = {f"--{name}": getattr(self, name) for name in ("json", *_SUFFIXES)}
        return {flag: path for flag, path in named.items() if path is not None}


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Returns: 0 on success; 1 where the source is damaged; 2 where a file could not be written; 130 after Ctrl-C.
    """
    config = parse(TranslateConfig, argv, prog="horovod-asl translate", description=__doc__)
    _check_outputs(config)

    from horovod_asl.translation.film_text import stopped_by_ctrl_c
    from horovod_asl.translation.source import is_camera, open_source

    faults = _Faults()
    with stopped_by_ctrl_c() as stopped, open_source(config.source, config.fps) as source:
        film = _translated(source, config.annotate, stopped, faults)
    print(film.text.strip(), flush=True)
    if not film.text.strip():
        print(f"note: no letter was read: {film.why_nothing() or 'no letter was held'}", file=sys.stderr)
    _write(config, film, faults)
    for line in faults.lines:
        fail(line)
    if film.fault is not None:
        fail(f"{config.source}: {film.fault}; {film.seconds:.1f} s of it were read")
    stopped_code = 130 if stopped() and not is_camera(config.source) else 0
    return 2 if faults.lines else 1 if film.fault is not None else stopped_code


class _Faults:
    """Files that could not be written after all: the others are written first, and the text is printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, a UserError ends the block and is kept for later."""
        try:
            yield
        except UserError as error:
            self.lines.append(str(error))


def _check_outputs(config: TranslateConfig) -> None:
    """UserError for what would fail only after the film was read."""
    from horovod_asl.live.speech import require_speech
    from horovod_asl.photos.film_writer import require_film_name

    taken = {Path(config.source).resolve(): "SOURCE"}
    for flag, path in config.outputs().items():
        other = taken.setdefault(path.resolve(), flag)
        if other != flag:
            raise UserError(f"{flag} {path} is the file of {other}, too: name another")
        require_writable(path, flag)
    if config.speak is not None:
        require_speech()
    if config.annotate is not None:
        require_film_name(config.annotate)


def _translated(
    source: Source, annotate: Path | None, stopped: Callable[[], bool], faults: _Faults
) -> FilmText:
    """Read the source to its end, and write the annotated film meanwhile, if one is asked for."""
    from horovod_asl.live.reader import HandNetwork
    from horovod_asl.live.translator import Translator
    from horovod_asl.translation.film_text import FilmText
    from horovod_asl.translation.screen import Screen

    with closing(Translator(HandNetwork())) as translator, Screen(source.seconds) as screen:
        film = FilmText(source, translator, screen.show, stopped)
        if annotate is not None:
            with faults.kept():
                _write_annotated(film, annotate, source.fps)
        for _ in film:  # also where the disk was full
            pass
    return film


def _write_annotated(film: FilmText, path: Path, source_fps: float) -> None:
    from horovod_asl.photos.film_writer import write_film
    from horovod_asl.translation.annotate import annotated

    fps = max(round(min(source_fps, _ANNOTATED_FPS)), 1)
    if (drawn := annotated(film, fps)) is not None:
        size, frames = drawn
        write_film(path, frames, size, fps)


def _write(config: TranslateConfig, film: FilmText, faults: _Faults) -> None:
    """The files that are asked for, of what was read."""
    from horovod_asl.live.speech import speak
    from horovod_asl.translation.captions import srt, words_of

    words = words_of(film.letters)
    if config.json is not None:
        with faults.kept():
            facts = _as_json(config.source, film, words)
            write_text(config.json, json.dumps(facts, indent=1) + "\n", "--json")
    if config.srt is not None:
        with faults.kept():
            write_text(config.srt, srt(words), "--srt")
    if config.speak is not None:
        with faults.kept():
            write_bytes(config.speak, speak(film.text), "--speak")


def _as_json(source: str, film: FilmText, words: Sequence[Word]) -> dict[str, Any]:
    from horovod_asl import __version__
    from horovod_asl.live.reader import ONE_PASS
    from horovod_asl.system.files import file_digest

    return {
        "text": film.text.strip(),
        "letters": [_rounded(letter) for letter in film.letters],
        "words": [_rounded(word) for word in words],
        "source": source,
        "model": {"file": ONE_PASS.name, "sha256": file_digest(ONE_PASS)},
        "version": __version__,
        "seconds": round(film.seconds, 3),
        "frames": film.frames,
        "fault": film.fault,
    }


def _rounded(item: Letter | Word) -> dict[str, Any]:
    return {
        name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(item).items()
    }
