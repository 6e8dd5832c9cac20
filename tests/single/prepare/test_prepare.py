"""`prepare` as a user runs it: the same store from the same photos, nothing decoded twice, no leak let through."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.prepare.options import Tolerance
from horovod_asl.prepare.pipeline import PrepareReport
from horovod_asl.sources.sources import SyntheticOptions
from horovod_asl.splits.split import SplitRule
from horovod_asl.store.store import Store
from tests.conftest import draw_photo
from tests.launching import BIN, clean_environment, launch
from tests.preparing import prepare_with


def prepare(sources: object, store: Path, **options: object) -> PrepareReport:
    """prepare_store on one worker (a second one costs its start), silent; a path may stand for a list."""
    texts = [str(sources)] if isinstance(sources, str | Path) else [str(text) for text in sources]  # type: ignore[attr-defined]
    settings = {"image_size": 32, **options}
    return prepare_with(texts, store, **settings)  # type: ignore[arg-type]


def digests_of_files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


def test_the_store_holds_what_pillow_reads(frames, prepared):
    store = Store.open(prepared, verify=True)
    files = sorted(frames.rglob("*.jpg"), key=lambda file: file.relative_to(frames).as_posix())
    assert store.paths.tolist() == [file.relative_to(frames).as_posix() for file in files]
    assert store.labels.tolist() == [CLASSES.index(file.parent.name) for file in files]
    pictures = store.gather(store.rows("all"))
    for row, file in enumerate(files):
        expected = np.asarray(Image.open(file).resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(pictures[row].astype(int) - expected).mean() < 2
    assert Counter(store.splits) == {"train": 116, "validation": 58, "test": 58}
    assert {(r, s) for r, s in zip(store.recordings, store.splits, strict=True)} == {
        ("1", "train"),
        ("2", "train"),
        ("3", "validation"),
        ("4", "test"),
    }


def test_the_digest_does_not_depend_on_workers_or_on_a_zip(frames, prepared, tmp_path):
    with zipfile.ZipFile(tmp_path / "frames.zip", "w") as archive:
        for file in sorted(frames.rglob("*.jpg"), reverse=True):
            archive.write(file, file.relative_to(frames))
    three = prepare(frames, tmp_path / "three", workers=3)
    zipped = prepare(tmp_path / "frames.zip", tmp_path / "zipped", workers=2)
    assert three.digest == zipped.digest == Store.open(prepared).digest


def test_nothing_new_leaves_the_store_untouched(frames, copied):
    before = digests_of_files(copied)
    report = prepare(frames, copied)
    assert (report.up_to_date, report.decoded, report.reused) == (True, 0, 232)
    assert digests_of_files(copied) == before
    assert not copied.with_name("copied.partial").exists()


def test_only_changed_and_new_photos_are_decoded(frames, tmp_path):
    photos = shutil.copytree(frames, tmp_path / "frames")
    store = tmp_path / "store"
    prepare(photos, store)
    draw_photo(77_001).save(photos / "A" / "A3.jpg")
    draw_photo(77_002).save(photos / "B" / "B1.jpg")
    (photos / "C" / "C1.jpg").rename(photos / "C" / "C9.jpg")
    (photos / "D" / "D1.jpg").unlink()
    report = prepare(photos, store)
    assert (report.up_to_date, report.decoded, report.photos) == (False, 2, 232)
    assert report.digest == prepare(photos, tmp_path / "fresh" / "store").digest


def test_another_size_is_decoded_anew(frames, copied):
    report = prepare(frames, copied, image_size=16)
    assert (report.decoded, Store.open(copied, verify=True).image_size) == (232, 16)


def test_a_damaged_store_is_made_anew(frames, prepared, copied):
    data = bytearray((copied / "images-00000.npy").read_bytes())
    data[-5] ^= 255
    (copied / "images-00000.npy").write_bytes(data)
    report = prepare(frames, copied)
    assert (report.up_to_date, report.decoded) == (False, 232)
    assert Store.open(copied, verify=True).digest == Store.open(prepared).digest


SLOW_PX = 384
"""A size at which the frames take long enough for a signal to come in their midst."""


def start_prepare(*words: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [BIN / "horovod-asl", "prepare", *words, "--no-hands"]
    return subprocess.Popen(
        [str(word) for word in command],
        env=clean_environment(),
        start_new_session=True,
        # A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_killed_in_the_middle_it_goes_on_where_it_stopped(new_frames, tmp_path):
    photos = new_frames("many", per_recording=10)
    store, partial = tmp_path / "store", tmp_path / "store.partial"
    process = start_prepare(photos, store, "--workers", 1, "--image-size", 128)
    wait_for(lambda: len(list((partial / "chunks").glob("*.npy"))) >= 2)
    process.kill()
    process.wait()
    assert not store.exists()
    with pytest.raises(UserError, match="unfinished prepare"):
        Store.open(store)
    resumed = prepare(photos, store, image_size=128)
    fresh = prepare(photos, tmp_path / "fresh", image_size=128)
    assert resumed.digest == fresh.digest
    assert 0 < resumed.decoded < fresh.decoded == 1160
    assert not partial.exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-900] + bytes(900), lambda data: data[:-1], lambda data: b""]
)
def test_a_chunk_that_was_damaged_between_two_runs_is_decoded_again(frames, prepared, tmp_path, damage):
    with pytest.raises(UserError, match="--test 9: no such recording"):
        prepare(frames, tmp_path / "store", split=SplitRule(test=("9",)))
    chunks = sorted((tmp_path / "store.partial" / "chunks").glob("*.npy"))
    chunks[3].write_bytes(damage(chunks[3].read_bytes()))
    report = prepare(frames, tmp_path / "store")
    assert (report.decoded, report.digest) == (32, Store.open(prepared).digest)


def test_workers_do_not_outlive_a_killed_prepare(new_frames, tmp_path):
    photos = new_frames("many", per_recording=10)
    process = start_prepare(photos, tmp_path / "store", "--workers", 2, "--image-size", SLOW_PX)
    wait_for(lambda: list(tmp_path.glob("store.partial/chunks/*.npy")))
    process.kill()
    process.wait()

    def group_is_empty() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(group_is_empty, seconds=15)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_it_with_one_line_and_keeps_the_chunks(workers, new_frames, tmp_path):
    photos = new_frames("many", per_recording=10)
    for attempt in range(5):  # on a busy machine it may be done before the signal is sent
        store, log = tmp_path / f"store-{attempt}", tmp_path / f"log-{attempt}"
        with log.open("w") as errors:
            process = start_prepare(
                photos, store, "--workers", workers, "--image-size", SLOW_PX, stderr=errors
            )
            chunks = tmp_path / f"store-{attempt}.partial" / "chunks"
            wait_for(lambda chunks=chunks: list(chunks.glob("*.npy")))
            os.killpg(process.pid, signal.SIGINT)
            process.wait(20)
        if not store.exists():
            break
    assert process.returncode == 130
    assert log.read_text().strip() == "error: interrupted"
    assert list(chunks.glob("*.npy"))
    assert not store.exists()


def test_killed_between_the_renames_the_older_store_comes_back(frames, copied, monkeypatch):
    partial = copied.with_name("copied.partial")
    partial.mkdir()
    copied.rename(partial / "previous")
    assert not copied.exists()
    report = prepare(frames, copied)
    assert (report.up_to_date, report.decoded) == (True, 0)


def test_two_prepares_of_one_store_wait_for_each_other(frames, tmp_path):
    both = [start_prepare(frames, tmp_path / "store", "--workers", 1) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(Store.open(tmp_path / "store", verify=True)) == 232
    assert not (tmp_path / "store.partial").exists()


def test_what_is_no_store_is_not_overwritten(frames, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no store"):
        prepare(frames, tmp_path / "notes")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"


def test_bad_photos_are_listed_and_the_others_kept(frames, tmp_path):
    photos = shutil.copytree(frames, tmp_path / "frames")
    (photos / "A" / "A5.jpg").write_bytes(b"")
    (photos / "B" / "B5.jpg").write_bytes((photos / "B" / "B1.jpg").read_bytes()[:600])
    (photos / "C" / "notes.jpg").write_text("not a photo")
    (photos / "C" / "notes.txt").write_text("no photo is meant")
    lines: list[str] = []
    report = prepare(photos, tmp_path / "store", group_by=["source"], log=lines.append)
    assert "frames: ignored 1 file that is not a picture (.txt 1)" in lines
    assert report.photos == 232
    assert {(p.path, p.reason.partition(":")[0]) for p in report.problems} == {
        ("A/A5.jpg", "empty file"),
        ("B/B5.jpg", "truncated"),
        ("C/notes.jpg", "not a picture"),
    }
    assert len(Store.open(tmp_path / "store").problems()) == 3


def test_too_many_bad_photos_stop_it_with_the_list_beside(frames, tmp_path):
    photos = shutil.copytree(frames, tmp_path / "frames")
    for file in list(photos.rglob("*1.jpg"))[:30]:
        file.write_bytes(b"wreck")
    with pytest.raises(
        UserError, match=r"30 of 232 photos cannot be used.*--max-bad-share \(now 0\.05\)"
    ) as error:
        prepare(photos, tmp_path / "store")
    report = tmp_path / "store.partial" / "problems.csv"
    assert str(report) in str(error.value)
    with report.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 30
    assert not (tmp_path / "store").exists()
    more = prepare(photos, tmp_path / "store", tolerance=Tolerance(max_bad_share=0.2))
    assert (more.photos, more.decoded) == (202, 0)


def test_a_class_that_has_only_bad_photos_is_missing(new_frames, tmp_path):
    photos = new_frames("few", recordings=1)
    for file in (photos / "Q").iterdir():
        file.write_bytes(b"wreck")
    with pytest.raises(UserError, match="no photo of 1 of 29 classes: Q"):
        prepare(photos, tmp_path / "store", tolerance=Tolerance(max_bad_share=1))


def test_sources_cover_the_classes_together(new_frames, tmp_path):
    letters = new_frames("letters", classes=CLASSES[:26], recordings=1)
    rest = new_frames("rest", classes=CLASSES[26:], recordings=1, seed=1)
    with pytest.raises(UserError, match=r"del, nothing, space; .* --allow-missing"):
        prepare(letters, tmp_path / "store")
    report = prepare([rest, letters], tmp_path / "store")
    assert report.digest == prepare([letters, rest], tmp_path / "other").digest
    assert [source["name"] for source in report.sources] == ["letters", "rest"]


def test_a_copied_folder_is_refused_and_can_be_dropped_from_training(frames, new_frames, tmp_path):
    copy = new_frames("copy", classes=["A"], recordings=1, seed=3)
    for file in (copy / "A").iterdir():
        file.unlink()
    for frame in (2501, 2502):  # the test recording of `frames`
        Image.open(frames / "A" / f"A{frame}.jpg").save(copy / "A" / f"again{frame}.jpg", quality=85)
    shutil.copy(frames / "B" / "B2501.jpg", copy / "A" / "copied.jpg")
    with pytest.raises(
        UserError, match=r"3 test photos are also in train \(1 byte for byte\).*--drop-duplicates"
    ):
        prepare([frames, copy], tmp_path / "store")
    assert not (tmp_path / "store").exists()
    report = prepare([frames, copy], tmp_path / "store", tolerance=Tolerance(drop_duplicates=True))
    assert {(p.source, p.path, p.reason) for p in report.problems} == {
        ("copy", "A/again2501.jpg", "dropped: the same picture as frames/A/A2501.jpg (test)"),
        ("copy", "A/again2502.jpg", "dropped: the same picture as frames/A/A2502.jpg (test)"),
        ("copy", "A/copied.jpg", "dropped: the same bytes as frames/B/B2501.jpg (test)"),
    }
    assert set(Store.open(tmp_path / "store").sources) == {"frames"}


def test_a_random_split_warns_and_counts_what_it_leaks(frames, tmp_path):
    photos = shutil.copytree(frames, tmp_path / "frames")
    for name in CLASSES:
        for frame in range(3, 20):
            shutil.copy(photos / name / f"{name}1.jpg", photos / name / f"{name}{frame}.jpg")
    lines: list[str] = []
    rule = SplitRule(kind="random", fraction=0.2)
    prepare(photos, tmp_path / "store", split=rule, log=lines.append)
    assert any(
        "warning: a random split" in line and "test photos are also in train" in line for line in lines
    )


def test_a_balanced_subset_is_drawn_from_every_recording(frames, tmp_path):
    report = prepare(frames, tmp_path / "store", samples=116)
    store = Store.open(tmp_path / "store")
    assert (report.photos, report.decoded) == (116, 116)
    assert np.bincount(store.labels).tolist() == [4] * 29
    assert Counter(store.recordings) == {"1": 29, "2": 29, "3": 29, "4": 29}
    with pytest.raises(UserError, match="there are only 232 photos"):
        prepare(frames, tmp_path / "store", samples=1000)


def test_a_source_held_out_is_the_test_split(frames, new_frames, tmp_path):
    other = new_frames("other", classes=["A", "B"], recordings=2, seed=4)
    prepare([frames, other], tmp_path / "store", split=SplitRule(test_source="other"))
    store = Store.open(tmp_path / "store")
    assert set(store.sources[store.rows("test")]) == {"other"}
    assert len(store.rows("test")) == 8
    assert set(store.recordings[store.rows("validation")]) == {"3", "4"}


def test_the_synthetic_sample_is_the_same_from_the_same_seed(tmp_path):
    options = SyntheticOptions(recordings=2, photos_per_class_per_recording=1, seed=3)
    one = prepare("synthetic", tmp_path / "one", synthetic=options)
    assert one.splits == {"train": 29, "validation": 0, "test": 29}
    assert prepare("synthetic", tmp_path / "one", synthetic=options).up_to_date
    other = SyntheticOptions(recordings=2, photos_per_class_per_recording=1, seed=4)
    assert prepare("synthetic", tmp_path / "two", synthetic=other).digest != one.digest


def test_the_command_reports_and_repeats(frames, tmp_path):
    words = [f"asl={frames}", tmp_path / "store", "--image-size", "32", "--no-hands"]
    command = [BIN / "horovod-asl", "prepare", *words]
    first, second = launch(command), launch(command)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "232 photos (116 train, 58 validation, 58 test)" in first.output
    assert "recordings by frames: 1 (58), 2 (58), 3 (58), 4 (58)" in first.output
    assert "232 decoded, 0 reused" in first.output
    assert "is up to date" in second.output
    assert json.loads((tmp_path / "store" / "store.json").read_text())["sources"][0]["name"] == "asl"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere", "STORE"], "/nowhere does not exist"),
        (["STORE"], "prepare needs a SOURCE and a STORE"),
        (["FRAMES", "STORE", "--image-size", "4"], "--image-size 4 must lie between 8 and 2048 pixels"),
        (["FRAMES", "STORE", "--group-by", "x(y)"], "misses 232 of 232 photos"),
        (["FRAMES", "STORE", "--test", "9"], "--test 9: no such recording"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(frames, tmp_path, words, message):
    places = {"STORE": tmp_path / "store", "FRAMES": frames}
    finished = launch([BIN / "horovod-asl", "prepare", *[places.get(word, word) for word in words]])
    assert finished.returncode == 2
    assert message in finished.output
    assert "Traceback" not in finished.output
    assert not (tmp_path / "store").exists()


def test_a_place_that_cannot_be_written_is_told(frames):
    with pytest.raises(UserError, match="cannot be written"):
        prepare(frames, Path("/proc/nowhere/store"))


def test_the_official_test_photos_are_training_frames(real_data, tmp_path):
    train = real_data / "asl_alphabet_train" / "asl_alphabet_train"
    photos = tmp_path / "some"
    for name in ("B", "nothing"):
        (photos / name).mkdir(parents=True)
        for frame in range(1, 40):
            file = train / name / f"{name}{frame}.jpg"
            if file.is_file():
                (photos / name / file.name).symlink_to(file)
    official = real_data / "asl_alphabet_test"
    with pytest.raises(UserError, match=r"the split leaks: \d+ test photos are also in train"):
        prepare(
            [f"asl={photos}", f"official={official}"],
            tmp_path / "store",
            split=SplitRule(test_source="official"),
            tolerance=Tolerance(allow_missing=True),
        )
