"""A server of `horovod-asl live` for the tests, with a translator that reads nothing but a frame's brightness.

`python -m tests.single.web.serving` runs one in a process of its own: it prints its address, and serves until its
standard input ends.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from horovod_asl.photos.decode import decode_upright
from horovod_asl.web.limits import Limits
from horovod_asl.web.page_reader import PageReader
from horovod_asl.web.serve import Binding, Place, bind, make_server
from horovod_asl.web.services import Services

WAV = b"RIFF of a test"


@dataclass
class StandIn:
    """A translator: each frame is a letter by its brightness, 0 to 25, and is taken at once. It may be slow."""

    seconds: float = 0.0
    text: str = ""
    seen: list[tuple[int, ...]] = field(default_factory=list)
    closed: bool = False

    def see(self, pixels: np.ndarray[Any, Any], time_s: float) -> SimpleNamespace:
        time.sleep(self.seconds)
        self.seen.append(pixels.shape)
        label = chr(ord("A") + min(25, int(pixels.mean() / 10)))
        self.text += label
        return SimpleNamespace(
            time_s=time_s,
            joints=np.full((21, 2), 0.5, np.float32),
            world=np.full((21, 3), 0.01, np.float32),
            handedness="right",
            problem=None,
            top=[(label, 0.9), ("B", 0.06), ("C", 0.04)],
            held=SimpleNamespace(label=label, confidence=0.9, progress=1.0),
            taken=[SimpleNamespace(label=label, start_s=time_s, end_s=time_s, confidence=0.9)],
            text=self.text,
        )

    def practise(self, on: bool) -> None:
        self.practises = on

    def close(self) -> None:
        self.closed = True

    def undo(self) -> None:
        self.text = self.text[:-1]

    def space(self) -> None:
        self.text += " "

    def clear(self) -> None:
        self.text = ""

    def replace_word(self, word: str) -> None:
        self.text = f"{self.text.rpartition(' ')[0]} {word}".strip()


@dataclass
class Lessons:
    """A teacher whose lessons take two frames, and who keeps one example of each."""

    counts: dict[str, int] = field(default_factory=dict)
    letter: str | None = None
    frames: int = 0

    def begin(self, letter: str) -> None:
        self.letter, self.frames = letter, 0

    def see(self, seen: Any) -> tuple[str, float] | None:
        if self.letter is None:
            return None
        self.frames += 1
        lesson = self.letter, self.frames / 2
        if self.frames == 2:
            self.counts[self.letter] = self.counts.get(self.letter, 0) + 1
            self.letter = None
        return lesson

    def forget(self) -> None:
        self.counts.clear()


def read_photo(data: bytes) -> dict[str, Any]:
    height, width, _ = decode_upright(data, 10_000, max_megapixels=50).shape
    return {"height": height, "width": width}


def services(
    limits: Limits,
    seconds: float = 0.0,
    translators: list[StandIn] | None = None,
    suggest: Callable[[str], Sequence[str]] = lambda text: [text + "LO"],
    teacher: Lessons | None = None,
) -> Services:
    def make_reader() -> PageReader:
        translator = StandIn(seconds)
        if translators is not None:
            translators.append(translator)
        return PageReader(translator, suggest, limits, teacher)  # type: ignore[arg-type]

    return Services(make_reader, read_photo, lambda text: WAV + text.encode())


@contextlib.contextmanager
def running(offered: Services, limits: Limits | None = None, place: Place | None = None) -> Iterator[Binding]:
    """A server on a free port, in a thread of this process."""
    place = replace(place or Place(), port=0)
    binding = bind(place)
    server = make_server(binding, place, offered, limits or Limits())
    thread = threading.Thread(target=server.run, args=([binding.listener],))
    thread.start()
    try:
        yield binding
    finally:
        server.should_exit = True
        thread.join()


def jpeg(brightness: int = 35, size: tuple[int, int] = (64, 48)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (brightness,) * 3).save(stream, "JPEG")
    return stream.getvalue()


def frame(sent_ms: float, picture: bytes | None = None) -> bytes:
    return struct.pack("<d", sent_ms) + (jpeg() if picture is None else picture)


def client(binding: Binding, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=binding.address, trust_env=False, verify=False, **options)


def stream(binding: Binding, named: str | None = None, **options: Any) -> ClientConnection:
    """The WebSocket of a page; `named`: the server's name as the page calls it, port included."""
    url = urlsplit(binding.address)
    there = url._replace(scheme=url.scheme.replace("http", "ws"), path="/api/stream", netloc=named or url.netloc)
    if named:
        options["sock"] = socket.create_connection(binding.listener.getsockname())
    options = {"compression": None, "proxy": None, "max_size": 2**24, "close_timeout": 2} | options
    return connect(there.geturl(), open_timeout=20, **options)


def received(page: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(page.recv(timeout=20)))


def order(page: ClientConnection, **values: str) -> dict[str, Any]:
    page.send(json.dumps(values))
    return received(page)


def farewell(page: ClientConnection) -> tuple[str | None, int | None]:
    """The last error's code, and the close code."""
    code = None
    while True:
        try:
            message = received(page)
            code = message["code"] if message["type"] == "error" else code
        except ConnectionClosed as closed:
            return code, closed.rcvd.code if closed.rcvd else None


def main() -> None:
    limits = Limits()
    with running(services(limits), limits) as binding:
        print(binding.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
