"""Who may ask: requests that name this server as their host, from its own page, with its token where it has one.

A page of another site can make the browser send requests to 127.0.0.1, and by a name that it first resolves to
itself and then to 127.0.0.1 (DNS rebinding) it can read the answers. Such a request still has the other site's name
in `Host`, and the other page's address in `Origin`: both are compared with the names of this server.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import parse_qs

import psutil

Headers = Iterable[tuple[bytes, bytes]]

COOKIE = "__Host-horovod-asl"
"""The prefix makes browsers refuse it unless it came over TLS, from this very host."""
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_TOKEN = "the token is missing or wrong: open the whole address that `horovod-asl live` printed"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: HTTPStatus
    message: str


@dataclass(frozen=True)
class Access:
    """The names under which a server is reached, and its token."""

    hosts: frozenset[str]
    """What `Host` may be, in lower case: `127.0.0.1:8600`."""
    scheme: str = "http"
    """Of the page's address as the browser sees it: http or https."""
    token: str | None = None

    def refusal(self, headers: Headers, query: bytes) -> Refusal | None:
        """Why a request with these headers and this query string is refused; None: it is not."""
        host = _only(headers, b"host")
        if host is None or host.lower() not in self.hosts:
            return Refusal(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name: see what it printed")
        origins = _all(headers, b"origin")
        if any(origin.lower() not in self.origins for origin in origins):
            return Refusal(HTTPStatus.FORBIDDEN, "only this server's own page may ask")
        if self.token is not None and not (self.is_in_query(query) or self._is_in_cookies(headers)):
            return Refusal(HTTPStatus.UNAUTHORIZED, _NO_TOKEN)
        return None

    @property
    def origins(self) -> frozenset[str]:
        """What `Origin` may be."""
        return frozenset(f"{self.scheme}://{host}" for host in self.hosts)

    def is_in_query(self, query: bytes) -> bool:
        """Whether a query string holds the token."""
        given = parse_qs(query.decode("latin-1"), max_num_fields=None).get("token", [])
        return any(map(self._is_token, given))

    def _is_in_cookies(self, headers: Headers) -> bool:
        pairs = (pair.strip().partition("=") for value in _all(headers, b"cookie") for pair in value.split(";"))
        return any(self._is_token(value) for name, _, value in pairs if name == COOKIE)

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(
            given.encode("utf-8", "replace"), self.token.encode()
        )


def own_hosts(host: str, port: int, scheme: str, *, proxy_name: str | None = None) -> frozenset[str]:
    """The values of `Host` that mean a server which listens at `host`, with the port; without it where it is the
    scheme's own.

    Args:
        host: an address or a name, `0.0.0.0` and `::` for all addresses of this machine.
        port: of the socket.
        scheme: http or https.
        proxy_name: the public name of the proxy before it, `signs.example.org` or `signs.example.org:8443`.
    """
    names = {*_OWN_NAMES, _in_url(host)}
    if is_any(host):
        names |= _names_of_this_machine()
    hosts = {f"{name}:{port}" for name in names}
    if port == _DEFAULT_PORTS[scheme]:
        hosts |= names
    if proxy_name is not None:
        hosts |= {proxy_name, *([] if ":" in proxy_name else [f"{proxy_name}:443"])}
    return frozenset(name.lower() for name in hosts)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`, an address or a name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_any(host: str) -> bool:
    """Whether `host` stands for all addresses of this machine."""
    return host in ("0.0.0.0", "::")


def _names_of_this_machine() -> set[str]:
    name = socket.gethostname()
    addresses = {
        _in_url(address.address.partition("%")[0])
        for of_one in psutil.net_if_addrs().values()
        for address in of_one
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    return {name, f"{name.partition('.')[0]}.local", socket.getfqdn(), *addresses}


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _all(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _only(headers: Headers, name: bytes) -> str | None:
    values = _all(headers, name)
    return values[0] if len(values) == 1 else None
