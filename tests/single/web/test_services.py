"""The bundled model behind the server, against the translator and the torch predictor called directly."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import wave

import numpy as np
import pytest
from PIL import Image

import horovod_asl
from horovod_asl.live.reader import HandNetwork
from horovod_asl.live.suggestions import Suggestions
from horovod_asl.live.translator import Translator
from horovod_asl.synthetic.film import FilmSpec, film_frames
from horovod_asl.synthetic.render import SampleSpec, render_spec
from horovod_asl.web.limits import Limits
from horovod_asl.web.services import bundled_services
from tests.launching import ROOT, clean_environment
from tests.single.web.serving import client, frame, order, received, running, stream

pytestmark = pytest.mark.timeout(120)


def still(letter: str, size: tuple[int, int] = (320, 240)) -> bytes:
    """A JPEG of a drawn hand in the middle of a frame."""
    hand = Image.fromarray(render_spec(SampleSpec(3, letter, 1, 0), min(size)))
    picture = Image.new("RGB", size, hand.getpixel((0, 0)))
    picture.paste(hand, ((size[0] - hand.width) // 2, 0))
    return as_jpeg(picture)


def as_jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def test_a_film_is_spelled_as_the_translator_spells_it() -> None:
    limits = Limits()
    film = film_frames(FilmSpec("L", 3, 2.0, 320, 240, frames_per_second=12))
    translator = Translator(HandNetwork())
    with running(bundled_services(limits), limits) as binding, stream(binding) as page:
        assert received(page)["type"] == "calibration"
        for shown in film:
            picture = as_jpeg(Image.fromarray(shown.pixels))
            page.send(frame(shown.time_s * 1000, picture))
            reading = received(page)
            seen = translator.see(np.asarray(Image.open(io.BytesIO(picture))), shown.time_s)
            assert reading["text"] == seen.text
            assert reading["problem"] == seen.problem
            assert (reading["joints"] is None) == (seen.joints is None)
            if seen.joints is not None:
                np.testing.assert_allclose(reading["joints"], seen.joints, atol=0.02)
                assert reading["handedness"] == seen.handedness
                assert reading["top"][0][1] == pytest.approx(seen.top[0][1], abs=0.05)
        assert translator.text != ""
        assert order(page, type="edit", action="clear")["text"] == ""
    translator.close()


def test_odd_frames_have_no_hand_and_do_no_harm() -> None:
    limits = Limits()
    with running(bundled_services(limits), limits) as binding, stream(binding) as page:
        assert received(page)["type"] == "calibration"
        for number, size in enumerate([(1, 1), (3000, 2), (2, 3000), (17, 31)]):
            page.send(frame(number, as_jpeg(Image.new("RGB", size))))
            assert received(page)["problem"] == "too_dark"


def test_a_photo_is_read_as_predict_reads_it() -> None:
    limits = Limits(photos_per_second=100)
    predictor = horovod_asl.load(device="cpu")
    with running(bundled_services(limits), limits) as binding, client(binding, timeout=60) as http:
        for letter in "AVY":
            photo = still(letter, (300, 400))
            said = http.post("/api/predict", content=photo, headers={"Content-Type": "image/jpeg"}).json()
            reading = predictor.read(photo)
            assert said["letter"] == reading.letter
            for name, probability in reading.probabilities.items():
                assert said["probabilities"][name] == pytest.approx(probability, abs=2e-3)
            assert (said["hand"] is None) == (reading.hand is None)
            if reading.hand is not None:
                joints = reading.hand.joints[:, :2] / [300, 400]
                np.testing.assert_allclose(said["hand"]["joints"], joints, atol=1e-3)
                assert said["hand"]["handedness"] == reading.hand.handedness


def test_words_are_suggested_and_spoken() -> None:
    limits = Limits()
    offered = bundled_services(limits)
    if offered.speak is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")
    own = Suggestions()
    own.wait()
    with running(offered, limits) as binding, stream(binding) as page, client(binding, timeout=60) as http:
        assert received(page)["type"] == "calibration"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # the server loads its dictionary beside all else
            order(page, type="edit", action="clear")
            answer = order(page, type="edit", action="replace_word", word="hel")
            assert answer["text"].startswith("HEL")
            answer = order(page, type="edit", action="undo") if answer["text"].endswith(" ") else answer
            if answer["suggestions"]:
                break
            time.sleep(0.2)
        assert answer["text"] == "HEL"
        assert answer["suggestions"] == own("HEL") != []
        with wave.open(io.BytesIO(http.post("/api/speak", json={"text": "HELLO WORLD"}).content)) as sound:
            assert 0.4 < sound.getnframes() / sound.getframerate() < 3
            assert np.abs(np.frombuffer(sound.readframes(sound.getnframes()), np.int16)).max() > 1000
        assert http.get("/api/status").json()["speech"] is True


def test_the_server_needs_no_torch() -> None:
    program = (
        "import sys, horovod_asl.web.serve\n"
        "from horovod_asl.web.limits import Limits\n"
        "from horovod_asl.web.services import bundled_services\n"
        "bundled_services(Limits()).make_reader().close()\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
