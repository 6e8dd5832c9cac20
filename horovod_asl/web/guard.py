"""The door of the server: an ASGI application around the real one, which no request gets past unchecked.

It refuses what `Access` refuses, and puts the headers that make a browser careful into every answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from horovod_asl.web.access import COOKIE, Access, Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; connect-src 'self'"
)


class Guard:
    """Answers refused requests itself, and hands the others on to `application`."""

    def __init__(self, application: Application, access: Access) -> None:
        self._application, self._access = application, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI wants it."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        refusal = self._access.refusal(scope["headers"], scope["query_string"])
        headers = self._headers(scope, refusal)

        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        if refusal is None:
            await self._application(scope, receive, send_with_headers)
        else:
            await _refuse(scope, receive, send_with_headers, refusal)

    def _headers(self, scope: Scope, refusal: Refusal | None) -> list[tuple[bytes, bytes]]:
        policy = _POLICY
        if refusal is None:  # the host is one of our own then
            host = next(value.decode("latin-1") for name, value in scope["headers"] if name == b"host")
            policy += f" {'wss' if self._access.scheme == 'https' else 'ws'}://{host}"
        values = _HEADERS | {"Content-Security-Policy": policy}
        if refusal is None and scope["path"] == "/" and self._access.is_in_query(scope["query_string"]):
            values["Set-Cookie"] = f"{COOKIE}={self._access.token}; Path=/; Secure; HttpOnly; SameSite=Strict"
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in values.items()]


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer with the refusal's status and one line; a WebSocket is not opened for it."""
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # the wish to connect
        kind = "websocket.http.response"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": f"{kind}.start", "status": int(refusal.status), "headers": headers})
    await send({"type": f"{kind}.body", "body": f"{refusal.message}\n".encode()})
