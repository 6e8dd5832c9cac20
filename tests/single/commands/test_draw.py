"""`horovod-asl draw`: a film that PyAV reads, the letters beside it, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from horovod_asl.commands.draw import main
from horovod_asl.errors import UserError
from horovod_asl.synthetic.film import FilmSpec, open_film

av = pytest.importorskip("av", reason="needs the extra video")


def decoded(path: Path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_a_film_and_its_letters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "hi.mp4"
    assert main(["hi", str(out), "--seed", "3", "--speed", "3"]) == 0
    film = open_film(FilmSpec("HI", 3, 3.0))
    frames, rate = decoded(out)
    assert (len(frames), rate) == (film.frames, film.frames_per_second)
    for number in (0, film.frames // 2):
        difference = np.abs(frames[number].astype(int) - film.frame(number).pixels)
        assert difference.mean() < 8
    facts = json.loads((tmp_path / "hi.json").read_text())
    assert (facts["text"], facts["frames"], facts["frames_per_second"]) == ("HI", len(frames), rate)
    assert [letter["label"] for letter in facts["letters"]] == ["H", "I"]
    for letter, span in zip(facts["letters"], film.track.spans, strict=True):
        assert (letter["start_s"], letter["end_s"]) == pytest.approx((span.start_s, span.end_s), abs=1e-3)
    assert f"wrote {out}" in capsys.readouterr().out


def test_a_film_of_nothing(tmp_path: Path) -> None:
    out = tmp_path / "nothing.mp4"
    assert main(["", str(out), "--idle", "2"]) == 0
    frames, rate = decoded(out)
    assert len(frames) == 2 * rate
    facts = json.loads((tmp_path / "nothing.json").read_text())
    assert (facts["text"], facts["letters"]) == ("", [])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["C3PO", "a.mp4"], "cannot spell '3'"),
        (["A<", "a.mp4"], "cannot spell '<'"),
        (["ÄB", "a.mp4"], "cannot spell 'Ä'"),
        (["", "a.mp4"], "there is nothing to spell"),
        (["A", "a.gif"], "end it with one of .mp4"),
        (["A", "missing/a.mp4"], "there is no folder"),
        (["A", "a.mp4", "--speed", "0"], "--speed"),
        (["A", "a.mp4", "--seed", "-1"], "--seed"),
        (["A", "a.mp4", "--idle", "5"], "leave one of TEXT and --idle out"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
