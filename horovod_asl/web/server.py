"""The server's addresses: the page and its files, its WebSocket, a photo to read, a text to speak, and its state.

FastAPI's pages of documentation are off, since they load scripts from another host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from horovod_asl import __version__
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.photos.decode import PhotoError
from horovod_asl.web.access import Access
from horovod_asl.web.guard import Guard
from horovod_asl.web.limits import Gate, Limits
from horovod_asl.web.messages import TRY_LATER, BadMessageError, FarewellError, speech_of
from horovod_asl.web.page_files import INDEX, PageFile, page_files
from horovod_asl.web.services import Services
from horovod_asl.web.session import Places, Session, say_goodbye

_ANY_BYTES = "application/octet-stream"
_END = {"Connection": "close"}  # or the rest of the body would still be read


def create_app(services: Services, access: Access, limits: Limits) -> Guard:
    """The whole application, checks of host, origin and token included.

    Raises:
        UserError: the page's files are missing.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_page(app, page_files())
    _add_status(app, services)
    _add_stream(app, services, limits)
    _add_photos(app, services, limits)
    _add_speech(app, services, limits)
    return Guard(app, access)


def _add_page(app: FastAPI, files: dict[str, PageFile]) -> None:
    @app.get("/")
    async def page() -> Response:
        return Response(files[INDEX].content, media_type=files[INDEX].kind)

    @app.get("/static/{path:path}")
    async def file(path: str) -> Response:
        if path not in files:
            raise HTTPException(404, "there is no such file")
        return Response(files[path].content, media_type=files[path].kind)


def _add_status(app: FastAPI, services: Services) -> None:
    @app.get("/api/status")
    async def status() -> dict[str, Any]:
        return {"version": __version__, "classes": list(CLASSES), "speech": services.speak is not None}


def _add_stream(app: FastAPI, services: Services, limits: Limits) -> None:
    places = Places(limits.sessions)

    @app.websocket("/api/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        channel = _Socket(socket)
        thread = places.take()
        if thread is None:
            message = f"{limits.sessions} pages are open already: close one of them, then try again"
            await say_goodbye(channel, FarewellError(TRY_LATER, "too_many_sessions", message), limits)
        else:
            leave = partial(places.give_back, thread)
            await Session(channel, services.make_reader, thread, leave, limits).run()


def _add_photos(app: FastAPI, services: Services, limits: Limits) -> None:
    gate = Gate(limits.at_once, limits.photos_per_second)

    @app.post("/api/predict")
    async def predict(request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", _ANY_BYTES).lower()
        if not kind.startswith(("image/", _ANY_BYTES)):
            raise HTTPException(415, "send the bytes of one photo, with the content type of a picture")
        async with _entered(gate):
            photo = await _body(request, limits.photo_bytes, limits.request_seconds)
            try:
                return await run_in_threadpool(services.read_photo, photo)
            except PhotoError as error:
                raise HTTPException(_status_of(error), f"this photo cannot be read: {error}") from error


def _add_speech(app: FastAPI, services: Services, limits: Limits) -> None:
    gate = Gate(limits.at_once, limits.speeches_per_second)

    @app.post("/api/speak")
    async def speak(request: Request) -> Response:
        body = await _body(request, limits.speech_bytes, limits.request_seconds)
        try:
            text = speech_of(body, limits.speech_characters)
        except BadMessageError as error:
            raise HTTPException(400, str(error)) from error
        if services.speak is None:
            raise HTTPException(503, "this server cannot speak: apt-get install espeak-ng, then start it again")
        async with _entered(gate):
            try:
                return Response(await run_in_threadpool(services.speak, text), media_type="audio/wav")
            except UserError as error:
                raise HTTPException(503, str(error)) from error


@asynccontextmanager
async def _entered(gate: Gate) -> AsyncIterator[None]:
    if not gate.enter():
        raise HTTPException(429, "too many at one time: ask again in a second", {"Retry-After": "1"})
    try:
        yield
    finally:
        gate.leave()


async def _body(request: Request, most_bytes: int, most_seconds: float) -> bytes:
    """The body, never more of it in memory than is allowed; a refusal where it is larger, or comes too slowly."""
    too_large = f"send at most {most_bytes} bytes"
    if int(request.headers.get("content-length", 0)) > most_bytes:
        raise HTTPException(413, too_large)
    body = bytearray()
    try:
        async with asyncio.timeout(most_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise HTTPException(413, too_large, _END)
    except TimeoutError:
        raise HTTPException(408, "the body came too slowly", _END) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended too early") from None
    return bytes(body)


def _status_of(error: PhotoError) -> int:
    """By the decoder's reason: too large, of a kind that it does not read, or broken."""
    reason = str(error)
    if reason.startswith("too large"):
        return 413
    return 415 if reason.startswith(("not a picture", "a video", "HEIC needs")) else 400


class _Socket:
    """A WebSocket as a session sees it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> str | bytes | None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        given: bytes = message.get("bytes") or b""
        return given if text is None else text

    async def send(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send_json(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the page is gone") from error

    async def close(self, code: int) -> None:
        try:
            await self._socket.close(code)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the page is gone") from error
