"""A server that speaks the page's protocol and answers every frame with what a test wants to see."""

from __future__ import annotations

import asyncio
import json
import queue
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from starlette.staticfiles import StaticFiles

from horovod_asl.reports.sign_pictures import sign_joints
from horovod_asl.synthetic.pose import POSES
from tests.launching import ROOT

PAGE = ROOT / "horovod_asl" / "web" / "page"
POLICY = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; object-src 'none'; frame-ancestors 'none'"


def hand(sign: str) -> dict[str, Any]:
    """`joints` and `world` of a drawn right hand in the middle of a frame of 4:3."""
    world = sign_joints(POSES[sign])
    flat = world[:, :2] - (world[:, :2].min(0) + world[:, :2].max(0)) / 2
    joints = 0.5 + 0.6 * flat * [3 / 4, 1]
    return {"joints": joints.round(4).tolist(), "world": world.round(4).tolist(), "handedness": "right"}


def reading(text: str = "", sign: str | None = None, progress: float = 0.0, **more: Any) -> dict[str, Any]:
    """A `reading`: nobody in sight, or a hand that holds a sign."""
    seen: dict[str, Any] = {"joints": None, "world": None, "handedness": None, "top": [], "held": None}
    if sign is not None:
        top = [[sign, 0.93], ["S", 0.04], ["nothing", 0.01]]
        seen = hand(sign) | {"top": top, "held": {"label": sign, "confidence": 0.93, "progress": progress}}
    seen["problem"] = None if sign else "no_hand"
    return {"type": "reading", "taken": [], "text": text, "suggestions": [], "dropped": 0} | seen | more


class StandIn:
    """What the page is told, and what it sent. A test changes `answer` while the page is open."""

    def __init__(self) -> None:
        self.answer = reading()
        self.orders: list[dict[str, Any]] = []
        self.frames: list[bytes] = []
        self.times_ms: list[float] = []
        self.address = ""
        self.silent = False
        self._released = queue.SimpleQueue[dict[str, Any]]()
        self.spoken: list[str] = []
        self.can_speak = True
        self.refusal: dict[str, Any] | None = None
        self.drop = threading.Event()
        self.app = FastAPI(openapi_url=None)
        self._add_routes()

    def _add_routes(self) -> None:
        @self.app.middleware("http")
        async def careful(request: Request, call_next: Any) -> Any:
            answer = await call_next(request)
            answer.headers["Content-Security-Policy"] = POLICY
            answer.headers["X-Content-Type-Options"] = "nosniff"
            return answer

        @self.app.get("/")
        async def index() -> Response:
            return Response((PAGE / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

        @self.app.post("/api/speak")
        async def speak(request: Request) -> Response:
            if not self.can_speak:
                return Response(status_code=503)
            self.spoken.append((await request.json())["text"])
            return Response(silence(), media_type="audio/wav")

        self.app.mount("/static", StaticFiles(directory=PAGE))
        self.app.add_api_websocket_route("/api/stream", self._stream)

    async def _stream(self, socket: WebSocket) -> None:
        await socket.accept()
        if self.refusal is not None:
            await socket.send_json(self.refusal)
            await socket.close(1013)
            return
        releasing = asyncio.create_task(self._release_to(socket))
        try:
            while not self.drop.is_set():
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("bytes") is None:
                    for answer in self._obey(json.loads(message["text"])):
                        await socket.send_json(answer)
                else:
                    answer = self._read(message["bytes"])
                    if not self.silent:
                        await socket.send_json(answer)
            await socket.close(1011)
        except WebSocketDisconnect:
            pass
        finally:
            releasing.cancel()

    def release(self, about: dict[str, Any]) -> None:
        """Answer a frame now, though the server is silent."""
        self._released.put(self.answer | about)

    async def _release_to(self, socket: WebSocket) -> None:
        while True:
            await asyncio.sleep(0.02)
            while not self._released.empty():
                await socket.send_json(self._released.get())

    def _read(self, frame: bytes) -> dict[str, Any]:
        (sent_ms,) = struct.unpack_from("<d", frame)
        self.times_ms.append(sent_ms)
        self.frames = [*self.frames[-4:], frame[8:]]
        return self.answer | {"sent_ms": sent_ms}

    def _obey(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        self.orders.append(order)
        text = self.answer["text"]
        match order:
            case {"type": "edit", "action": "undo"}:
                text = text[:-1]
            case {"type": "edit", "action": "space"}:
                text += " "
            case {"type": "edit", "action": "clear"}:
                text = ""
            case {"type": "edit", "action": "replace_word", "word": word}:
                text = text[: text.rfind(" ") + 1] + word + " "
            case {"type": "calibrate", "letter": letter}:
                about = {"type": "calibration", "letter": letter}
                return [about | {"progress": 0.5, "counts": {}}, about | {"progress": 1.0, "counts": {letter: 8}}]
            case _:
                return []
        self.answer = self.answer | {"text": text, "suggestions": []}
        return [{"type": "text", "text": text, "suggestions": []}]


def silence() -> bytes:
    """A WAV of a tenth of a second."""
    samples = bytes(2 * 800)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    return head + struct.pack("<4sI", b"data", len(samples)) + samples


@contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """The address of an application that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
