"""Who may ask: hosts, origins and tokens, over real sockets and where the server is not on loopback."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from horovod_asl.errors import UserError
from horovod_asl.web.access import COOKIE, Access, is_loopback, own_hosts
from horovod_asl.web.limits import Limits
from horovod_asl.web.serve import DEFAULT_PORT, Binding, Place, bind
from tests.single.web.serving import client, frame, received, running, services, stream

pytestmark = pytest.mark.timeout(60)
ROUTES = ["/", "/static/index.html", "/static/missing.js", "/api/status", "/api/predict", "/api/speak", "/docs", "/x"]


@pytest.fixture(scope="module")
def server() -> Iterator[Binding]:
    with running(services(Limits())) as binding:
        yield binding


def test_foreign_hosts_and_origins_are_refused_everywhere(server: Binding) -> None:
    port = server.listener.getsockname()[1]
    foreign = ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", "")
    others = ("http://evil.example", "null", "", f"https://127.0.0.1:{port}", "http://127.0.0.1")
    with client(server) as http:
        for path in ROUTES:
            assert {http.post(path, headers={"Host": host}).status_code for host in foreign} == {421}
            assert {http.get(path, headers={"Origin": origin}).status_code for origin in others} == {403}
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
            own = {"Host": host, "Origin": f"http://{host}"}
            assert http.get("/api/status", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("named", "origin", "status"),
    [(None, "http://evil.example", 403), (None, "null", 403), ("evil.example", "http://evil.example", 421)],
)
def test_foreign_pages_get_no_websocket(server: Binding, named: str | None, origin: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, stream(server, named, origin=origin):
        pass
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["x-content-type-options"] == "nosniff"


def test_its_own_page_gets_one(server: Binding) -> None:
    with stream(server, origin=f"http://localhost:{server.listener.getsockname()[1]}") as page:
        page.send(frame(1))
        assert received(page)["type"] == "reading"


def test_two_hosts_or_none_are_refused(server: Binding) -> None:
    host, port = server.listener.getsockname()
    with socket.create_connection((host, port), timeout=20) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nHost: evil.example\r\n\r\n".encode())
        assert plain.recv(100).split()[1] in (b"400", b"421")
    with socket.create_connection((host, port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert plain.recv(100).split()[1] == b"421"


# ---- the token -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied() -> Iterator[Binding]:
    """Behind a proxy that speaks TLS, which is not there: the tests speak as it would."""
    with running(services(Limits()), place=Place(proxy_name="signs.example.org")) as binding:
        yield binding


def behind_proxy(binding: Binding, cookie: str | None = None) -> httpx.Client:
    headers = {"Host": "signs.example.org"} | ({"Cookie": cookie} if cookie else {})
    port = binding.listener.getsockname()[1]
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, verify=False)


def test_without_the_token_nothing_is_answered(proxied: Binding) -> None:
    token = proxied.access.token
    assert proxied.address == f"https://signs.example.org/?token={token}"
    assert token is not None
    assert len(token) >= 32
    wrong = ("", "?token=", "?token=x", f"?token={token}x", f"?token={token[:-1]}", "?token=%ff", "?tok=" + token)
    with behind_proxy(proxied) as http:
        for path in ROUTES:
            for query in wrong:
                assert http.get(path + query).status_code == 401
        assert http.get("/", headers={"Cookie": f"other={token}; {COOKIE}=x"}).status_code == 401


def test_the_first_page_load_turns_the_token_into_a_cookie(proxied: Binding) -> None:
    token = proxied.access.token
    with behind_proxy(proxied) as http:
        page = http.get(f"/?token={token}")
        assert page.status_code == 200
        name, *attributes = page.headers["set-cookie"].split("; ")
        assert name == f"{COOKIE}={token}"
        assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes)
        assert "set-cookie" not in http.get(f"/api/status?token={token}").headers
    with behind_proxy(proxied, f"a=b; {name}") as http:
        assert http.get("/static/index.html").status_code == 200
        policy = http.get("/").headers["content-security-policy"]
        assert policy.endswith("connect-src 'self' wss://signs.example.org")


def test_a_websocket_needs_the_token_too(proxied: Binding) -> None:
    plain = replace(proxied, address="http://signs.example.org/")  # between the proxy and the server
    own: dict[str, Any] = {"named": "signs.example.org", "origin": "https://signs.example.org"}
    with pytest.raises(InvalidStatus) as refused, stream(plain, **own):
        pass
    assert refused.value.response.status_code == 401
    with stream(plain, **own, additional_headers={"Cookie": f"{COOKIE}={proxied.access.token}"}) as page:
        page.send(frame(1))
        assert received(page)["type"] == "reading"


# ---- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    words += f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -out {files[0]} -keyout {files[1]}"
    subprocess.run(words.split(), check=True, capture_output=True)
    return files


def test_all_addresses_over_tls(certificate: tuple[Path, Path]) -> None:
    place = Place(host="0.0.0.0", certificate=certificate[0], key=certificate[1])
    trusted = ssl.create_default_context(cafile=certificate[0])
    with running(services(Limits()), place=place) as binding:
        port = binding.listener.getsockname()[1]
        assert binding.address == f"https://{socket.gethostname()}:{port}/?token={binding.access.token}"
        assert f"{socket.gethostname()}:{port}".lower() in binding.access.hosts
        local = f"https://localhost:{port}"
        with httpx.Client(base_url=local, verify=trusted, trust_env=False) as http:
            assert http.get("/api/status").status_code == 401
            assert http.get(f"/?token={binding.access.token}").status_code == 200
            assert http.get("/api/status").json()["speech"] is True  # by the cookie
        opened = replace(binding, address=f"{local}/?token={binding.access.token}")
        with stream(opened, ssl=trusted) as page:
            page.send(frame(1))
            assert received(page)["type"] == "reading"


def test_a_certificate_that_cannot_be_used_is_the_user_s_mistake(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").touch()
    locked = tmp_path / "locked.pem"
    words = f"openssl pkey -in {certificate[1]} -aes256 -passout pass:secret -out {locked}"
    subprocess.run(words.split(), check=True, capture_output=True)
    for cert, key, reason in (
        (tmp_path / "none.pem", certificate[1], "No such file"),
        (tmp_path / "empty.pem", certificate[1], "name a certificate and its key in PEM"),
        (certificate[0], locked, "has a passphrase"),
    ):
        with pytest.raises(UserError, match=reason):
            bind(Place(certificate=cert, key=key, port=0))


# ---- addresses -----------------------------------------------------------------------------------------------


def test_a_port_in_use_is_replaced_unless_it_was_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 is in use: name another"):
            bind(Place(port=port))
    try:
        first = socket.create_server(("127.0.0.1", DEFAULT_PORT))
    except OSError:
        pytest.skip(f"port {DEFAULT_PORT} is in use here, by whom the test does not know")
    with first:
        binding = bind(Place())
        other = binding.listener.getsockname()[1]
        binding.listener.close()
    assert other != DEFAULT_PORT
    assert f"port {DEFAULT_PORT} is in use: taking {other}" in capsys.readouterr().err


def test_hosts_that_are_none_are_the_user_s_mistake() -> None:
    for host in ("no.such.host.invalid", "192.0.2.1", "a" * 70):
        with pytest.raises(UserError, match="--host"):
            bind(Place(host=host, port=0))


def test_names_have_the_port_unless_it_is_the_scheme_s_own() -> None:
    assert own_hosts("127.0.0.1", 8600, "http") == {"localhost:8600", "127.0.0.1:8600", "[::1]:8600"}
    assert "localhost" in own_hosts("127.0.0.1", 443, "https")
    assert "[fe80::2]:80" in own_hosts("fe80::2", 80, "http")
    assert {"a.example", "a.example:443"} < own_hosts("::1", 8600, "https", proxy_name="A.example")
    assert "a.example:8443" in own_hosts("::1", 8600, "https", proxy_name="a.example:8443")


def test_loopback_is_what_only_this_machine_reaches() -> None:
    local = ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost")
    assert [host for host in local if not is_loopback(host)] == []
    wide = ("0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.example.org", "")
    assert [host for host in wide if is_loopback(host)] == []


def test_tokens_are_compared_without_regard_to_what_they_are_made_of() -> None:
    access = Access(frozenset({"a"}), token="tökén")
    assert access.refusal([(b"host", b"a")], b"token=t%C3%B6k%C3%A9n") is None
    assert access.refusal([(b"host", b"a")], b"token=\xff") is not None
