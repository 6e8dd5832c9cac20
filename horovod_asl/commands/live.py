"""Sign before the camera, letter by letter, and be heard: a page of this machine, in the browser.

    horovod-asl live                       # prints its address and opens the browser
    horovod-asl live --no-browser          # prints its address alone
    horovod-asl live --port 9000           # at a port of your choice

The page sends frames of the camera to this program, on this machine, and shows what it reads. Nobody else can reach
it, and no frame is kept. Ctrl-C ends it.

To let others of the network reach it, name an address of this machine, or 0.0.0.0 for all of them. Browsers give a
page the camera only over TLS, so it then needs a certificate and its key, or a proxy before it that speaks TLS; and
whoever opens it needs the token, which is in the address that is printed.

    horovod-asl live --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    horovod-asl live --behind-proxy signs.example.org      # the proxy hands the page on to 127.0.0.1:8600

What it is not: fingerspelling is not a sign language, and no decision about a person should rest on it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from horovod_asl.command_line.cli import parse
from horovod_asl.errors import UserError

_NEEDS = ("fastapi", "uvicorn", "websockets", "onnxruntime", "mediapipe", "symspellpy")
_NAME = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")


@dataclass(frozen=True)
class LiveConfig:
    """Flags of `live`."""

    host: str = "127.0.0.1"
    """The address to listen at: of this machine alone, unless another is named."""
    port: int | None = None
    """The port; none: 8600, or a free one where that is in use."""
    browser: bool = True
    """Open the page in the browser."""
    tls_cert: Path | None = None
    """The certificate in PEM, with the chain that leads to it."""
    tls_key: Path | None = None
    """Its key in PEM, without a passphrase."""
    behind_proxy: str | None = None
    """The public name of a proxy that speaks TLS, with its port if that is not 443. It must hand `Host` on."""

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UserError(f"--port must be between 1 and 65535, not {self.port}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UserError("--tls-cert and --tls-key go together: name both")
        if self.behind_proxy is not None and self.tls_cert is not None:
            raise UserError("--behind-proxy means that the proxy speaks TLS: leave --tls-cert and --tls-key out")
        if self.behind_proxy is not None and not _NAME.fullmatch(self.behind_proxy):
            raise UserError(f"--behind-proxy {self.behind_proxy} is no name: give one such as signs.example.org")


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when Ctrl-C ended it."""
    config = parse(LiveConfig, argv, prog="horovod-asl live", description=__doc__)
    _require_packages()

    from horovod_asl.web.limits import Limits
    from horovod_asl.web.serve import Place, bind, make_server, serve
    from horovod_asl.web.services import bundled_services

    place = Place(config.host, config.port, config.tls_cert, config.tls_key, config.behind_proxy)
    if place.is_exposed and config.tls_cert is None and config.behind_proxy is None:
        raise UserError(
            f"--host {config.host} lets others reach the page, and a browser gives them the camera only over TLS: "
            "add --tls-cert and --tls-key, or --behind-proxy NAME"
        )
    limits = Limits()
    binding = bind(place)
    server = make_server(binding, place, bundled_services(limits), limits)
    print(f"live: open {binding.address}", flush=True)
    print("live: press Ctrl-C to stop", flush=True)
    serve(server, binding, open_browser=config.browser)
    print("live: stopped", flush=True)
    return 0


def _require_packages() -> None:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"`live` needs {', '.join(missing)}, not installed here: pip install 'horovod_asl[live]', or in a "
            "checkout `make setup`"
        )
