"""`prepare` deletes nothing that is a user's, says what it replaces, and refuses what could not be scored."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from horovod_asl.commands.inspect import InspectConfig
from horovod_asl.commands.prepare import PrepareConfig, main
from horovod_asl.errors import UserError
from horovod_asl.prepare.options import Tolerance
from horovod_asl.sources.sources import SyntheticOptions, open_sources
from horovod_asl.splits.split import SplitRule
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import foreign_files
from tests.conftest import draw_photo
from tests.single.prepare.test_prepare import prepare
from tests.single.system.test_files import held_elsewhere

# -- what lies in the way -------------------------------------------------------------------------------------


def test_a_users_files_in_a_store_keep_it_from_being_replaced(frames, copied):
    (copied / "notes.txt").write_text("years of work")
    (copied / "sheets").mkdir()
    with pytest.raises(UserError, match=r"not the store's lie in it: notes\.txt, sheets; move them away"):
        prepare(frames, copied, image_size=16)
    assert (copied / "notes.txt").read_text() == "years of work"
    assert Store.open(copied, verify=True).image_size == 32
    (copied / "notes.txt").rename(copied.with_name("notes.txt"))
    (copied / "sheets").rmdir()
    assert prepare(frames, copied, image_size=16).decoded == 0  # the interrupted run had decoded them


def test_a_store_that_is_up_to_date_may_hold_other_files(frames, copied):
    (copied / "sheet.png").write_bytes(b"a picture")
    assert prepare(frames, copied).up_to_date
    assert (copied / "sheet.png").exists()


def test_a_damaged_stores_folder_is_no_licence_to_delete(frames, copied):
    (copied / "store.json").write_text("{torn")
    (copied / "labels.npy").unlink()
    (copied / "labels.npy").mkdir()
    (copied / "labels.npy" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"lie in it: labels\.npy"):
        prepare(frames, copied)
    assert (copied / "labels.npy" / "thesis.txt").exists()


def test_every_file_of_a_store_is_known_as_one(copied):
    assert foreign_files(copied) == []


def test_a_folder_of_the_users_with_the_work_folders_name_is_not_removed(frames, tmp_path):
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"other files lie in it: thesis\.txt"):
        prepare(frames, tmp_path / "store")
    assert [file.name for file in (tmp_path / "store.partial").iterdir()] == ["thesis.txt"]


def test_a_prepare_waits_for_another_and_names_it(frames, tmp_path):
    lines: list[str] = []
    with held_elsewhere(tmp_path / ".store.partial.lock") as holder:

        def log(line: str) -> None:
            lines.append(line)
            holder.kill()
            holder.wait()

        prepare(frames, tmp_path / "store", log=log)
    assert lines[0].startswith(f"another prepare is at work in {tmp_path}/store.partial (pid {holder.pid} on ")
    assert "is stale: taken over" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


# -- what is replaced -----------------------------------------------------------------------------------------


def test_it_says_how_the_new_store_differs_from_the_one_it_replaces(frames, new_frames, copied):
    other = new_frames("other", recordings=2, seed=5)
    lines: list[str] = []
    rule = SplitRule(test_source="other")
    prepare([frames, other], copied, split=rule, log=lines.append)
    (line,) = lines
    assert f"{copied} is replaced" in line
    assert "sources frames by frames → frames by frames, other by frames" in line
    assert "split recording → recording test_source=other" in line
    assert "not in the new" not in line
    lines.clear()
    prepare(
        other,
        copied,
        split=SplitRule(test=("2",)),
        image_size=16,
        tolerance=Tolerance(replace=True),
        log=lines.append,
    )
    assert "image size 32 px → 16 px" in lines[0]
    assert "232 of its 348 photos are not in the new one" in lines[0]


def test_a_store_of_other_photos_is_not_replaced_unasked(frames, new_frames, copied):
    other, before = new_frames("other", seed=5), Store.open(copied).digest
    for sources, message in ((other, "232"), ([other, new_frames("few", seed=6)], "232")):
        with pytest.raises(UserError, match=rf"would lose over half of its {message} photos: .*--replace"):
            prepare(sources, copied)
        assert Store.open(copied, verify=True).digest == before
        assert not copied.with_name("copied.partial").exists()  # seen before anything was decoded
    lines: list[str] = []
    prepare(other, copied, tolerance=Tolerance(replace=True), log=lines.append)
    assert Store.open(copied).digest != before
    assert "232 of its 232 photos are not in the new one" in lines[0]


def test_drawn_photos_may_be_drawn_anew_in_another_size(tmp_path):
    drawn = SyntheticOptions(recordings=2, photos_per_class_per_recording=1)
    before = prepare("synthetic", tmp_path / "store", synthetic=drawn, image_size=16)
    after = prepare("synthetic", tmp_path / "store", synthetic=drawn, image_size=24)
    assert (before.photos, after.photos) == (58, 58)
    assert before.digest != after.digest


def test_half_of_the_photos_make_it_the_same_set(frames, copied, tmp_path):
    less = shutil.copytree(frames, tmp_path / "less")
    for number, file in enumerate(sorted(less.rglob("*.jpg"))):
        if number % 2:
            draw_photo(88_000 + number).save(file)  # 116 of 232 are left
    fewer = shutil.copytree(less, tmp_path / "fewer")
    draw_photo(1).save(fewer / "A" / "A1.jpg")
    before = Store.open(copied).digest
    with pytest.raises(UserError, match="would lose over half of its 232 photos"):
        prepare(fewer, copied)
    assert Store.open(copied).digest == before
    assert not prepare(less, copied).up_to_date


def test_a_small_part_of_a_set_does_not_replace_it(frames, copied):
    with pytest.raises(UserError, match="would lose over half of its 232 photos"):
        prepare(frames, copied, samples=87)
    assert prepare(frames, copied, samples=145).photos == 145


def test_a_damaged_store_of_other_photos_is_not_replaced_either(new_frames, copied):
    (copied / "labels.npy").write_bytes(b"torn")
    with pytest.raises(UserError, match="--replace"):
        prepare(new_frames("other", seed=5), copied)
    (copied / "index.csv").unlink()  # then nothing tells what it held
    assert prepare(new_frames("more", seed=6), copied).photos == 232


# -- places that are no place for a store ---------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "..", "", "here/..", "ABSOLUTE"])
def test_the_current_folder_is_no_place_for_a_store(frames, tmp_path, monkeypatch, place):
    (tmp_path / "empty" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"is the current folder or above it.*: name a new folder, such as"):
        prepare(frames, Path(str(tmp_path / "empty") if place == "ABSOLUTE" else place))
    assert [entry.name for entry in (tmp_path / "empty").iterdir()] == ["here"]


def test_an_empty_folder_that_must_stay_is_told(frames, tmp_path, monkeypatch):
    (tmp_path / "mount").mkdir()

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr(Path, "rmdir", busy)
    with pytest.raises(UserError, match=r"mount is empty.*such as .*mount/store"):
        prepare(frames, tmp_path / "mount")


@pytest.mark.parametrize("place", ["store", "A/store", "stores/asl"])
def test_a_store_in_its_own_source_is_no_part_of_it(frames, tmp_path, place):
    photos = shutil.copytree(frames, tmp_path / "frames")
    first = prepare(photos, photos / place)
    (photos / place / "sheet.png").write_bytes(b"a contact sheet, say")
    lines: list[str] = []
    again = prepare(photos, photos / place, log=lines.append)
    assert (again.up_to_date, again.digest, again.problems) == (True, first.digest, ())
    assert lines == []


def test_what_an_interrupted_prepare_left_in_its_source_is_no_photo(frames, tmp_path):
    photos = shutil.copytree(frames, tmp_path / "frames")
    with pytest.raises(UserError, match="no such recording"):
        prepare(photos, photos / "store", split=SplitRule(test=("9",)))
    assert (photos / "store.partial").exists()
    assert prepare(photos, photos / "store").problems == ()


# -- what is the same set -------------------------------------------------------------------------------------


def test_new_photos_of_the_same_source_are_no_news(frames, copied, tmp_path):
    more = shutil.copytree(frames, tmp_path / "frames")
    shutil.copytree(more / "A", more / "Z", dirs_exist_ok=True)
    for file in (more / "Z").glob("A*.jpg"):
        file.unlink()
    (more / "Z" / "Z3.jpg").write_bytes((more / "Z" / "Z1.jpg").read_bytes())
    lines: list[str] = []
    assert not prepare(more, copied, log=lines.append).up_to_date
    assert lines == []


# -- what stands on two sides ---------------------------------------------------------------------------------


def test_a_copy_under_another_letter_is_found(frames, new_frames, tmp_path):
    copy = new_frames("copy", classes=["B"], recordings=1, seed=3)
    Image.open(frames / "A" / "A2501.jpg").save(copy / "B" / "again.jpg", quality=80)
    shutil.copy(frames / "A" / "A2502.jpg", copy / "B" / "copied.jpg")
    with pytest.raises(UserError, match=r"2 test photos are also in train \(1 byte for byte\)"):
        prepare([frames, copy], tmp_path / "store")


# -- what could not be scored ---------------------------------------------------------------------------------


def test_nothing_held_out_for_a_test_is_told(frames, tmp_path):
    lines: list[str] = []
    report = prepare(frames, tmp_path / "store", group_by=["source"], log=lines.append)
    assert report.splits == {"train": 232, "validation": 0, "test": 0}
    (line,) = lines
    assert line.startswith("warning: no photo is held out for a test")
    assert "--group-by" in line
    assert "--test-source" in line
    lines.clear()
    prepare(frames, tmp_path / "store", log=lines.append)
    assert not any("warning" in line for line in lines)


def test_classes_taken_for_recordings_leave_training_without_them(frames, tmp_path):
    with pytest.raises(UserError, match=r"training split has no photo of 2 of 29 classes: .*--allow-missing"):
        prepare(frames, tmp_path / "store", group_by=["^([^/]+)/"])
    assert not (tmp_path / "store").exists()
    kept = prepare(
        frames, tmp_path / "store", group_by=["^([^/]+)/"], tolerance=Tolerance(allow_missing=True)
    )
    assert kept.splits == {"train": 27 * 8, "validation": 8, "test": 8}


# -- values that no prepare could have ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "--seed -1 must be at least 0"),
        (["--seed", "-1", "--samples", "58"], "--seed -1 must be at least 0"),
        (["--seed", "-1", "--split", "random"], "--seed -1 must be at least 0"),
        (["--max-bad-share", "-1"], "--max-bad-share -1.0 must lie between 0 and 1"),
        (["--max-bad-share", "nan"], "--max-bad-share nan must lie between 0 and 1"),
        (["--max-megapixels", "nan"], "--max-megapixels nan must be above 0"),
        (["--max-megapixels", "-2"], "--max-megapixels -2 must be above 0"),
        (["--workers", "0"], "--workers 0 must be at least 1"),
        (["--workers", "-3"], "--workers -3 must be at least 1"),
        (["--samples", "0"], "--samples 0 must be at least 1"),
        (["--fraction", "0.5"], "--fraction 0.5 must lie between 0 and 0.5"),
        (["--fraction", "nan"], "--fraction nan must lie between 0 and 0.5"),
        (["--synthetic-recordings", "0"], "--synthetic-recordings 0 must be at least 1"),
        (["--synthetic-photos", "-1"], "--synthetic-photos -1 must be at least 1"),
        (["--image-size", "2049"], "--image-size 2049 must lie between 8 and 2048 pixels"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_flag(frames, tmp_path, words, message):
    with pytest.raises(UserError) as caught:
        main([str(frames), str(tmp_path / "store"), *words])
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_the_defaults_and_the_bounds_are_allowed():
    PrepareConfig(places=("a", "b"))
    PrepareConfig(places=("a", "b"), image_size=2048, max_bad_share=1, seed=0, workers=1, samples=1)
    with pytest.raises(UserError, match="--workers 0"):
        PrepareConfig(places=("a", "b"), workers=0)


@pytest.mark.parametrize("columns", [0, -5, 100_000])
def test_a_sheet_of_no_or_too_many_columns_is_refused(columns):
    with pytest.raises(UserError, match=rf"--columns {columns} must lie between 1 and 100"):
        InspectConfig(store=Path("store"), columns=columns)


# -- rules that would change nothing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "rules"),
    [
        (["c=synthetic"], ["c=frames"]),
        (["FRAMES", "c=synthetic"], ["auto", "c=source"]),
        (["synthetic"], ["frames"]),
        (["FRAMES", "synthetic"], ["frames=frames", "source"]),
    ],
)
def test_a_rule_for_drawn_photos_is_refused(frames, sources, rules):
    texts = [str(frames) if text == "FRAMES" else text for text in sources]
    with pytest.raises(UserError, match=r"--group-by .* has no effect: synthetic photos"):
        open_sources(texts, group_by=rules, image_size=32, synthetic=SyntheticOptions(1, 1))


def test_a_rule_that_holds_for_another_source_is_taken(frames):
    sources = open_sources(
        [str(frames), "synthetic"], group_by=["source"], image_size=32, synthetic=SyntheticOptions(1, 1)
    )
    assert [source.group_by for source in sources] == ["source", "drawn"]
