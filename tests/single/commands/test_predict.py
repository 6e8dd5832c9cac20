"""`predict`: answers as they come, in order, with what is to be said of the hands; and the list on standard input."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.commands import predict
from horovod_asl.inference import view_stream
from horovod_asl.inference.folder import named_photos
from horovod_asl.inference.readers import PixelReader
from horovod_asl.photos.decode import PhotoError
from horovod_asl.synthetic.render import SampleSpec, render_spec
from tests.conftest import draw_photo
from tests.launching import BIN, clean_environment
from tests.single.inference.test_classifier import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def drawn(label: str, recording: int = 1) -> np.ndarray:
    return render_spec(SampleSpec(seed=3, label=label, recording=recording, index=0), 256)


def test_lines_and_json_say_what_there_is_to_say_of_the_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = {
        "a-one": drawn("Y"),
        "b-none": drawn("nothing", recording=2),
        "c-two": np.concatenate([drawn("V"), drawn("W")], axis=1),
    }
    for name, pixels in photos.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert predict.main([str(tmp_path)]) == 0
    one, none, two = capsys.readouterr().out.splitlines()
    assert one.split()[1] == "Y"
    assert one.endswith("%")
    assert none.endswith("  [no hand found: read from the whole photo]")
    assert two.endswith("  [two hands: the clearer one was read]")

    assert predict.main([str(tmp_path), "--json"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(sorted(one) == ["class", "hand", "note", "photo", "top"] for one in objects)
    assert [one["hand"] is None for one in objects] == [False, True, False]
    assert [one["note"] and one["note"].split()[0] for one in objects] == [None, "no", "two"]
    hand = objects[2]["hand"]
    assert sorted(hand) == ["box", "confidence", "handedness", "joints"]
    assert np.shape(hand["joints"]) == (21, 3)
    left, top, right, bottom = hand["box"]
    assert 0 <= left < right <= 512
    assert 0 <= top < bottom <= 256


def test_a_list_on_standard_input_is_answered_line_by_line(run: Path, tmp_path: Path) -> None:
    """As by a program that waits for each answer before it names the next photo."""
    for number in range(3):
        draw_photo(number).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    process = subprocess.Popen(
        [BIN / "horovod-asl", "predict", run, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    killer = threading.Timer(200, process.kill)
    killer.start()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    for number in range(3):
        print(tmp_path / f"{number}.png", file=process.stdin, flush=True)
        answer = (process.stderr if number == 1 else process.stdout).readline()
        assert answer.startswith(str(tmp_path / f"{number}.png"))
    process.stdin.close()
    assert process.wait() == 1
    killer.cancel()


def test_an_empty_list_is_a_mistake(run: Path) -> None:
    words = [BIN / "horovod-asl", "predict", run, "-"]
    done = subprocess.run(
        words, input="\n", capture_output=True, text=True, env=clean_environment(), timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("no photos: name files, folders, or - for a list on standard input")


def test_a_reader_that_leaves_ends_it(run: Path, frames: Path, tmp_path: Path) -> None:
    """As in `predict … | head -1`, also while a list on standard input is still open."""
    words = [BIN / "horovod-asl", "predict", run, "-"]
    with (
        (tmp_path / "errors").open("w+") as errors,
        subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=clean_environment(),
        ) as predict,
    ):
        assert predict.stdin is not None
        assert predict.stdout is not None
        predict.stdin.write("".join(f"{photo}\n" for photo in sorted(frames.rglob("*.jpg"))))
        predict.stdin.flush()
        assert predict.stdout.readline()
        predict.stdout.close()
        predict.wait(100)
        errors.seek(0)
        said = errors.read()
    assert "Traceback" not in said
    assert "Fatal" not in said

def test_photos_are_read_a_few_ahead_and_no_more(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the network is slow, a list of any length is not decoded into memory."""
    monkeypatch.setattr(view_stream, "_AHEAD", 20)
    named = named_photos(frames)
    begun = 0

    def counted() -> Iterator[tuple[str, object]]:
        nonlocal begun
        for photo in named:
            begun += 1
            yield photo

    names: list[str] = []
    for viewed in view_stream.view_stream(counted(), PixelReader(16)):  # type: ignore[arg-type]
        assert 1 <= len(viewed) <= view_stream.MOST_TOGETHER
        time.sleep(0.01)
        names += [one.name for one in viewed]
        assert begun <= len(names) + 20 + 2
    assert names == [name for name, _ in named]


def test_from_some_photos_on_processes_read_them_and_the_order_stays(frames: Path, tmp_path: Path) -> None:
    reader = PixelReader(16, processes_from=5)
    named = named_photos(frames)[:40]
    (tmp_path / "bad.jpg").write_bytes(b"")
    named[20:20] = named_photos(tmp_path / "bad.jpg")
    viewed = [one for some in view_stream.view_stream(named, reader) for one in some]
    assert [one.name for one in viewed] == [name for name, _ in named]
    assert [one.name for one in viewed if isinstance(one.view, PhotoError)] == [str(tmp_path / "bad.jpg")]
    for one in viewed[::13]:
        assert np.array_equal(one.view.given, reader(Path(one.name).read_bytes()))  # type: ignore[union-attr]


def test_a_fault_of_the_list_comes_through(frames: Path) -> None:
    def torn() -> Iterator[tuple[str, object]]:
        yield from named_photos(frames)[:3]
        raise RuntimeError("torn")

    with pytest.raises(RuntimeError, match="torn"):
        list(view_stream.view_stream(torn(), PixelReader(16)))  # type: ignore[arg-type]


def test_progress_is_shown_where_the_answers_are_not(run: Path, frames: Path) -> None:
    """On a terminal as standard error, with the answers in a file."""
    program = (
        "import os, pty, sys\n"
        "pid, terminal = pty.fork()\n"
        "if pid == 0:\n"
        "    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1)\n"
        "    os.execv(sys.argv[2], sys.argv[2:])\n"
        "seen = b''\n"
        "try:\n"
        "    while part := os.read(terminal, 4096): seen += part\n"
        "except OSError: pass\n"
        "sys.stdout.buffer.write(seen)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    out = run.parent / "answers.txt"
    at_once = (
        "from horovod_asl import __main__; from horovod_asl.command_line import progress; "
        "progress._BAR_EVERY_S = 0; __main__.main()"
    )
    words = [sys.executable, "-c", program, out, sys.executable, "-c", at_once, "predict", run, frames]
    done = subprocess.run(
        words, capture_output=True, text=True, env=clean_environment(TERM="xterm"), timeout=90
    )
    assert done.returncode == 0, done.stdout
    assert len(out.read_text().splitlines()) == 232
    assert "/232" in done.stdout
