"""The benchmark's own working: turns, medians, what others take of the cores, goals, and one small run."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from benchmarks.__main__ import NAMES, BenchmarkConfig, main
from benchmarks.bench import in_pace
from benchmarks.cases import CASES
from benchmarks.figures import (
    Figure,
    Goal,
    against_goals,
    faster,
    per_second,
    share,
    table,
    write_json,
)
from benchmarks.measure import Measured, Quiet, Side, run_side, side, take_turns
from benchmarks.photos import draw_photos
from benchmarks.plots import plot_scaling
from benchmarks.scaling import ranks
from benchmarks.scaling.ring import Observation, Ring
from benchmarks.sides.__main__ import SIDES
from benchmarks.sides.growth import repeat
from horovod_asl.command_line.cli import parse
from horovod_asl.command_line.options import options_of
from horovod_asl.discovery.find_photos import find_photos
from horovod_asl.errors import UserError
from horovod_asl.splits.recordings import group_recordings
from tests.launching import BIN, ROOT, launch

ANY = Quiet(busy_share=math.inf)  # the tests' machine is never quiet


def python(program: str, name: str = "side") -> Side:
    return side(name, sys.executable, "-c", program)


def test_sides_take_turns_and_every_other_round_begins_with_the_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write('%s'); print('{{\"seconds\": %d}}')"
    measured = take_turns([python(write % ("a", 1), "a"), python(write % ("b", 2), "b")], rounds=3, quiet=ANY)
    assert log.read_text() == "abbaab"
    assert measured["b"].values("seconds") == [2.0, 2.0, 2.0]
    assert measured["a"].median("wall_seconds") > 0


def test_an_answer_may_stand_behind_a_launcher_s_rank_and_after_other_lines() -> None:
    answer = run_side(python("print('hello'); print('[1,0]<stdout>:{\"seconds\": 0.5}')"), 60)
    assert answer["seconds"] == 0.5


def test_processes_of_one_side_run_at_once_and_their_numbers_are_averaged() -> None:
    program = "import time; time.sleep(1.5); print('{\"seconds\": %d}')"
    both = Side("both", tuple((sys.executable, "-c", program % number) for number in (1, 3)))
    answer = run_side(both, 60)
    assert answer["seconds"] == 2.0
    assert 1.5 < answer["wall_seconds"] < 2.9


def test_a_time_of_day_becomes_seconds_since_the_side_s_start() -> None:
    answer = run_side(python("import time; time.sleep(1); print('{\"time_s\": %f}' % time.time())"), 60)
    assert 1.0 <= answer["reached_seconds"] <= answer["wall_seconds"]


def test_a_side_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(UserError, match=r"mine failed with exit code 1: .*no photos"):
        run_side(python("raise SystemExit('no photos')", "mine"), 60)
    with pytest.raises(UserError, match="printed nothing"):
        run_side(python("pass"), 60)
    with pytest.raises(UserError, match="still running after"):
        run_side(python("import time; time.sleep(60)"), 0.5)


def test_the_processor_time_of_all_its_processes_is_counted() -> None:
    """Also of a grandchild that outlives its parent, as a server of worker processes does."""
    spin = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spin!r}]); print('{{}}')"
    answer, _ = ANY.others(lambda: run_side(python(orphan), 60))
    assert 0.5 <= answer["core_seconds"] < 2.0


def test_after_a_measurement_this_process_adopts_no_orphans() -> None:
    """Or those of whatever the caller starts next would stay zombies."""
    ANY.others(lambda: run_side(python("print('{}')"), 60))
    orphan = "import subprocess; print(subprocess.Popen(['sleep', '0.5'], stdout=subprocess.DEVNULL).pid)"
    pid = int(subprocess.run([sys.executable, "-c", orphan], capture_output=True, check=True).stdout)
    assert psutil.Process(pid).ppid() != os.getpid()


def test_two_that_keep_pace_both_come_to_their_end(small_store: Path, tmp_path: Path) -> None:
    words = (small_store, "small_cnn", 32, 2)
    answer = run_side(in_pace(words, tmp_path / "meeting"), 120)
    assert 0 < answer["seconds"] < 60
    assert not (tmp_path / "meeting").exists()


@pytest.fixture
def spinning() -> Iterator[None]:
    """Every core kept busy by others."""
    import os

    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    time.sleep(0.2)
    yield
    for process in others:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("spinning")
def test_nothing_is_reported_from_a_busy_machine() -> None:
    with pytest.raises(UserError, match=r"other processes use .* of the cores"):
        Quiet(0.3).require(0.5)


def test_ratios_say_which_side_is_quicker() -> None:
    ours = Measured(
        "ours", ({"seconds": 1, "photos": 100}, {"seconds": 2, "photos": 100}, {"seconds": 9, "photos": 100})
    )
    theirs = Measured("theirs", ({"seconds": 8, "photos": 200},))
    assert per_second("P1", "", ours, theirs, goal=Goal("≥", 2)).value == pytest.approx((100 / 2) / (200 / 8))
    assert faster("P3", "", ours, theirs, goal=None, key="seconds").value == 4.0
    assert share("P4", "", ours, theirs, goal=Goal("≤", 1)).value == 0.25


def test_a_goal_is_met_on_its_own_side() -> None:
    rows = [
        Figure("P1", "speed", 350.0, goal=Goal("≥", 300)),
        Figure("P4", "step", 1.05, goal=Goal("≤", 1.02)),
        Figure("P11", "rate", 2.0, "GB/s"),
    ]
    assert [row.verdict for row in rows] == ["met", "missed", ""]
    assert [round(row["reached"], 3) for row in against_goals(rows)] == [1.167, 0.971]
    text = table(rows).splitlines()
    assert [line.split()[0] for line in text] == ["P1", "P4", "P11"]
    assert "missed" in text[1]


def test_the_json_holds_every_round(tmp_path: Path) -> None:
    figure = Figure("P1", "speed", 2.0, goal=Goal("≥", 1), rounds={"ours": [1.0, 2.0]})
    write_json(tmp_path / "b.json", [figure], {"versions": {}})
    read = json.loads((tmp_path / "b.json").read_text())
    assert read["figures"][0]["rounds"] == {"ours": [1.0, 2.0]}
    assert read["figures"][0]["verdict"] == "met"


def test_drawn_photos_are_as_the_public_set_s(tmp_path: Path) -> None:
    """Class folders of 200 px JPEGs of some ten kilobytes, whose frame numbers make three recordings."""
    draw_photos(tmp_path, count=87, say=lambda line: None)
    found = find_photos(tmp_path).photos
    assert len(found) == 87
    photo = tmp_path / found[0].path
    assert Image.open(photo).size == (200, 200)
    assert 3_000 < photo.stat().st_size < 30_000
    recordings, _ = group_recordings(found, "frames")
    assert set(recordings) == {"1", "2", "3"}


def test_repeated_photos_differ_in_their_bytes_alone(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "A"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "A1.jpg")
    assert repeat(str(tmp_path / "photos"), str(tmp_path / "many"), "3") == {"photos": 3}
    copies = sorted((tmp_path / "many" / "all" / "A").iterdir())
    assert len({copy.read_bytes() for copy in copies}) == 3
    original = np.asarray(Image.open(folder / "A1.jpg"))
    assert all(np.array_equal(np.asarray(Image.open(copy)), original) for copy in copies)
    assert len(list((tmp_path / "many" / "once" / "A").iterdir())) == 1


def test_every_name_has_its_case_and_every_side_its_manual() -> None:
    assert list(CASES) == list(NAMES)
    assert all(side.__doc__ for side in SIDES.values())


def test_the_package_does_not_know_of_the_benchmarks() -> None:
    """A wheel is without them."""
    sources = sorted((ROOT / "horovod_asl").rglob("*.py"))
    imports = re.compile(r"^\s*(from|import) benchmarks\b", re.MULTILINE)
    assert sources
    assert not [path for path in sources if imports.search(path.read_text())]


def test_whoever_types_the_old_command_gets_the_way_on() -> None:
    for words in ([], ["--help"], ["photos", "--small"]):
        done = launch([BIN / "horovod-asl", "benchmark", *words])
        assert done.returncode == 2
        assert done.output.splitlines() == [
            "error: `benchmark` is no longer a command: in a checkout, run `make bench` or `python -m benchmarks`"
        ]


def test_make_bench_runs_the_benchmarks() -> None:
    # Under `make test` this is a make within a make, which would say which folder it enters and leaves.
    done = launch(["make", "--no-print-directory", "--dry-run", "bench", "PHOTOS=photos", "ARGS=--small"])
    assert done.output.splitlines()[-1].endswith(
        "/bin/python -m benchmarks photos --out runs/benchmark --small"
    )


def test_the_manual_has_every_option_and_imports_nothing_slow(tmp_path: Path) -> None:
    """By its path, as from any other folder."""
    words = [sys.executable, "-X", "importtime", ROOT / "benchmarks", "--help"]
    done = launch(words, cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0
    assert "usage: python -m benchmarks [PHOTOS] [OPTIONS]" in done.output
    text = " ".join(done.output.split())
    for option in options_of(BenchmarkConfig):
        assert option.help()
        assert option.shown.removeprefix("--") in text
    imported = {line.rpartition("|")[2].strip() for line in done.output.splitlines() if "|" in line}
    assert "horovod_asl.command_line.cli" in imported
    assert {"torch", "numpy", "matplotlib"}.isdisjoint(imported)


def test_its_folders_have_their_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(BenchmarkConfig, ["~/photos", "--out=~/out"], prog="", description=None)
    assert (config.photos, config.out) == (tmp_path / "photos", tmp_path / "out")


def test_ranks_are_summed_up_as_text_and_as_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of times that a ring made: its cost comes back, and efficiency falls with ranks."""
    monkeypatch.setattr(ranks, "usable_cores", lambda: 4)  # one for each rank
    ring = Ring(latency_seconds=50e-6, bandwidth_bytes_per_second=3e9)
    observed = [Observation("small_cnn", n, 5e6, 0.1, 0.1 + ring.seconds(n, 5e6)) for n in (1, 2, 4)]
    found = ranks.summary({"horovod": observed}, ring)
    assert found["backends"]["horovod"]["latency_us"] == pytest.approx(50)
    predicted = [row["efficiency"] for row in found["predictions"]]
    assert predicted == sorted(predicted, reverse=True)
    assert any("fitted latency 50 µs, bandwidth 3.00 GB/s" in line for line in ranks.lines(found))
    plot_scaling(found, "a machine", tmp_path / "scaling.png")
    assert Image.open(tmp_path / "scaling.png").size[0] > 500


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"only": ("P12",)}, "P1, P2"),
        ({"rounds": 0}, "at least 1"),
        ({"ranks": (1,)}, "above 1"),
        ({"backends": ("nccl",)}, "horovod and ddp"),
    ],
)
def test_values_that_no_benchmark_could_have(wrong: dict[str, object], part: str) -> None:
    with pytest.raises(UserError, match=part):
        BenchmarkConfig(**wrong)  # type: ignore[arg-type]


def test_an_out_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match=r"--out .*results cannot be a folder"):
        main(["--small", "--out", str(tmp_path / "results")])


@pytest.mark.timeout(300)
def test_a_small_benchmark_runs_to_its_table_and_files_from_any_folder(tmp_path: Path) -> None:
    """P1 and P7: a peer, our sides, and ranks under horovodrun; the other cases run in `make bench ARGS=--small`."""
    words = [sys.executable, ROOT / "benchmarks", "--small", "--only", "P1", "P7", "--out", "out"]
    done = launch(words, cwd=tmp_path, timeout=290)
    assert done.returncode == 0, done.output
    read = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [row["id"] for row in read["figures"]] == ["P1", "P7"]
    assert read["about"]["versions"]["torch"]
    copies = read["figures"][1]["sides"]
    assert set(copies) == {"1 rank(s)", "2 rank(s)", "4 rank(s)"}
    assert all(0.9 < value < 1.1 for value in copies.values())
    assert Image.open(tmp_path / "out" / "benchmark.png").size[0] > 500
