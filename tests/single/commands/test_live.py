"""`live` as a user starts it: what it prints, how it ends, and what it refuses before it begins."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from horovod_asl.commands import live
from horovod_asl.errors import UserError
from tests.launching import BIN, ROOT, clean_environment
from tests.single.web.serving import frame

pytestmark = pytest.mark.timeout(120)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "horovod-asl"), "live", *words],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_prints_its_address_answers_there_and_ends_at_ctrl_c() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start("--no-browser", "--port", str(port))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == f"live: open http://127.0.0.1:{port}/\n"
    with httpx.Client(base_url=line.split()[-1], trust_env=False) as http:
        assert http.get("/").text.startswith("<!doctype html>")
        assert "A" in http.get("/api/status").json()["classes"]
        second = start("--no-browser", "--port", str(port))
        refused = second.communicate(timeout=60)[1]
        assert refused.startswith(f"error: port {port} of 127.0.0.1 is in use: name another")
        assert second.returncode == 2
        stream = f"ws://127.0.0.1:{port}/api/stream"
        with connect(stream, proxy=None) as page:  # which is open, as the client's connection is
            page.send(frame(0))
            assert json.loads(page.recv(timeout=60))["type"] in ("reading", "calibration")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
            with pytest.raises(ConnectionClosed):
                page.recv(timeout=60)
    assert output.endswith("live: stopped\n")
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], r"camera only over TLS: add --tls-cert and --tls-key, or --behind-proxy NAME"),
        (["--host", "192.168.7.7"], "only over TLS"),
        (["--host", "::"], "only over TLS"),
        (["--port", "0"], "between 1 and 65535"),
        (["--tls-cert", "cert.pem"], "go together"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], "name a certificate and its key"),
        (["--tls-cert", "a", "--tls-key", "b", "--behind-proxy", "a.example"], "leave --tls-cert and --tls-key out"),
        (["--behind-proxy", "https://a.example/"], "is no name"),
    ],
)
def test_mistakes_are_refused_before_it_begins(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        live.main(["--no-browser", *words])


def test_a_missing_extra_is_named_with_the_command_that_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name in ("fastapi", "symspellpy") else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=r"`live` needs fastapi, symspellpy.*pip install 'horovod_asl\[live\]'"):
        live.main(["--no-browser"])


def test_its_manual_comes_without_what_is_slow_to_import() -> None:
    program = (
        "import sys\nsys.argv = ['horovod-asl', 'live', '--help']\nfrom horovod_asl.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*({'torch', 'fastapi', 'uvicorn', 'numpy', 'onnxruntime', 'mediapipe'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True
    )
    manual, _, imported = done.stdout.removesuffix("\n").rpartition("\n")
    assert imported == ""
    assert "--behind-proxy" in manual


def test_every_package_that_it_asks_for_is_in_its_extra() -> None:
    text = (Path(ROOT) / "setup.cfg").read_text()
    extras = {
        name: set(re.findall(r"(?m)^    ([a-z-]+)[>=]", body))
        for name, body in re.findall(r"(?m)^([a-z]+) =\n((?:    .*\n)+)", text)
    }
    assert "horovod_asl[hands,video,web]" in text
    assert set(live._NEEDS) <= extras["live"] | extras["hands"] | extras["video"] | extras["web"]
    pinned = set(re.findall(r"(?m)^([A-Za-z_-]+)==", (Path(ROOT) / "launch" / "constraints.txt").read_text()))
    assert extras["live"] | extras["web"] <= pinned
