"""A thousand hostile messages, from a seed: no answer is a 5xx, memory stays bounded, and a healthy page goes on."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from websockets.exceptions import WebSocketException

from tests.launching import ROOT, clean_environment
from tests.single.web.serving import client, frame, jpeg, received, stream

pytestmark = pytest.mark.timeout(240)
MESSAGES, CONNECTIONS = 1000, 100
MOST_GROWTH_BYTES = 64 * 2**20
"""From the middle of the attack to its end."""
SECONDS = 15
WS_KEY = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[Any, psutil.Process]]:
    """A server in a process of its own, so that its memory is its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.single.web.serving"],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    address = process.stdout.readline().strip()
    url = urlsplit(address)
    listener = SimpleNamespace(getsockname=lambda: (url.hostname, url.port))
    yield SimpleNamespace(address=address, listener=listener), psutil.Process(process.pid)
    process.stdin.close()
    assert process.wait(timeout=30) == 0


@dataclass
class Healthy:
    """A page of ours, which sends a frame once the one before is answered."""

    binding: Any
    answered: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    fault: BaseException | None = None

    def run(self) -> None:
        try:
            with stream(self.binding) as page:
                while not self.stop.wait(0.02):
                    page.send(frame(self.answered))
                    assert received(page)["sent_ms"] == self.answered
                    self.answered += 1
                    if self.answered % 500 == 0:
                        page.send('{"type": "edit", "action": "clear"}')
                        assert received(page)["type"] == "text"
        except BaseException as error:
            self.fault = error


@dataclass
class Attacker:
    """Everything that a stranger on this machine, or a page of another site, may send."""

    binding: Any
    rng: random.Random
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)

    def one(self) -> None:
        kinds = [self.frames, self.texts, self.requests, self.photos, self.speech, self.foreign]
        self.rng.choice([*kinds, self.garbage, self.broken])()

    # -- over a WebSocket of the right origin

    def frames(self) -> None:
        picture = jpeg(size=(320, 240))
        cut = picture[: self.rng.randrange(len(picture))]
        huge = picture.replace(struct.pack(">HH", 240, 320), struct.pack(">HH", 65500, 65500))
        scans = picture[:-2] + picture[picture.index(b"\xff\xda") :] * 50
        self.to_stream(
            [
                self.bytes(self.rng.choice([0, 1, 8, 9, 1000, 2**20 + 8])),
                self.bytes(2**20 + 9),
                frame(self.rng.choice([0, -1, float("nan"), 1e300]), picture),
                *(frame(self.rng.random(), one) for one in (cut, huge, scans, picture[:200] + self.bytes(3000))),
            ]
        )

    def texts(self) -> None:
        nested = "[" * 2000 + "]" * 2000
        values: list[Any] = [None, True, 1e308, -1, [], {}, "edit", ["edit"], {"type": "edit"}, "\ud800", "x" * 3000]
        made = {"type": self.rng.choice(values), "action": self.rng.choice(values), "word": self.rng.choice(values)}
        bombs = [nested, '{"a":' * 700 + "1" + "}" * 700, "1" * 4000, '{"type": 1e99999}', "\x00", "{" * 4096]
        self.to_stream([json.dumps(made), self.rng.choice(bombs), "x" * 5000, "y" * 2**20, json.dumps(values)])

    def to_stream(self, messages: list[str | bytes]) -> None:
        with contextlib.suppress(WebSocketException, TimeoutError, OSError), stream(self.binding) as page:
            page.send(self.rng.choice(messages))
            answer = received(page)
            self.codes[answer.get("code", answer["type"])] += 1

    # -- over HTTP

    def requests(self) -> None:
        method = self.rng.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", "TRACE", "FOO"])
        path = self.rng.choice(["/", "/api/stream", "/api/status", "/%00", "/static/../../x", "//", "/" + "a" * 3000])
        self.ask(method, path, content=self.bytes(self.rng.randrange(2000)))

    def photos(self) -> None:
        ihdr = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
        bodies = [b"", png, jpeg()[:100], self.bytes(5000), jpeg(size=(3000, 2000)), bytes(17 * 2**20)]
        kind = self.rng.choice(["image/png", "image/svg+xml", "text/plain", "multipart/form-data", ""])
        self.ask("POST", "/api/predict", content=self.rng.choice(bodies), headers={"Content-Type": kind})

    def speech(self) -> None:
        bodies = [b"", b"[]", b'{"text": []}', b'{"text": ""}', self.bytes(99), b"[" * 4000, bytes(20_000)]
        self.ask("POST", "/api/speak", content=self.rng.choice(bodies))

    def foreign(self) -> None:
        headers = self.rng.choice(
            [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": ""}, {"Origin": "null"}]
        )
        self.ask("POST", self.rng.choice(["/api/predict", "/api/speak", "/"]), content=jpeg(), headers=headers)

    def ask(self, method: str, path: str, **options: Any) -> None:
        with contextlib.suppress(httpx.TransportError), client(self.binding, timeout=SECONDS) as http:
            self.statuses[http.request(method, path, **options).status_code] += 1

    # -- over a bare socket

    def garbage(self) -> None:
        """What is no HTTP at all, or none that ends."""
        host, port = self.binding.listener.getsockname()
        head = f"Host: {host}:{port}\r\n"
        self.through_socket(
            self.rng.choice(
                [
                    self.bytes(3000),
                    b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 200_000,
                    f"GET / HTTP/1.1\r\n{head}Content-Length: -5\r\n\r\n".encode(),
                    f"POST /api/predict HTTP/1.1\r\n{head}Content-Length: 99999999999999\r\n\r\n".encode(),
                    f"POST /api/speak HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nZZ\r\n".encode(),
                    f"GET /api/stream HTTP/1.1\r\n{head}Upgrade: websocket\r\nConnection: upgrade\r\n\r\n".encode(),
                    f"GET / HTTP/1.1\r\n{head}Cookie: {'=;' * 5000}\r\nConnection: close\r\n\r\n".encode(),
                ]
            )
        )

    def broken(self) -> None:
        """A WebSocket that breaks its protocol: lengths that are declared and never come, no mask, odd opcodes."""
        host, port = self.binding.listener.getsockname()
        head = f"GET /api/stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        frames = [
            b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"mask",
            b"\x82\xff" + struct.pack(">Q", 2**20) + b"mask" + b"a" * 100,
            b"\x82\x05hello",
            b"\xf3\x85maskhello",
            b"\x01\x80mask" + b"\x00\x80mask" * 2000,
            b"\x89\xfe\x00\xffmask" + b"p" * 255,
            b"\x81\x82mask" + bytes(a ^ b for a, b in zip(b"\xff\xfe", b"ma", strict=True)),
        ]
        self.through_socket(f"{head}{WS_KEY}\r\n\r\n".encode() + self.rng.choice(frames))

    def through_socket(self, data: bytes) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self.binding.listener.getsockname()) as plain:
            plain.settimeout(0.3)
            plain.sendall(data)
            answer = plain.recv(1000)
            if answer.startswith(b"HTTP/1.1 "):
                self.statuses[int(answer.split()[1])] += 1

    def bytes(self, number: int) -> bytes:
        return self.rng.randbytes(number)


def test_a_thousand_hostile_messages(attacked: tuple[Any, psutil.Process]) -> None:
    binding, process = attacked
    healthy, attacker = Healthy(binding), Attacker(binding, random.Random(22))
    thread = threading.Thread(target=healthy.run)
    thread.start()
    try:
        memory, answered = [], []
        with contextlib.ExitStack() as held:
            for number in range(MESSAGES):
                attacker.one()
                if number == MESSAGES // 2:
                    for _ in range(CONNECTIONS):  # which say half of something, and hold on
                        plain = held.enter_context(socket.create_connection(binding.listener.getsockname()))
                        plain.sendall(attacker.rng.choice([b"", b"G", b"GET / HTTP/1.1\r\nHost: "]))
                if number in (MESSAGES // 2, MESSAGES - 1):
                    memory.append(process.memory_info().rss)
                    answered.append(healthy.answered)
    finally:
        healthy.stop.set()
        thread.join()
    if healthy.fault is not None:
        raise healthy.fault
    assert answered[0] > 100
    assert healthy.answered - answered[0] > 100
    assert memory[1] - memory[0] < MOST_GROWTH_BYTES
    assert {400, 403, 404, 405, 408, 413, 415, 421, 429} >= attacker.statuses.keys() - {200, 101}
    assert {400, 403, 404, 405, 413, 415, 421} <= attacker.statuses.keys()
    assert {"bad_frame", "bad_message", "too_large"} <= attacker.codes.keys()
    assert "failed" not in attacker.codes
