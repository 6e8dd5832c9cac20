"""The server over real sockets: uvicorn on one side, httpx and the websockets client on the other."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed

from horovod_asl import __version__
from horovod_asl.labels import CLASSES
from horovod_asl.web import page_files
from horovod_asl.web.limits import Limits
from horovod_asl.web.serve import Binding
from tests.single.web.serving import (
    WAV,
    Lessons,
    StandIn,
    client,
    farewell,
    frame,
    jpeg,
    order,
    received,
    running,
    services,
    stream,
)

pytestmark = pytest.mark.timeout(60)
ROUTES = ["/", "/static/index.html", "/static/missing.js", "/api/status", "/api/predict", "/api/speak", "/docs", "/x"]


@pytest.fixture(scope="module")
def server() -> Iterator[Binding]:
    limits = Limits(photos_per_second=1000, speeches_per_second=1000)
    with running(services(limits), limits) as binding:
        yield binding


# ---- the page and the headers --------------------------------------------------------------------------------


def test_the_page_and_its_files_are_those_of_the_folder(server: Binding) -> None:
    with client(server) as http:
        for path in page_files.FOLDER.rglob("*.*"):
            answer = http.get(f"/static/{path.relative_to(page_files.FOLDER).as_posix()}")
            assert answer.content == path.read_bytes()
        assert http.get("/").content == (page_files.FOLDER / "index.html").read_bytes()
        assert http.get("/").headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["../serve.py", "%2e%2e/serve.py", "..%2fserve.py", "%00", "a" * 5000, "/etc/passwd", "index.html/x"]
)
def test_no_other_file_is_reached(server: Binding, path: str) -> None:
    host, port = server.listener.getsockname()
    with socket.create_connection((host, port), timeout=20) as plain:
        plain.sendall(f"GET /static/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: plain.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("host", [None, "evil.example"])
def test_every_answer_has_the_careful_headers(server: Binding, host: str | None) -> None:
    with client(server) as http:
        for method, path in itertools.product(["GET", "POST", "DELETE"], ROUTES):
            headers = http.request(method, path, headers={"Host": host} if host else {}).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert headers["permissions-policy"] == "camera=(self)"
            assert "server" not in headers
            rules = headers["content-security-policy"].split(";")
            policy = dict(rule.strip().split(" ", 1) for rule in rules)
            assert policy["default-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            own = "" if host else f" ws://{http.base_url.netloc.decode()}"
            assert policy["connect-src"] == "'self'" + own
            assert not {"script-src", "style-src"} & policy.keys()  # nothing inline


def test_the_state_is_told_and_fastapi_s_pages_are_off(server: Binding) -> None:
    with client(server) as http:
        status = http.get("/api/status").json()
        assert status == {"version": __version__, "classes": list(CLASSES), "speech": True}
        assert [http.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


# ---- frames and orders ---------------------------------------------------------------------------------------


def test_frames_are_read_upright_and_answered_with_their_own_time(server: Binding) -> None:
    with stream(server) as page:
        page.send(frame(1000.5, jpeg(75)))
        reading = received(page)
        assert reading["type"] == "reading"
        assert reading["sent_ms"] == 1000.5
        assert reading["top"][0] == ["H", 0.9]  # 75 / 10: the eighth letter
        assert reading["text"] == "H"
        assert reading["suggestions"] == ["HLO"]
        assert reading["dropped"] == 0
        assert reading["joints"] == [[0.5, 0.5]] * 21
        assert reading["world"] == [[0.01, 0.01, 0.01]] * 21
        assert reading["held"] == {"label": "H", "confidence": 0.9, "progress": 1.0}
        assert reading["taken"] == [{"label": "H", "start_s": 1.0005, "end_s": 1.0005, "confidence": 0.9}]


def test_what_the_translator_sees_is_what_pillow_decodes_reduced_where_it_is_large() -> None:
    translators: list[StandIn] = []
    limits = Limits(frame_px=100)
    with running(services(limits, translators=translators), limits) as binding, stream(binding) as page:
        for number, size in enumerate([(64, 48), (48, 64), (200, 100), (1, 1), (3000, 4)]):
            page.send(frame(number, jpeg(size=size)))
            assert received(page)["type"] == "reading"
    assert translators[0].seen == [(48, 64, 3), (64, 48, 3), (50, 100, 3), (1, 1, 3), (1, 100, 3)]


def test_orders_change_the_text_and_are_answered_with_it(server: Binding) -> None:
    with stream(server) as page:
        for number, brightness in enumerate((75, 45, 115)):
            page.send(frame(number, jpeg(brightness)))
            received(page)
        assert order(page, type="edit", action="undo")["text"] == "HE"
        assert order(page, type="edit", action="space")["text"] == "HE "
        assert order(page, type="edit", action="replace_word", word="hello")["text"] == "HE HELLO"
        assert order(page, type="edit", action="clear") == {"type": "text", "text": "", "suggestions": ["LO"]}


def test_a_lesson_goes_on_with_the_frames_and_its_examples_are_counted_and_deleted() -> None:
    limits = Limits()
    with running(services(limits, teacher=Lessons({"B": 1})), limits) as binding, stream(binding) as page:
        told = {"type": "calibration", "letter": None, "progress": 0.0, "counts": {"B": 1}}
        assert received(page) == told
        assert order(page, type="calibrate", letter="A") == told | {"letter": "A"}
        for number, (progress, counts) in enumerate([(0.5, {"B": 1}), (1.0, {"B": 1, "A": 1})]):
            page.send(frame(number))
            assert received(page) == told | {"letter": "A", "progress": progress, "counts": counts}
            assert received(page)["type"] == "reading"
        page.send(frame(3))
        assert received(page)["type"] == "reading"
        assert order(page, type="forget") == told | {"counts": {}}


def test_without_a_teacher_lessons_are_refused(server: Binding) -> None:
    with stream(server) as page:
        assert order(page, type="calibrate", letter="A")["code"] == "no_calibration"
        assert order(page, type="forget")["code"] == "no_calibration"
        assert order(page, type="calibrate", letter="J")["code"] == "bad_message"  # a movement


def test_frames_are_dropped_and_never_queued() -> None:
    """A reader that takes a fifth of a second for a frame gets one, then the newest; answers say what was lost."""
    translators: list[StandIn] = []
    limits = Limits()
    with running(services(limits, 0.2, translators), limits) as binding, stream(binding) as page:
        for number in range(20):
            page.send(frame(number))
        readings = [received(page)]
        while readings[-1]["sent_ms"] != 19:
            readings.append(received(page))
    assert len(readings) == len(translators[0].seen)
    assert len(readings) + sum(reading["dropped"] for reading in readings) == 20
    assert len(readings) <= 3


def test_two_pages_have_texts_of_their_own(server: Binding) -> None:
    with stream(server) as one, stream(server) as other:
        for page, brightness in ((one, 75), (other, 95), (one, 85)):
            page.send(frame(brightness, jpeg(brightness)))
            reading = received(page)
        assert reading["text"] == "HI"
        assert order(other, type="edit", action="space")["text"] == "J "


def test_a_page_that_does_not_take_its_answers_is_sent_away_and_holds_up_nobody() -> None:
    limits = Limits(send_seconds=0.5, sessions=2)
    long = ["A" * 200_000]
    with running(services(limits, suggest=lambda text: long), limits) as binding, stream(binding) as other:
        with stream(binding, max_queue=1) as slow:
            was_cut_off = False
            for number in range(200):  # answers of 200 kB, of which it takes two
                other.send(frame(number))
                assert received(other)["sent_ms"] == number
                try:
                    slow.send(frame(number))
                except ConnectionClosed:
                    was_cut_off = True
                    break
        assert was_cut_off


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "bad_frame"),
        (b"12345678", "bad_frame"),
        (frame(float("nan")), "bad_frame"),
        (frame(float("inf")), "bad_frame"),
        (frame(-1), "bad_frame"),
        (frame(1, jpeg()[:200]), "bad_frame"),
        (frame(1, b"\xff\xd8\xff" + bytes(100)), "bad_frame"),
        (frame(1, jpeg(size=(2100, 2000))), "bad_frame"),
        ("", "bad_message"),
        ("[" * 4000, "bad_message"),
        ('{"type": "edit"}', "bad_message"),
        ('{"type": "edit", "action": "explode"}', "bad_message"),
        ('{"type": "edit", "action": "replace_word", "word": "<b>"}', "bad_message"),
        ('{"type": "edit", "action": "undo", "more": 1}', "bad_message"),
        ('{"type": "calibrate", "letter": "AB"}', "bad_message"),
        ("null", "bad_message"),
        ("1e999", "bad_message"),
    ],
)
def test_what_cannot_be_read_is_answered_and_the_page_goes_on(
    server: Binding, message: str | bytes, code: str
) -> None:
    with stream(server) as page:
        page.send(message)
        error = received(page)
        assert (error["type"], error["code"]) == ("error", code)
        page.send(frame(2))
        assert received(page)["type"] == "reading"


def test_pictures_of_other_formats_are_no_frames(server: Binding) -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    with stream(server) as page:
        page.send(frame(1, png.getvalue()))
        error = received(page)
    assert error == {
        "type": "error",
        "code": "bad_frame",
        "message": "a frame must be a plain JPEG",
        "sent_ms": 1,
        "dropped": 0,
    }


# ---- caps ----------------------------------------------------------------------------------------------------


def test_a_frame_that_is_too_large_closes_its_page_alone(server: Binding) -> None:
    with stream(server) as good, stream(server) as page:
        page.send(bytes(Limits().frame_bytes + 9))
        assert farewell(page) == (None, 1009)
        good.send(frame(1))
        assert received(good)["type"] == "reading"


def test_a_text_message_that_is_too_large_says_goodbye(server: Binding) -> None:
    with stream(server) as page:
        page.send(" " * (Limits().message_bytes + 1))
        assert farewell(page) == ("too_large", 1009)


def test_one_session_too_many_is_told_so_and_has_a_place_when_one_leaves() -> None:
    limits = Limits(sessions=1)
    with running(services(limits), limits) as binding:
        with stream(binding) as first:
            first.send(frame(1))
            received(first)
            with stream(binding) as second:
                assert farewell(second) == ("too_many_sessions", 1013)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with stream(binding) as third:
                third.send(frame(1))
                if received(third)["type"] == "reading":
                    return
            time.sleep(0.05)
        raise AssertionError("the place was not given back")


def test_a_silent_page_is_sent_away() -> None:
    limits = Limits(idle_seconds=0.3)
    with running(services(limits), limits) as binding, stream(binding) as page:
        assert farewell(page) == ("idle", 1008)


def test_who_sends_too_fast_is_sent_away() -> None:
    limits = Limits(messages_per_second=20)
    with running(services(limits), limits) as binding, stream(binding) as page:
        with contextlib.suppress(ConnectionClosed):
            for number in range(60):
                page.send(frame(number))
        assert farewell(page) == ("too_fast", 1008)


def test_who_sends_nonsense_for_long_is_sent_away() -> None:
    limits = Limits(bad_messages=3)
    with running(services(limits), limits) as binding, stream(binding) as page:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(5):
                page.send("nonsense")
        assert farewell(page) == ("too_many_errors", 1008)


def test_a_full_text_takes_no_more_until_it_is_cleared() -> None:
    limits = Limits(text_characters=2, bad_messages=3)
    with running(services(limits), limits) as binding, stream(binding) as page:
        for number in range(2):
            page.send(frame(number))
            received(page)
        for number in range(2, 9):  # more than there may be mistakes
            page.send(frame(number))
            assert received(page)["code"] == "text_full"
        assert order(page, type="edit", action="space")["code"] == "text_full"
        assert order(page, type="edit", action="clear")["text"] == ""
        page.send(frame(9))
        assert received(page)["text"] == "D"


def test_a_failing_translator_ends_its_session_with_a_message(capfd: pytest.CaptureFixture[str]) -> None:
    limits = Limits()
    offered = services(limits)

    def broken() -> Any:
        raise RuntimeError("out of order")

    with running(type(offered)(broken, offered.read_photo, None), limits) as binding:
        with stream(binding) as page:
            assert farewell(page) == ("failed", 1011)
        with client(binding) as http:
            assert http.get("/api/status").json()["speech"] is False
            assert http.post("/api/speak", json={"text": "hello"}).status_code == 503


# ---- one photo, one text -------------------------------------------------------------------------------------


def photo(size: tuple[int, int], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_photo_is_read_whatever_its_format(server: Binding, kind: str) -> None:
    with client(server) as http:
        answer = http.post("/api/predict", content=photo((30, 20), kind), headers={"Content-Type": "image/any"})
    assert answer.json() == {"height": 20, "width": 30}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "image/jpeg", 400),
        (b"no picture at all", "image/jpeg", 415),
        (jpeg()[:150], "image/jpeg", 400),
        (b"GIF89a" + bytes(5), "application/octet-stream", 415),
        (jpeg(), "multipart/form-data; boundary=x", 415),
        (jpeg(), "text/html", 415),
        (b'{"text": 1}', "application/json", 415),
        (photo((9000, 6000), "PNG"), "image/png", 413),
        (bytes(Limits().photo_bytes + 1), "image/jpeg", 413),
    ],
    ids=["empty", "text", "truncated", "GIF", "form", "HTML", "JSON", "megapixels", "bytes"],
)
def test_what_is_no_photo_is_refused_with_its_reason(server: Binding, body: bytes, kind: str, status: int) -> None:
    with client(server) as http:
        answer = http.post("/api/predict", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_a_body_of_unknown_length_is_cut_at_the_cap(server: Binding) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 2**20
            yield bytes(2**20)

    with client(server) as http, contextlib.suppress(httpx.TransportError):  # closed meanwhile
        answer = http.post("/api/predict", content=endless(), headers={"Content-Type": "image/png"})
        assert answer.status_code == 413
    assert sent < 200 * 2**20


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    limits = Limits(request_seconds=0.3)
    with running(services(limits), limits) as binding:
        address = binding.listener.getsockname()
        head = f"POST /api/predict HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Length: 10\r\n\r\n12"
        with socket.create_connection(address, timeout=20) as slow:
            slow.sendall(head.encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(address, timeout=20) as silent:
            assert silent.recv(100) == b""  # closed


def test_connections_above_the_cap_are_closed_and_those_below_go_on() -> None:
    limits = Limits(connections=4)
    with running(services(limits), limits) as binding, stream(binding) as page, contextlib.ExitStack() as held:
        plain = [held.enter_context(socket.create_connection(binding.listener.getsockname())) for _ in range(9)]
        for one in plain[3:]:
            one.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
        page.send(frame(1))
        assert received(page)["type"] == "reading"


def test_too_many_photos_at_once_must_ask_again() -> None:
    limits = Limits(photos_per_second=2, speeches_per_second=2)
    with running(services(limits), limits) as binding, client(binding) as http:
        kind = {"Content-Type": "image/jpeg"}
        answers = [http.post("/api/predict", content=jpeg(), headers=kind) for _ in range(9)]
        spoken = [http.post("/api/speak", json={"text": "hello"}) for _ in range(9)]
    for some in (answers, spoken):
        assert {answer.status_code for answer in some} == {200, 429}
        assert {answer.headers.get("retry-after") for answer in some} == {None, "1"}


def test_a_text_is_spoken(server: Binding) -> None:
    with client(server) as http:
        answer = http.post("/api/speak", json={"text": " hello "})
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.content == WAV + b"hello"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"hello", 400),
        (b'{"text": 5}', 400),
        (b'{"text": ""}', 400),
        (b'{"text": "a", "voice": "../x"}', 400),
        (b'{"text": "\\ud800"}', 400),
        (json.dumps({"text": "a" * 2001}).encode(), 400),
        (json.dumps({"text": "a" * 20_000}).encode(), 413),
    ],
)
def test_what_is_no_text_is_refused(server: Binding, body: bytes, status: int) -> None:
    with client(server) as http:
        assert http.post("/api/speak", content=body).status_code == status


def test_the_room_of_the_page_holds_files_that_are_served_alone() -> None:
    kinds = {path.suffix for path in Path(page_files.FOLDER).rglob("*") if path.is_file()}
    assert kinds <= set(page_files._KINDS)
