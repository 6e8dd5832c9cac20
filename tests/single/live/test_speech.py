"""Speech by espeak-ng: a whole WAV file, words and not letters, and one line where it cannot."""

from __future__ import annotations

import io
import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from horovod_asl.errors import UserError
from horovod_asl.live import speech

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def samples(wav: bytes) -> tuple[np.ndarray, int]:
    """The samples by the header's own count, and the rate."""
    with wave.open(io.BytesIO(wav)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        values = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        assert len(values) == sound.getnframes()  # the header tells the truth
        return values, sound.getframerate()


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of the name espeak-ng that does this."""
    program = folder / "espeak-ng"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@needs_espeak
def test_a_text_is_a_wav_that_is_not_silent_and_grows_with_the_text() -> None:
    short, rate = samples(speech.speak("HELLO"))
    long, _ = samples(speech.speak("HELLO WORLD THIS IS A TEST"))
    assert rate == 22_050
    assert 0.3 < len(short) / rate < 2
    assert len(long) > 2 * len(short)
    assert np.abs(short.astype(int)).max() > 3000


@needs_espeak
def test_words_are_spoken_as_words_and_marks_are_not() -> None:
    """Letter by letter would be the speech of `U S`."""
    assert speech.speak("US") == speech.speak("us")
    assert speech.speak("US") != speech.speak("U S")
    assert speech.speak("HELLO") == speech.speak("  <b>hello</b>  ".replace("<b>", "").replace("</b>", ""))
    assert speech.speak("[[hello]] \x00") == speech.speak("hello")


@needs_espeak
def test_nothing_to_say_is_an_empty_wav() -> None:
    assert len(samples(speech.speak(" \n"))[0]) == 0


def test_no_shell_and_no_option_sees_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/text; exit 3')
    with pytest.raises(UserError, match="espeak-ng failed"):
        speech.speak("--help; $(touch x)")
    assert "help" not in (tmp_path / "words").read_text()
    assert (tmp_path / "text").read_text() == "help touch x"


def test_faults_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="at most 20,000 are spoken"):
        speech.speak("A" * 20_001)
    stand_in(tmp_path, monkeypatch, "exec sleep 20")
    with pytest.raises(UserError, match="longer than 1 s"):
        speech.speak("A", timeout_s=1)
    stand_in(tmp_path, monkeypatch, "echo this is no sound")
    with pytest.raises(UserError, match="gave no sound"):
        speech.speak("A")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not speech.can_speak()
    with pytest.raises(UserError, match="apt-get install espeak-ng"):
        speech.speak("A")
