"""A hand spells HELLO WORLD before Chromium's camera: the page of the real `horovod-asl live` writes and says it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from horovod_asl.photos.film_writer import write_film
from horovod_asl.synthetic.film import FilmSpec, open_film
from tests.launching import BIN, clean_environment
from tests.single.web.browsing import FAKE_SPEECH, chromium, opened, wait_for_text

SPEC = FilmSpec("HELLO WORLD", seed=1, letters_per_second=1.0, frames_per_second=15)
RUNS = 3
"""Of the film. A machine that is busy with other things drops frames, and a double letter is told by few."""
BEFORE_S, AFTER_S = 4, 3
"""How long nobody is in sight. Chromium's camera shows the film again and again."""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = open_film(SPEC)

    def frames() -> Iterator[NDArray[np.uint8]]:
        first, last = drawn.frame(0).pixels, drawn.frame(drawn.frames - 1).pixels
        yield from itertools.repeat(first, BEFORE_S * drawn.frames_per_second)
        yield from (drawn.frame(number).pixels for number in range(drawn.frames))
        yield from itertools.repeat(last, AFTER_S * drawn.frames_per_second)

    path = tmp_path_factory.mktemp("film") / "hello.y4m"
    write_film(path, frames(), drawn.size, drawn.frames_per_second)
    return path


@pytest.fixture
def address() -> Iterator[str]:
    """Of `horovod-asl live`, which runs until the test ends."""
    command = [str(BIN / "horovod-asl"), "live", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield line.removeprefix("live: open ").strip()
        server.terminate()


@pytest.mark.timeout(240)
def test_hello_world(film: Path, address: str) -> None:
    with chromium(film) as browser, opened(browser, address, FAKE_SPEECH) as page:
        page.set_default_timeout(90_000)
        page.click("#start")
        texts = list[str]()
        while len(texts) < RUNS and SPEC.text not in texts:
            texts.append(_text_of_a_run(page))
        assert texts[-1] == SPEC.text, texts
        page.click("#speak")
        page.wait_for_function("() => spoken.length === 1")
        assert page.evaluate("spoken") == [SPEC.text]


def _text_of_a_run(page: Any) -> str:
    """The film may have begun before the server was ready: what counts is what follows once nobody is in sight."""
    wait_for_text(page, "#notice", "No hand")
    page.click("#clear")
    wait_for_text(page, "#notice", "Reading")
    wait_for_text(page, "#notice", "No hand")
    page.wait_for_timeout(1500)  # for the last letter
    return str(page.inner_text("#words")).strip()
