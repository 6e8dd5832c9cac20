"""How fast the page of `horovod-asl live` reads, its server on the same machine: `python -m benchmarks.live_page`.

The camera of a real Chromium shows a drawn hand in 640×480, which spells without end. By the minute: how many frames
are answered, how long an answer takes from the camera's frame to the page, and the memory of the server.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from horovod_asl.photos.film_writer import write_film
from horovod_asl.synthetic.film import FilmSpec, open_film

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
_TEXT, _SEED = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", 1000
_FPS, _LETTERS_PER_SECOND = 25, 1.5
_WATCH = """
window.answers = [];
window.WebSocket = class extends WebSocket {
  constructor(...words) {
    super(...words);
    this.addEventListener("message", (event) => {
      const { type, sent_ms, joints } = JSON.parse(event.data);
      if (type === "reading") answers.push([performance.now(), performance.now() - sent_ms, joints ? 1 : 0]);
    });
  }
};
"""


def draw(path: Path) -> None:
    """The camera's film, as `.y4m`."""
    film = open_film(FilmSpec(_TEXT, seed=_SEED, letters_per_second=_LETTERS_PER_SECOND, frames_per_second=_FPS))

    def frames() -> Iterator[NDArray[np.uint8]]:
        return (film.frame(number).pixels for number in range(film.frames))

    write_film(path, frames(), film.size, film.frames_per_second)


@contextmanager
def served() -> Iterator[tuple[psutil.Process, str]]:
    """`horovod-asl live`: its process and its address."""
    command = [str(Path(sys.executable).with_name("horovod-asl")), "live", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield psutil.Process(server.pid), server.stdout.readline().removeprefix("live: open ").strip()
        server.terminate()


def measure(film: Path, minutes: int) -> list[dict[str, Any]]:
    """One row a minute."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("live_page: Chromium is not installed: make setup-browser")
    flags = [*CHROMIUM_FLAGS, f"--use-file-for-fake-video-capture={film}"]
    rows = []
    with served() as (server, address), sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(_WATCH)
        page.goto(address)
        page.click("#start")
        page.wait_for_function("() => answers.length > 20", timeout=60_000)
        for minute in range(1, minutes + 1):
            page.evaluate("() => { answers.length = 0; }")
            page.wait_for_timeout(60_000)
            rows.append(_row(minute, page.evaluate("answers"), server.memory_info().rss))
            print(json.dumps(rows[-1]), flush=True)
        browser.close()
    return rows


def _row(minute: int, answers: list[list[float]], rss: int) -> dict[str, Any]:
    at_ms, delay_ms, hand = np.array(answers).T
    return {
        "minute": minute,
        "frames_a_second": round(1000 * (len(at_ms) - 1) / (at_ms[-1] - at_ms[0]), 1),
        "delay_ms_median": round(float(np.median(delay_ms))),
        "delay_ms_p95": round(float(np.percentile(delay_ms, 95))),
        "with_a_hand_percent": round(100 * float(hand.mean())),
        "server_mib": round(rss / 2**20),
    }


def main() -> None:
    """Draw, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/live_page.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "camera.y4m"
        draw(film)
        rows = measure(film, options.minutes)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
