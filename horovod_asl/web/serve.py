"""Bind, say where, open the browser, serve until Ctrl-C: the only file that imports uvicorn."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import ssl
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from horovod_asl.errors import UserError
from horovod_asl.web.access import Access, is_any, is_loopback, own_hosts
from horovod_asl.web.limits import Limits
from horovod_asl.web.server import create_app
from horovod_asl.web.services import Services

DEFAULT_PORT = 8600
_SHUTDOWN_SECONDS = 1


@dataclass(frozen=True)
class Place:
    """Where a server listens, and how the browser reaches it."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None: `DEFAULT_PORT`, or a free one where that is in use."""
    certificate: Path | None = None
    key: Path | None = None
    """Both in PEM; without them, the server speaks plain HTTP."""
    proxy_name: str | None = None
    """The public name, and port if it is not 443, of a proxy before it that speaks TLS."""

    @property
    def is_exposed(self) -> bool:
        """Whether others than the users of this machine can reach it."""
        return self.proxy_name is not None or not is_loopback(self.host)


@dataclass(frozen=True)
class Binding:
    """A socket that is bound, and what a browser calls it."""

    listener: socket.socket
    access: Access
    address: str
    """With the token, where there is one."""


def bind(place: Place) -> Binding:
    """Take the port.

    Raises:
        UserError: the port is in use or not allowed, the host is not of this machine, or the certificate is none.
    """
    check_certificate(place)
    listener = _listener(place)
    port = listener.getsockname()[1]
    scheme = "http" if place.certificate is None and place.proxy_name is None else "https"
    hosts = own_hosts(place.host, port, scheme, proxy_name=place.proxy_name)
    token = secrets.token_urlsafe(32) if place.is_exposed else None
    shown = place.proxy_name or f"{_shown_host(place.host)}:{port}"
    address = f"{scheme}://{shown}/" + ("" if token is None else f"?token={token}")
    return Binding(listener, Access(hosts, scheme, token), address)


def make_server(binding: Binding, place: Place, services: Services, limits: Limits) -> uvicorn.Server:
    """A server that is ready to run on the binding's socket.

    Raises:
        UserError: the page's files are missing.
    """
    binding.listener.listen()  # so that the browser's first request waits, and is not refused
    return uvicorn.Server(
        uvicorn.Config(
            create_app(services, binding.access, limits),
            http=_protocol(limits),
            ws=_Impatient,
            loop="asyncio",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=limits.frame_bytes + 8,
            ws_per_message_deflate=False,  # a few bytes could become many
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            ssl_certfile=place.certificate,
            ssl_keyfile=place.key,
        )
    )


def serve(server: uvicorn.Server, binding: Binding, *, open_browser: bool) -> None:
    """Answer until Ctrl-C, and return then."""
    if open_browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(binding.address,), daemon=True).start()
    try:
        server.run(sockets=[binding.listener])
    except KeyboardInterrupt:  # uvicorn passes the key on once all is closed
        return


def check_certificate(place: Place) -> None:
    """UserError where the certificate and the key cannot be used together."""
    if place.certificate is None or place.key is None:
        return

    def refuse_passphrase() -> str:
        raise UserError(f"--tls-key {place.key} has a passphrase: name a key without one")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place.certificate, place.key, refuse_passphrase)
    except OSError as error:  # ssl.SSLError is one
        raise UserError(
            f"--tls-cert {place.certificate} and --tls-key {place.key} cannot be used "
            f"({error.strerror or error}): name a certificate and its key in PEM"
        ) from error


def _listener(place: Place) -> socket.socket:
    if place.port is not None:
        return _bound(place.host, place.port)
    try:
        return _bound(place.host, DEFAULT_PORT)
    except PortInUseError:
        listener = _bound(place.host, 0)
        print(f"live: port {DEFAULT_PORT} is in use: taking {listener.getsockname()[1]}", file=sys.stderr)
        return listener


class PortInUseError(UserError):
    """Another program has the port."""


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: there is no such address ({error}): name one of this machine") from error
    if os.name == "posix":  # elsewhere it would let two programs have one port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _refused(host, port, error) from error
    return listener


def _refused(host: str, port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(f"port {port} of {host} is in use: name another, such as --port {port + 1}")
    if error.errno == errno.EACCES:
        return UserError(f"port {port} is not for this user: name one from 1024 on, such as --port {DEFAULT_PORT}")
    return UserError(f"--host {host}: {error.strerror}: name an address of this machine")


def _shown_host(host: str) -> str:
    if is_any(host):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _has_screen() -> bool:
    """Whether a browser could show itself; else a text browser may take the terminal."""
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's HTTP with an end to connections that ask for nothing, and to too many of them."""

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self.loop.call_later(limits.request_seconds, self._close_if_silent)

        def _close_if_silent(self) -> None:
            if getattr(self, "scope", None) is None:  # no request has come
                self.transport.abort()

    return Bounded


class _Impatient(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket; one that is to be closed while its page takes nothing is cut off, not waited for."""

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.close" and not self.writable.is_set():
            self.transport.abort()
        await super().send(message)
