"""`prepare` finds hands by default, says beforehand how long that takes, and says so where it cannot find them."""

from __future__ import annotations

import csv
import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from horovod_asl.command_line.cli import parse
from horovod_asl.commands import prepare
from horovod_asl.commands.prepare import PrepareConfig
from horovod_asl.errors import UserError
from horovod_asl.hands import bundle, finder
from horovod_asl.hands.finder import LOOK_PX, shared_finder
from horovod_asl.hands.record import no_hand
from horovod_asl.photos.decode import decode_photo
from horovod_asl.prepare import hand_stage
from horovod_asl.prepare.decode_stage import Batch
from horovod_asl.prepare.hand_stage import FindTask, roughly
from horovod_asl.prepare.options import Reporter
from horovod_asl.store.store import Store
from horovod_asl.synthetic.render import SampleSpec, render_spec
from tests.single.hands.test_hands import _here

LABELS = ("V", "Y", "nothing")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of two drawn photos, in two recordings. Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    for label in LABELS:
        (folder / label).mkdir()
        for recording in range(2):
            picture = render_spec(SampleSpec(3, label, recording, 0), 128)
            Image.fromarray(picture).save(folder / label / f"r{recording}_0.png")
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are read in this process, where MediaPipe is loaded already."""
    monkeypatch.setattr("horovod_asl.prepare.pipeline.worker_pool", _here)


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose set-up left the hand models out."""
    monkeypatch.delenv(bundle.VARIABLE, raising=False)
    monkeypatch.setattr(bundle, "SHIPPED", tmp_path / "none.task")
    finder._finder.cache_clear()


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finder that finds nothing, at once."""
    monkeypatch.setattr(hand_stage, "shared_finder", lambda: SimpleNamespace(find=lambda photo: no_hand()))


def run(photos: Path, store: Path, *words: str) -> Store:
    sizes = ("--image-size", "48", "--crop-size", "64", "--allow-missing", "--workers", "1")
    assert prepare.main([str(photos), str(store), *sizes, "--group-by", r"/(r\d)_", *words]) == 0
    return Store.open(store, verify=True)


def config(*words: str) -> PrepareConfig:
    return parse(PrepareConfig, ["photos", "store", *words], prog="horovod-asl prepare", description=None)


# ---- the flag ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hands"),
    [
        ((), None),
        (("--hands",), True),
        (("--no-hands",), False),
        (("--hands", "--no-hands"), False),
        (("--no-hands", "--hands"), True),
    ],
)
def test_the_flag_has_three_states(words: tuple[str, ...], hands: bool | None) -> None:
    assert config(*words).hands is hands


@pytest.mark.parametrize(("text", "hands"), [("true", True), ("false", False), ("null", None)])
def test_so_it_has_in_a_file_and_a_flag_to_its_right_wins(text: str, hands: bool | None, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"hands: {text}\n")
    assert config("--config", str(file)).hands is hands
    assert config("--config", str(file), "--no-hands").hands is False
    file.write_text("hands: perhaps\n")
    with pytest.raises(UserError, match="'hands' must be true or false, not perhaps"):
        config("--config", str(file))


def test_help_names_both_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config("--help")
    assert "--[no-]hands" in capsys.readouterr().out


# ---- by default ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_this_process")
def test_hands_are_found_left_out_and_added_again(photos: Path, tmp_path: Path, capfd) -> None:
    path = tmp_path / "store"
    store = run(photos, path)
    said = capfd.readouterr()
    assert "looking for the hand in 6 photos: a few seconds" in said.err
    with (path / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    looked = [decode_photo((photos / row["path"]).read_bytes(), LOOK_PX) for row in rows]
    alone = np.array([shared_finder().find(photo) for photo in looked])
    assert np.array_equal(store.hands, alone)
    assert f"a hand in {alone['found'].sum()} of 6 photos" in said.out
    assert alone["found"].sum() >= 3

    without = run(photos, path, "--no-hands")
    assert without.hand_settings is None
    assert without.digest != store.digest
    assert "looking for" not in capfd.readouterr().err

    again = run(photos, path)
    said = capfd.readouterr()
    assert again.digest == store.digest
    assert "is replaced: hands none → finder" in said.err
    assert "0 decoded, 6 reused" in said.out
    run(photos, path)
    said = capfd.readouterr()
    assert "is up to date" in said.out
    assert "looking for" not in said.err  # all are known


@pytest.mark.usefixtures("in_this_process", "without_models")
def test_without_the_models_a_line_says_so_and_the_store_is_made(photos: Path, tmp_path: Path, capfd) -> None:
    store = run(photos, tmp_path / "store")
    assert store.hand_settings is None
    assert len(store) == 6
    lines = [line for line in capfd.readouterr().err.splitlines() if "hands" in line]
    assert len(lines) == 1
    for part in ("no hands are looked for", "strangers badly", "none.task", "install horovod_asl", "--no-hands"):
        assert part in lines[0]

    run(photos, tmp_path / "store", "--no-hands")
    assert "hands" not in capfd.readouterr().err
    with pytest.raises(UserError, match="MediaPipe's hand models"):
        run(photos, tmp_path / "store", "--hands")


@pytest.mark.usefixtures("in_this_process", "blind")
def test_hands_are_not_lost_because_this_machine_cannot_find_them(
    photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    digest = run(photos, tmp_path / "store").digest
    request.getfixturevalue("without_models")
    with pytest.raises(UserError, match=r"store holds hands and would lose them, because .*--no-hands"):
        run(photos, tmp_path / "store")
    assert Store.open(tmp_path / "store", verify=True).digest == digest
    assert run(photos, tmp_path / "store", "--no-hands").hand_settings is None


# ---- how long it takes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "5 s"),
        (12.4, "10 s"),
        (57.6, "1 min"),
        (71, "1 min 10 s"),
        (598, "10 min"),
        (3599, "1 h"),
        (7512, "2 h 5 min"),
    ],
)
def test_durations_are_rounded_as_one_says_them(seconds: float, text: str) -> None:
    assert roughly(seconds) == text


@pytest.mark.parametrize(("workers", "text"), [(1, "1 min 20 s with 1 worker"), (4, "20 s with 4 workers")])
def test_the_time_is_reported_by_the_first_photos(workers: int, text: str, monkeypatch) -> None:
    """Ten tasks of sixteen photos at half a second each: 8 s a task, and those that were begun are done."""
    events: list[Any] = []
    monkeypatch.setattr(hand_stage, "find_chunk", lambda task: events.append(task) or 8.0)
    tasks = [FindTask((None,) * 16, ("",) * 16, 64, 1.0, str(number)) for number in range(10 + workers)]  # type: ignore[arg-type]
    done: list[tuple[int, int]] = []
    with _here(workers) as pool:
        batch = Batch(pool, workers, (), 1.0)
        reporter = Reporter(log=events.append, on_progress=lambda *counts: done.append(counts))
        hand_stage._run(batch, tasks, "photos", reporter)
    line = f"looking for the hand in {16 * len(tasks)} photos: about {text} (--no-hands leaves this out)"
    assert events == [*tasks[:workers], line, *tasks[workers:]]
    assert done == [(16 * count, 16 * len(tasks)) for count in range(1, len(tasks) + 1)]


def test_each_part_has_photos_from_all_over() -> None:
    items = [str(number) for number in range(100)]
    parts = hand_stage._mixed_parts(items, 16)
    assert sorted(chain(*parts), key=int) == items
    assert len(parts) == 7
    for part in parts:
        assert len(part) <= 16
        assert int(part[0]) < 10
        assert int(part[-1]) >= 90
    assert hand_stage._mixed_parts([], 16) == []


@pytest.mark.usefixtures("in_this_process", "blind")
def test_degraded_copies_are_counted_with_the_photos(photos: Path, tmp_path: Path, capfd) -> None:
    run(photos, tmp_path / "store", "--degraded-copies", "2")
    assert re.search("in 18 photos and degraded copies: about .* with 1 worker", capfd.readouterr().err)
