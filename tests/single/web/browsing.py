"""Debian's Chromium with a film as its camera, and a watch on whatever a page asks of other hosts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from benchmarks.live_page import CHROMIUM_FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FAKE_SPEECH = """
window.spoken = [];
Object.defineProperty(window, "speechSynthesis", { configurable: true, value: {
  getVoices: () => [{ lang: "en-US" }],
  speak: (utterance) => window.spoken.push(utterance.text),
  cancel: () => window.spoken.push("(stop)"),
  addEventListener: () => {},
}});
"""
NO_SPEECH = 'Object.defineProperty(window, "speechSynthesis", { configurable: true, value: undefined });'


@contextmanager
def chromium(film: Path) -> Iterator[Browser]:
    """A browser whose camera shows a film, `.mjpeg` or `.y4m`, again and again."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed: make setup-browser")
    flags = [*CHROMIUM_FLAGS, f"--use-file-for-fake-video-capture={film}"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str, *scripts: str, **options: Any) -> Iterator[Page]:
    """A page at an address, in a profile of its own. It must ask no other host, and throw nothing."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
    for script in scripts:
        context.add_init_script(script)
    page = context.new_page()
    page.set_default_timeout(60_000)  # a cold start on a slow machine
    hosts, faults = set[str](), list[str]()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address)
    yield page
    context.close()
    assert hosts - {""} == {urlsplit(address).netloc}
    assert faults == []


def wait_for_text(page: Page, selector: str, text: str) -> None:
    """Until an element's text contains this."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent.includes(text)", arg=[selector, text]
    )


def texts(page: Page, selector: str) -> list[str]:
    """What elements say, asked in one step: Playwright's own looks them up first, and the page may replace them."""
    found: list[str] = page.evaluate(
        "(selector) => [...document.querySelectorAll(selector)].map((element) => element.textContent)", selector
    )
    return found
