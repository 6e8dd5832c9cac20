"""The page in a real Chromium, with a server that says what a test wants to see."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.single.web.browsing import FAKE_SPEECH, NO_SPEECH, chromium, opened, texts, wait_for_text
from tests.single.web.hands import TABLE, is_the_table
from tests.single.web.stand_in import StandIn, reading, served

pytestmark = pytest.mark.timeout(120)

RED, BLUE = (200, 30, 30), (30, 30, 200)
REFUSE = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', '%s'); };"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Its camera sees red on the left and blue on the right."""
    picture = Image.new("RGB", (640, 480), RED)
    picture.paste(BLUE, (320, 0, 640, 480))
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    film = tmp_path_factory.mktemp("film") / "halves.mjpeg"
    film.write_bytes(30 * stream.getvalue())
    with chromium(film) as started:
        yield started


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()
    with served(stand_in.app) as address:
        stand_in.address = address
        yield stand_in


@pytest.fixture
def started(browser: Any, server: StandIn) -> Iterator[Callable[..., Any]]:
    """`started(script, …)` opens a page and starts its camera."""
    contexts = []

    def start(*scripts: str, **options: Any) -> Any:
        context = opened(browser, server.address, *scripts, **options)
        page = context.__enter__()
        contexts.append(context)
        page.click("#start")
        return page

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def until(condition: Callable[[], object]) -> None:
    for _ in range(1200):  # a cold Chromium takes its time
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never happened")


def colour_at(picture: bytes, x: float) -> np.ndarray[Any, Any]:
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return pixels[pixels.shape[0] // 4, int(x * pixels.shape[1])].astype(int)


def test_a_frame_is_sent_as_the_camera_sees_it_and_shown_as_in_a_mirror(started: Any, server: StandIn) -> None:
    page = started()
    until(lambda: len(server.frames) > 4)
    assert Image.open(io.BytesIO(server.frames[-1])).size == (640, 480)
    np.testing.assert_allclose(colour_at(server.frames[-1], 0.1), RED, atol=40)
    np.testing.assert_allclose(colour_at(server.frames[-1], 0.9), BLUE, atol=40)
    shown = page.locator("#video").screenshot()
    np.testing.assert_allclose(colour_at(shown, 0.1), BLUE, atol=40)
    np.testing.assert_allclose(colour_at(shown, 0.9), RED, atol=40)
    assert server.times_ms == sorted(set(server.times_ms))
    server.answer = reading("", "L", 0.2)  # of a right hand, whose thumb is on the right of the camera's picture
    page.wait_for_function("() => document.querySelector('#letter').textContent === 'L'")
    # Where the canvas has paint, in fractions of its width: the thumb's tip, and its mirror image.
    painted = """(x) => { const c = document.querySelector('#joints'); const y = %f;
        return c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data[3] > 0; }"""
    tip_x, tip_y = server.answer["joints"][4]
    page.wait_for_timeout(100)
    assert page.evaluate(painted % tip_y, tip_x)
    assert not page.evaluate(painted % tip_y, 1 - tip_x)
    for name in ("#video", "#joints"):
        transform = page.evaluate(f"getComputedStyle(document.querySelector('{name}')).transform")
        assert transform == "matrix(-1, 0, 0, 1, 0, 0)"


def test_at_most_two_frames_are_on_their_way(started: Any, server: StandIn) -> None:
    """A server that answers nothing gets two; an answer makes room for one more, and for those it dropped."""
    server.silent = True
    started()
    until(lambda: len(server.times_ms) == 2)
    time.sleep(0.6)
    assert len(server.times_ms) == 2
    server.release({"sent_ms": server.times_ms[1], "dropped": 1})
    until(lambda: len(server.times_ms) == 4)
    time.sleep(0.4)
    assert len(server.times_ms) == 4


def test_what_is_read_is_shown(started: Any, server: StandIn) -> None:
    server.answer = reading("HELLO WORL", "D", 0.25, suggestions=["WORLD", "WORLDS"])
    page = started()
    wait_for_text(page, "#words", "HELLO WORL")
    assert page.inner_text("#letter") == "D"
    assert page.inner_text("#sure") == "93 % sure"
    assert page.get_attribute("#ring-fill", "stroke-dashoffset") == "75"
    assert texts(page, "#top li") == ["D93 %", "S4 %", "none1 %"]
    assert texts(page, "#suggestions button") == ["1WORLD", "2WORLDS"]
    wait_for_text(page, "#notice", "Reading.")
    server.answer = reading("HELLO WORLD ", taken=[{"label": "D", "start_s": 0, "end_s": 1, "confidence": 0.9}])
    wait_for_text(page, "#heard", "WORLD")  # what a screen reader says: whole words
    assert page.inner_text("#letter") == "–"


def test_it_says_why_nothing_is_read(started: Any, server: StandIn) -> None:
    page = started()
    for problem, words in (
        ("no_hand", "No hand in sight"),
        ("cut_off", "leaves the picture"),
        ("too_dark", "too dark"),
        ("two_hands", "Two hands"),
        ("no_letter", "shows no letter"),
        ("unsure", "Not sure"),
    ):
        server.answer = reading(problem=problem)
        wait_for_text(page, "#notice", words)
    server.answer = {"type": "error", "code": "text_full", "message": "the text is full: clear it to go on"}
    wait_for_text(page, "#notice", "The text is full")


def test_it_says_why_there_is_no_camera(started: Any, server: StandIn) -> None:
    page = started(REFUSE % "NotAllowedError")
    for error, words in (
        ("NotAllowedError", "not allowed"),
        ("NotFoundError", "No camera was found"),
        ("NotReadableError", "in use"),
        ("OtherError", "does not start"),
    ):
        page.evaluate("() => { %s }" % (REFUSE % error))
        page.click("#start")
        wait_for_text(page, "#notice", words)
    page.evaluate("() => { Object.defineProperty(navigator, 'mediaDevices', { value: undefined }); }")
    page.click("#start")
    wait_for_text(page, "#notice", "localhost and https")
    assert server.times_ms == []


def test_buttons_and_keys_edit_the_text(started: Any, server: StandIn) -> None:
    server.answer = reading("HELLO WORL", "D", suggestions=["WORLD", "WORLDS"])
    page = started()
    wait_for_text(page, "#words", "WORL")
    page.keyboard.press("2")
    wait_for_text(page, "#words", "HELLO WORLDS ")
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    until(lambda: server.answer["text"] == "HELLO WORLD")
    page.keyboard.press(" ")
    until(lambda: server.answer["text"] == "HELLO WORLD ")
    page.click("#undo")
    until(lambda: server.answer["text"] == "HELLO WORLD")
    page.focus("#space")
    page.keyboard.press(" ")  # the button's own key: once, not twice
    until(lambda: server.answer["text"] == "HELLO WORLD ")
    time.sleep(0.2)
    assert [order["action"] for order in server.orders] == [
        "replace_word", "undo", "undo", "space", "undo", "space",
    ]
    page.uncheck("#keys-on")
    page.keyboard.press("Delete")
    page.click("#clear")
    page.wait_for_function("() => document.querySelector('#words').textContent === ''")
    until(lambda: server.answer["text"] == "")
    page.click("#undo")  # nothing is lost by a slip
    wait_for_text(page, "#words", "HELLO WORLD")
    assert [order["action"] for order in server.orders].count("clear") == 1


def test_the_text_outlives_the_connection(started: Any, server: StandIn) -> None:
    server.answer = reading("HELLO ", "D")
    page = started()
    wait_for_text(page, "#words", "HELLO")
    server.drop.set()
    wait_for_text(page, "#notice", "The server is gone")
    wait_for_text(page, "#connection", "next try in")
    server.answer = reading("W", "W")
    server.drop.clear()
    wait_for_text(page, "#words", "HELLO W")
    wait_for_text(page, "#connection", "Connected")
    wait_for_text(page, "#notice", "Reading.")


def test_a_server_that_is_full_is_asked_again(started: Any, server: StandIn) -> None:
    server.refusal = {"type": "error", "code": "too_many_sessions", "message": "4 pages are open already"}
    page = started()
    wait_for_text(page, "#notice", "Too many pages are open")
    server.refusal = None
    server.answer = reading("A", "A")
    wait_for_text(page, "#words", "A")


def test_it_speaks_when_asked_and_after_each_word(started: Any, server: StandIn) -> None:
    server.answer = reading("HELLO", "O")
    page = started(FAKE_SPEECH)
    wait_for_text(page, "#words", "HELLO")
    page.keyboard.press("s")
    page.wait_for_function("() => spoken.length === 1")
    page.check("#speak-each")
    for text in ("HELLO ", "HELLO W", "HELLO WORLD", "HELLO WORLD "):
        server.answer = reading(text)
        wait_for_text(page, "#words", text)
    page.wait_for_function("() => spoken.length === 3")
    page.keyboard.press("Escape")
    assert page.evaluate("spoken") == ["HELLO", "HELLO", "WORLD", "(stop)"]


def test_the_server_speaks_where_the_browser_cannot(started: Any, server: StandIn) -> None:
    server.answer = reading("HELLO", "O")
    page = started(NO_SPEECH)
    wait_for_text(page, "#words", "HELLO")
    page.click("#speak")
    wait_for_text(page, "#said", "Said: HELLO")
    assert server.spoken == ["HELLO"]
    server.can_speak = False
    page.click("#speak")
    wait_for_text(page, "#said", "install espeak-ng")


def test_the_lesson_says_which_fingers_differ(started: Any, server: StandIn) -> None:
    server.answer = reading("", "D")
    page = started()
    page.click("#tab-try")
    page.select_option("#sign-letter", "U")
    wait_for_text(page, "#advice", "Straighten your middle finger.")
    assert texts(page, "#parts li[data-state=fix]")[0].startswith("Middle")
    server.answer = reading("", "U")
    wait_for_text(page, "#advice", "Your hand is right")
    assert page.locator("#parts li[data-state=fix]").count() == 0
    assert "mirrored" in page.get_attribute("#sign", "class")  # of a right hand
    left = [[-x, y, z] for x, y, z in server.answer["world"]]
    server.answer = server.answer | {"handedness": "left", "world": left}
    page.wait_for_function("() => !document.querySelector('#sign').classList.contains('mirrored')")
    wait_for_text(page, "#advice", "Your hand is right")
    server.answer["held"]["progress"] = 1.0
    page.wait_for_function("() => document.querySelector('#sign-letter').value === 'V'")
    page.click("#tab-teach")  # what was practised is no text; what follows is
    until(lambda: server.orders == [{"type": "practise", "on": True}, {"type": "practise", "on": False}])


def test_the_table_of_hands(started: Any) -> None:
    hands = json.loads(TABLE.read_text())
    assert is_the_table(hands)
    page = started()
    said = page.evaluate(
        """async (hands) => {
            const { asRight, differences } = await import("/static/compare.js");
            const signs = await (await fetch("/static/signs/signs.json")).json();
            return hands.map((hand) => differences(asRight(hand.joints, hand.handedness), signs[hand.sign]));
        }""",
        hands,
    )
    found = [[f"{one['part']}:{one['code']}" for one in differs] for differs in said]
    assert [
        (hand["name"], hand["sign"], differs)
        for hand, differs in zip(hands, found, strict=True)
        if differs != hand["differs"]
    ] == []


def test_examples_are_taught_and_deleted(started: Any, server: StandIn) -> None:
    server.answer = reading("", "K")
    page = started()
    page.click("#tab-teach")
    page.select_option("#teach-letter", "K")
    page.click("#teach")
    wait_for_text(page, "#teach-status", "It knows your K now")
    assert texts(page, "#counts li") == ["K × 8"]
    page.click("#forget")
    page.click("text=Keep them")
    page.click("#forget")
    page.click("#confirm-delete")
    wait_for_text(page, "#teach-status", "All deleted")
    until(lambda: server.orders == [{"type": "calibrate", "letter": "K"}, {"type": "forget"}])


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_everybody_can_use_it(started: Any, server: StandIn, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    server.answer = reading("HELLO WORL", "D", 0.5, suggestions=["WORLD", "WORLDS", "WORLDLY"])
    page = started(viewport={"width": width, "height": 740}, color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector("#suggestions button")
    wait_for_text(page, "#notice", "Reading.")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(243, 241, 236)") == (scheme == "light")

    def check(state: str) -> None:
        found = axe.run(page).response["violations"]
        assert [(state, one["id"], one["nodes"][0]["target"]) for one in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state

    check("reading")
    page.keyboard.press("Tab")
    outlines = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outlines) == "solid"
    page.focus("#tab-how")
    page.keyboard.press("ArrowRight")
    wait_for_text(page, "#advice", ".")
    check("lesson")
    page.keyboard.press("ArrowRight")
    page.click("#forget")
    check("dialog")
    page.keyboard.press("Escape")
    server.answer = reading(problem="too_dark")
    wait_for_text(page, "#notice", "too dark")
    check("problem")


def test_dark_and_light_by_hand(started: Any) -> None:
    page = started(color_scheme="dark")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    page.keyboard.press("d")
    assert page.get_attribute("#theme", "aria-pressed") == "false"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(243, 241, 236)"
    page.reload()
    assert page.get_attribute("#theme", "aria-pressed") == "false"


def test_the_signs_are_as_drawn_and_none_is_missing() -> None:
    folder = Path(str(TABLE)).parents[3] / "horovod_asl" / "web" / "page" / "signs"
    from horovod_asl.reports.sign_pictures import LETTERS, draw_sign, sign_joints
    from horovod_asl.synthetic.pose import POSES

    joints = json.loads((folder / "signs.json").read_text())
    assert sorted(joints) == sorted(LETTERS) == sorted(path.stem for path in folder.glob("*.webp"))
    for letter in LETTERS:
        np.testing.assert_allclose(joints[letter], sign_joints(POSES[letter]), atol=0.0006)
    kept, drawn = (np.asarray(one, int) for one in (Image.open(folder / "Y.webp"), draw_sign("Y")))
    assert np.abs(kept - drawn)[drawn[:, :, 3] == 255].mean() < 6
