"""`translate`: what it prints and writes, for whole and for damaged films, with a stand-in for the reader of hands;
and a drawn film, read by the bundled model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_asl.commands import translate
from horovod_asl.errors import UserError
from horovod_asl.live import reader, translator
from horovod_asl.live.speller import Held, Letter
from horovod_asl.live.translator import Translation
from horovod_asl.photos import film_writer
from horovod_asl.photos.film_stream import FilmStream
from horovod_asl.photos.film_writer import write_film
from tests.launching import BIN, clean_environment
from tests.single.photos.test_films import RATE, film, shown

pytest.importorskip("av", reason="needs the extra live")

LETTER_S = 0.3
SPELLED = [*"HELLO", "space", *"YOU"]


class StandIn:
    """Takes the next letter of `SPELLED` each `LETTER_S`, whatever is shown; the last one when the film ends."""

    frames = 0
    interrupts_at: int | None = None

    def __init__(self, network: object) -> None:
        self.text, self._taken, self._time_s = "", 0, 0.0
        self.letters: list[Letter] = []

    def see(self, pixels: np.ndarray, time_s: float) -> Translation:
        StandIn.frames += 1
        if StandIn.frames == self.interrupts_at:
            os.kill(os.getpid(), signal.SIGINT)
        assert pixels.dtype == np.uint8
        self._time_s = time_s
        taken = []
        while self._taken < len(SPELLED) - 1 and time_s >= (self._taken + 1) * LETTER_S - 1e-6:
            taken.append(self._take())
        joints = np.linspace((0.3, 0.3), (0.6, 0.6), 21, dtype=np.float32)
        held = Held(SPELLED[self._taken], 0.9, 0.5)
        return Translation(time_s, joints, "right", "two_hands", [(held.label, 0.9)], held, taken, self.text)

    def finish(self) -> list[Letter]:
        return [self._take()] if self._taken == len(SPELLED) - 1 else []

    def close(self) -> None:
        """There is nothing to let go."""

    def _take(self) -> Letter:
        label = SPELLED[self._taken]
        self.text += " " if label == "space" else label
        start_s = self._taken * LETTER_S
        self._taken += 1
        self.letters.append(Letter(label, start_s, start_s + 0.2, 0.9))
        return self.letters[-1]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(translator, "Translator", StandIn)
    monkeypatch.setattr(reader, "HandNetwork", lambda: None)
    monkeypatch.setattr(StandIn, "frames", 0)
    monkeypatch.setattr(StandIn, "interrupts_at", None)
    return StandIn


def code_and_output(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = translate.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_captured_output_is_the_text_alone_and_the_files_say_the_rest(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "film.mp4", 81)  # 2.7 s
    files = {name: tmp_path / name for name in ("letters.json", "film.srt", "out.mp4")}
    flags = ("--json", files["letters.json"], "--srt", files["film.srt"], "--annotate", files["out.mp4"])
    for name in files.values():
        name.write_text("of an earlier run")
    assert code_and_output(capsys, path, *flags) == (0, "HELLO YOU\n", "")
    facts = json.loads(files["letters.json"].read_text())
    assert facts["text"] == "HELLO YOU"
    assert [letter["label"] for letter in facts["letters"]] == SPELLED
    assert facts["letters"][1] == {"label": "E", "start_s": 0.3, "end_s": 0.5, "confidence": 0.9}
    assert [word["text"] for word in facts["words"]] == ["HELLO", "YOU"]
    assert (facts["source"], facts["frames"], facts["fault"]) == (str(path), 81, None)
    assert facts["seconds"] == pytest.approx(80 / RATE, abs=1e-3)
    assert re.fullmatch("[0-9a-f]{64}", facts["model"]["sha256"])
    assert "00:00:01,800 --> 00:00:02,600\nYOU" in files["film.srt"].read_text()
    with FilmStream(files["out.mp4"]) as stream:
        frames = [frame.pixels.astype(int) for frame in stream]
    assert 81 <= len(frames) <= 81 + 2 * RATE  # the last one stays for a while
    assert frames[0].shape == (48, 64, 3)
    assert np.abs(frames[40] - shown(40).astype(int))[17:30, 54:].mean() < 12  # where nothing is drawn
    assert np.abs(frames[40] - shown(40).astype(int))[12:36, 16:40].mean() > 12  # the hand
    assert {entry.name for entry in tmp_path.iterdir()} == {"film.mp4", *files}


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_text_is_spoken(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "film.mp4", 81)
    assert code_and_output(capsys, path, "--speak", tmp_path / "speech.wav")[0] == 0
    with wave.open(str(tmp_path / "speech.wav")) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        assert 0.5 < len(samples) / sound.getframerate() < 3
    assert np.abs(samples.astype(int)).max() > 3000


def test_a_damaged_film_gives_its_text_up_to_the_damage(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "film.mp4", 81)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    flags = ("--json", tmp_path / "a.json", "--srt", tmp_path / "a.srt", "--annotate", tmp_path / "a.mp4")
    code, output, errors = code_and_output(capsys, path, *flags)
    assert code == 1
    assert output.startswith("HEL")
    assert len(output) < len("HELLO YOU")
    read_s = stand_in.frames / RATE
    assert re.fullmatch(r"error: .*film\.mp4: it is damaged \(.+\); [\d.]+ s of it were read\n", errors)
    assert float(re.search(r"([\d.]+) s of it", errors)[1]) == pytest.approx(read_s, abs=0.1)  # type: ignore[index]
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["text"] == output.strip()
    assert "damaged" in facts["fault"]
    assert (tmp_path / "a.srt").read_text().endswith(f"{output}")
    with FilmStream(tmp_path / "a.mp4") as stream:
        assert len(list(stream)) >= stand_in.frames


def test_rotated_films_and_folders_are_read_too(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "turned.mov", 81, rotation=90)
    assert code_and_output(capsys, path, "--annotate", tmp_path / "upright.mp4")[:2] == (0, "HELLO YOU\n")
    with FilmStream(tmp_path / "upright.mp4") as stream:
        assert next(iter(stream)).pixels.shape == (64, 48, 3)
    from PIL import Image

    (tmp_path / "frames").mkdir()
    for number in range(28):
        Image.fromarray(shown(number)).save(tmp_path / "frames" / f"{number}.png")
    assert code_and_output(capsys, tmp_path / "frames", "--fps", "10") == (0, "HELLO YOU\n", "")


def test_ctrl_c_keeps_what_was_read(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "interrupts_at", 40)
    before = signal.getsignal(signal.SIGINT)
    path = film(tmp_path / "film.mp4", 81)
    flags = ("--json", tmp_path / "a.json", "--annotate", tmp_path / "a.mp4")
    assert code_and_output(capsys, path, *flags)[:2] == (130, "HELL\n")
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == 40
    with FilmStream(tmp_path / "a.mp4") as stream:
        assert len(list(stream)) >= 40
    assert signal.getsignal(signal.SIGINT) is before


def test_a_disk_that_is_full_costs_neither_the_text_nor_the_other_files(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, frames: Iterator[np.ndarray], *_: object) -> None:
        next(frames)
        next(frames)
        raise UserError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr(film_writer, "write_film", full)
    path = film(tmp_path / "film.mp4", 81)
    flags = ("--annotate", tmp_path / "a.mp4", "--srt", tmp_path / "a.srt")
    code, output, errors = code_and_output(capsys, path, *flags)
    assert (code, output) == (2, "HELLO YOU\n")
    assert errors == f"error: {tmp_path / 'a.mp4'} cannot be written (No space left on device)\n"
    assert (tmp_path / "a.srt").read_text().endswith("YOU\n")
    assert stand_in.frames == 81


def test_a_film_without_a_letter_says_what_was_seen(
    stand_in: type[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "film.mp4", 6)
    note = "note: no letter was read: two hands in 6 of 6 frames\n"
    assert code_and_output(capsys, path, "--srt", tmp_path / "a.srt") == (0, "\n", note)
    assert (tmp_path / "a.srt").read_text() == ""


def test_what_would_fail_at_the_end_is_refused_before_a_frame_is_read(
    stand_in: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.mp4", 3)
    content = path.read_bytes()
    monkeypatch.setenv("PATH", str(tmp_path))
    for flags, words in {
        ("--annotate", str(path)): "--annotate .*film.mp4 is the file of SOURCE, too",
        ("--json", str(tmp_path / "a.srt"), "--srt", str(tmp_path / "a.srt")): "--srt .* is the file of --json, too",
        ("--srt", str(tmp_path / "none" / "a.srt")): "--srt .*: there is no folder",
        ("--json", str(tmp_path)): "--json .* is a folder",
        ("--annotate", "a.avi"): "--annotate a.avi: end its name with .mp4",
        ("--speak", "a.mp3"): "--speak a.mp3: end its name with .wav",
        ("--speak", str(tmp_path / "a.wav")): "apt-get install espeak-ng",
        ("--fps", "0"): "--fps 0.0 must lie between 1 and 240",
        ("--fps", "25"): "--fps is for a folder of frames",
    }.items():
        with pytest.raises(UserError, match=words):
            translate.main([str(path), *flags])
    assert stand_in.frames == 0
    assert path.read_bytes() == content


@pytest.mark.timeout(120)
def test_a_camera_that_is_not_there_is_one_line() -> None:
    words = [BIN / "horovod-asl", "translate", "camera:97"]
    done = subprocess.run(words, capture_output=True, text=True, env=clean_environment(), timeout=100, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: camera:97 cannot be opened \(.*\n", done.stderr)


def drawn(path: Path, text: str, **facts: Any) -> Path:
    """A film of the drawn hand that spells this text."""
    from horovod_asl.synthetic.film import FilmSpec, open_film

    opened = open_film(FilmSpec(text, frames_per_second=15, **facts))
    frames = (opened.frame(number).pixels for number in range(opened.frames))
    write_film(path, frames, opened.size, 15)
    return path


@pytest.mark.timeout(300)
def test_the_bundled_model_reads_a_drawn_film_letter_by_letter_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="needs the extra live")
    path = drawn(tmp_path / "film.mp4", "HI U", letters_per_second=1.5)
    terminal = "import pty, sys, os; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", terminal, BIN / "horovod-asl", "translate", path, "--json", tmp_path / "a.json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment(TERM="xterm", COLUMNS="60"),
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["text"] == "HI U"
    assert [word["text"] for word in facts["words"]] == ["HI", "U"]
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split("[\r\n]+", done.stdout)]
    assert [line for line in lines if line][-1] == "HI U"
    assert any(line.startswith(("HI▏", "HI ▏")) for line in lines)  # before the film's end
    assert any(re.match(r"0:0\d of 0:0\d  H \d+%", line) for line in lines)
