"""A text as speech, by espeak-ng: a program without a voice model to download, in every distribution."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave

from horovod_asl.errors import UserError

PROGRAM = "espeak-ng"
MOST_CHARACTERS = 20_000
"""Of one text, which is about half an hour of speech and 70 MB."""
_TIMEOUT_S = 60.0
_MISSING = (
    "speech needs the program espeak-ng, which is not installed: on Debian and Ubuntu, apt-get install espeak-ng; "
    "on macOS, brew install espeak-ng"
)


def can_speak() -> bool:
    """Whether espeak-ng is installed."""
    return shutil.which(PROGRAM) is not None


def require_speech() -> None:
    """UserError with the remedy where espeak-ng is missing."""
    if not can_speak():
        raise UserError(_MISSING)


def speak(text: str, *, timeout_s: float = _TIMEOUT_S) -> bytes:
    """The text as a WAV file: mono, 16 bits. A text without a letter or digit gives one without a sample.

    It is put into lower case: in capitals, some short words would be read letter by letter.

    Raises:
        UserError: espeak-ng is missing, failed, or took longer than `timeout_s`; the text is too long.
    """
    require_speech()
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"the text has {len(text):,} characters: at most {MOST_CHARACTERS:,} are spoken at a time")
    spoken = " ".join("".join(character if character.isalnum() else " " for character in text.lower()).split())
    if not spoken:
        return _wav(b"", 22_050)
    try:
        done = subprocess.run(
            [PROGRAM, "-b", "1", "-v", "en-us", "--stdin", "--stdout"],
            input=spoken.encode(),
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"espeak-ng took longer than {timeout_s:.0f} s: try a shorter text") from error
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        raise UserError(f"espeak-ng failed ({said.decode(errors='replace').strip().splitlines()[-1]})") from error
    return _with_its_length(done.stdout)


def _with_its_length(streamed: bytes) -> bytes:
    """espeak-ng writes the header before it knows how much follows; players want the true length."""
    try:
        with wave.open(io.BytesIO(streamed)) as sound:
            return _wav(sound.readframes(sound.getnframes()), sound.getframerate())
    except (wave.Error, EOFError) as error:
        raise UserError("espeak-ng gave no sound: if `espeak-ng hello` fails, too, install it anew") from error


def _wav(samples: bytes, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate_hz)
        sound.writeframes(samples)
    return file.getvalue()
