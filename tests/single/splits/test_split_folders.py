"""Folders that are called train, valid and test are the split; people whom folders name are on one side alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from horovod_asl.discovery.find_photos import FoundPhoto
from horovod_asl.errors import UserError
from horovod_asl.inference.folder import load_folder
from horovod_asl.inference.readers import PixelReader
from horovod_asl.labels import CLASSES
from horovod_asl.photos.origins import FileOrigin
from horovod_asl.prepare.options import Tolerance
from horovod_asl.reports.score_lines import _is_split_of_folders
from horovod_asl.sources.sources import SyntheticOptions, open_sources
from horovod_asl.splits.recordings import group_recordings
from horovod_asl.splits.split import SplitRule, split_recordings
from horovod_asl.splits.split_folders import separate_sides, side_named, split_folders
from horovod_asl.store.store import Store
from tests.conftest import draw_photo
from tests.launching import BIN, launch
from tests.single.prepare.test_prepare import prepare


def in_folders(*folders: str, label: int = 0) -> list[FoundPhoto]:
    """A photo of class A in each of these folders."""
    return [
        FoundPhoto(f"{one}/A/{n}.jpg", label, FileOrigin(""), tuple(one.split("/")) if one else ())
        for n, one in enumerate(folders)
    ]


def write_photos(root: Path, *patterns: str, seed: int = 0) -> Path:
    """A photo of each class at each pattern, such as `train/{c}/1.jpg`; all different."""
    for number, pattern in enumerate(patterns):
        for label, name in enumerate(CLASSES):
            file = root / pattern.format(c=name)
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_photo(seed * 1_000_000 + number * 1000 + label).save(file)
    return root


def sides_of(store: Path) -> set[tuple[str, str]]:
    """(recording, split) of all photos."""
    opened = Store.open(store)
    return set(zip(opened.recordings.tolist(), opened.splits.tolist(), strict=True))


# -- which folders are a split --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "side"),
    [
        *[(name, "train") for name in ("train", "Train", "TRAINING", "training_set", "asl_alphabet_train")],
        *[(name, "train") for name in ("Train_Alphabet", "trainset", "train2", "asl-train", "train data")],
        *[(name, "train") for name in ("ASLTrain", "TrainDir", "trainA", "asl_train_2023", "my_trainset_a")],
        *[(name, "validation") for name in ("valid", "Validation", "val", "dev", "asl_val", "validate")],
        *[(name, "test") for name in ("test", "Test", "testing", "asl_alphabet_test", "test_set", "tests")],
        *[(name, "test") for name in ("ASLTest", "asl_alphabet_test_64", "testB", "my_test_a", "holdout")],
        *[(name, "evaluation") for name in ("eval", "Evaluation", "evaluate")],
        *[(name, None) for name in ("anna", "trainer", "contest", "latest", "train_test_split", "Valentina")],
    ],
)
def test_the_side_that_a_folder_names(folder, side):
    assert side_named(folder) == side


@pytest.mark.parametrize(
    ("folders", "sides"),
    [
        (["train", "test"], ["train", "test"]),
        (["set/Train", "set/Test", "set/Valid"], ["train", "test", "validation"]),
        (["asl_alphabet_train/asl_alphabet_train", "asl_alphabet_test/asl_alphabet_test"], ["train", "test"]),
        (["training_data/train/anna", "training_data/test/ben"], ["train", "test"]),
        (["train/anna_test", "test/ben"], ["train", "test"]),
        (["train_user1", "train_user2", "test_user3"], ["train", "train", "test"]),
        (["", "test"], ["train", "test"]),
        (["anna", "test", "zoe"], ["train", "test", "train"]),
        (["test", "train", "other"], ["test", "train", "train"]),
        (["valid", "test"], ["validation", "test"]),
        (["train", "evaluation"], ["train", "test"]),
        (["tr", "te"], ["train", "test"]),
        (["train", "eval", "valid"], ["train", "test", "validation"]),
        (["train", "eval", "test"], ["train", "validation", "test"]),
        (["asl_alphabet_train/asl_alphabet_train"], None),
        (["train/anna", "train/ben"], None),
        (["test/anna", "test/ben"], None),
        (["anna", "dev"], None),
        (["anna", "ben"], None),
        (["", ""], None),
    ],
)
def test_the_sides_that_a_sources_folders_make(folders, sides):
    split = split_folders(in_folders(*folders))
    assert (None if split is None else list(split.sides)) == sides


def test_what_lies_beside_a_training_folder_must_be_named(tmp_path):
    photos = write_photos(tmp_path / "asl", "train/{c}/1.jpg", "train/{c}/2.jpg", "prediction/{c}/1.jpg")
    with pytest.raises(UserError, match=r"asl: train/ is training by its name, .* prediction/A/1.jpg: rename"):
        prepare(photos, tmp_path / "store")
    ignored = prepare(photos, tmp_path / "store", split=SplitRule(kind="recordings"))
    assert ignored.splits["train"] > 0


def test_a_recording_on_two_sides_becomes_two_whose_names_say_so():
    split = split_folders(in_folders("train", "Test", "train", "valid"))
    assert split is not None
    assert split.names == ["train", "valid", "Test"]
    apart = separate_sides(["anna", "anna", "ben", "cleo"], split)
    assert apart == (["anna/train", "anna/Test", "ben", "cleo"], ["anna"])
    assert separate_sides(["all"] * 4, split) == (["train", "Test", "train", "valid"], [])


# -- a store of them ------------------------------------------------------------------------------------------


def test_train_and_test_folders_are_the_split_and_one_line_says_so(tmp_path):
    photos = write_photos(tmp_path / "asl", *[f"Train/{{c}}/{n}.jpg" for n in range(4)], "Test/{c}/1.jpg")
    lines: list[str] = []
    report = prepare(photos, tmp_path / "store", log=lines.append)
    assert report.splits == {"train": 116, "validation": 0, "test": 29}
    assert lines == [
        "asl: its folders Train/, Test/ are the split, without validation (--split recordings ignores them)"
    ]
    assert sides_of(tmp_path / "store") == {("Train", "train"), ("Test", "test")}
    for path, side in zip(*(getattr(Store.open(tmp_path / "store"), n) for n in ("paths", "splits")), strict=True):
        assert path.lower().startswith(side)
    manifest = json.loads((tmp_path / "store" / "store.json").read_text())
    assert manifest["split_rule"]["kind"] == "folders"
    assert manifest["sources"][0]["split_folders"] == ["Train", "Test"]
    assert prepare(photos, tmp_path / "store").up_to_date


def test_each_source_has_its_own_split(frames, tmp_path):
    photos = write_photos(
        tmp_path / "rf", "train/{c}/1.jpg", "valid/{c}/1.jpg", "test/{c}/1.jpg", "more/{c}/1.jpg", seed=9
    )
    lines: list[str] = []
    prepare([frames, photos], tmp_path / "store", log=lines.append)
    assert sides_of(tmp_path / "store") == {
        *[("1", "train"), ("2", "train"), ("3", "validation"), ("4", "test")],
        *[("train", "train"), ("valid", "validation"), ("test", "test")],
    }
    (line,) = lines
    assert "rf: its folders train/, valid/, test/ are the split; 29 photos in none of them are training" in line


def test_flags_come_before_folders(tmp_path):
    photos = write_photos(
        tmp_path / "rf", "train/{c}/1.jpg", "valid/{c}/1.jpg", "test/{c}/1.jpg", "test/{c}/2.jpg"
    )
    other = write_photos(tmp_path / "other", "{c}/1.jpg", seed=5)
    lines: list[str] = []
    prepare(photos, tmp_path / "named", split=SplitRule(test=("rf/valid",)), log=lines.append)
    assert sides_of(tmp_path / "named") == {("train", "train"), ("valid", "test"), ("test", "train")}
    assert lines == ["rf: its folders train/, valid/, test/ are not the split: --validation and --test are"]
    lines.clear()
    ignored = prepare(photos, tmp_path / "ignored", split=SplitRule(kind="recordings"), log=lines.append)
    assert ignored.splits == {"train": 116, "validation": 0, "test": 0}
    assert [line.partition(":")[0] for line in lines] == ["warning"]
    prepare([photos, other], tmp_path / "held", split=SplitRule(test_source="other"))
    assert sides_of(tmp_path / "held") == {
        *[("train", "train"), ("valid", "validation"), ("test", "validation"), ("all", "test")]
    }
    prepare([photos, other], tmp_path / "whole", split=SplitRule(test_source="rf"))
    assert {side for name, side in sides_of(tmp_path / "whole") if name != "all"} == {"test"}


def test_without_such_folders_nothing_changes(frames, tmp_path):
    plain = prepare(frames, tmp_path / "plain")
    rule = json.loads((tmp_path / "plain" / "store.json").read_text())["split_rule"]
    assert rule["kind"] == "recording"
    same = prepare(frames, tmp_path / "same", split=SplitRule(kind="recordings"))
    assert same.digest == plain.digest


def test_a_person_on_two_sides_is_named_so_and_warned_of(tmp_path):
    photos = write_photos(
        tmp_path / "set", "train/anna/{c}/1.jpg", "train/ben/{c}/1.jpg", "test/anna/{c}/2.jpg"
    )
    lines: list[str] = []
    prepare(photos, tmp_path / "store", log=lines.append)
    assert sides_of(tmp_path / "store") == {("anna/train", "train"), ("anna/test", "test"), ("ben", "train")}
    assert any(line.startswith("warning: set: these folders share recordings (anna)") for line in lines)
    prepare(photos, tmp_path / "people", split=SplitRule(kind="recordings"))
    assert sides_of(tmp_path / "people") == {("anna", "train"), ("ben", "test")}


def test_frames_of_one_take_in_both_folders_are_warned_of(tmp_path):
    photos = write_photos(
        tmp_path / "set", "train/{c}/{c}1.jpg", "train/{c}/{c}1500.jpg", "test/{c}/{c}2.jpg"
    )
    lines: list[str] = []
    prepare(photos, tmp_path / "store", log=lines.append)
    assert sides_of(tmp_path / "store") == {("1/train", "train"), ("2", "train"), ("1/test", "test")}
    assert any(line.startswith("warning: set: these folders share recordings (1)") for line in lines)


def test_a_photo_in_both_folders_is_refused(tmp_path):
    photos = write_photos(tmp_path / "set", "train/{c}/1.jpg", "test/{c}/1.jpg")
    Image.open(photos / "test" / "B" / "1.jpg").save(photos / "train" / "B" / "2.jpg", quality=80)
    with pytest.raises(UserError, match=r"1 test photos are also in train.*--split recordings"):
        prepare(photos, tmp_path / "store")
    report = prepare(photos, tmp_path / "store", tolerance=Tolerance(drop_duplicates=True))
    assert report.splits == {"train": 29, "validation": 0, "test": 29}


def test_only_held_out_folders_leave_nothing_to_train_on(tmp_path):
    photos = write_photos(tmp_path / "set", "valid/{c}/1.jpg", "test/{c}/1.jpg")
    with pytest.raises(UserError, match=r"no recording is left for training.*--split recordings"):
        prepare(photos, tmp_path / "store")


def test_the_public_sets_flat_test_folder_leaves_its_recordings_alone(tmp_path):
    names = [f"asl_alphabet_train/asl_alphabet_train/{{c}}/{{c}}{n}.jpg" for n in (1, 1001, 2001, 2501)]
    photos = write_photos(tmp_path / "archive", *names, "asl_alphabet_test/asl_alphabet_test/{c}_test.jpg")
    lines: list[str] = []
    report = prepare(photos, tmp_path / "store", log=lines.append)
    assert report.splits == {"train": 58, "validation": 29, "test": 29}
    assert lines == ["archive: 29 files outside the class folders are left aside"]


def test_the_command_takes_the_option(tmp_path):
    photos = write_photos(tmp_path / "set", "train/{c}/1.jpg", "test/{c}/1.jpg")
    words = [BIN / "horovod-asl", "prepare", photos, tmp_path / "store", "--no-hands", "--workers", "1"]
    first = launch(words)
    assert first.returncode == 0, first.output
    assert "set: its folders train/, test/ are the split" in first.output
    assert "58 photos (29 train, 0 validation, 29 test)" in first.output
    second = launch([*words, "--split", "recordings"])
    assert second.returncode == 0, second.output
    assert "58 photos (58 train, 0 validation, 0 test)" in second.output
    assert "split folders → recording" in second.output


def test_a_folder_is_scored_whole_or_by_its_split(tmp_path):
    photos = write_photos(tmp_path / "set", "Train/{c}/1.jpg", "Train/{c}/2.jpg", "Test/{c}/1.jpg")
    reader = PixelReader(16)
    whole = load_folder(photos, reader=reader)
    assert len(whole) == 87
    (line,) = whole.notes
    assert "Train/, Test/" in line
    assert "--split test scores one side" in line
    test = load_folder(photos, reader=reader, split="test")
    assert test.paths == [str(photos / "Test" / name / "1.jpg") for name in sorted(CLASSES)]
    assert test.notes == (f"{photos}: 29 of 87 photos are its test split",)
    shares = [load_folder(photos, reader=reader, split="test", rank=r, world_size=2) for r in (0, 1)]
    assert sorted(path for share in shares for path in share.paths) == test.paths
    assert len(load_folder(photos, reader=reader, split="all")) == 87
    assert len(load_folder(photos, reader=reader, exclude=["2.jpg"])) == 58
    with pytest.raises(UserError, match=r"has no validation photos; its folders Train/, Test/ are its split"):
        load_folder(photos, reader=reader, split="validation")
    with pytest.raises(UserError, match="is no store and has no splits; leave --split out"):
        load_folder(photos / "Train", reader=reader, split="train")


@pytest.mark.parametrize(
    ("rule", "scored", "noted"),
    [
        ("folders", ["set/test"], True),
        ("folders", ["other/all"], False),
        ("folders", ["/home/ada/friends (test)"], False),
        ("recording", ["set/4"], False),
    ],
)
def test_a_score_on_the_split_of_folders_says_what_it_cannot_know(rule, scored, noted):
    answer = {"split_rule": rule, "scored": scored, "trained_on": ["set/train", "asl/1"]}
    assert _is_split_of_folders(answer) is noted


# -- people ---------------------------------------------------------------------------------------------------


def test_folders_that_name_people_come_before_frame_numbers():
    photos = [
        FoundPhoto(f"{who}/A/A{frame}.jpg", 0, FileOrigin(""), (who,))
        for who in ("anna", "ben")
        for frame in (10, 2700)
    ]
    names, rule = group_recordings(photos)
    assert (names, rule) == (["anna/1", "anna/4", "ben/1", "ben/4"], "subfolder and frames")
    sides = split_recordings({"set": names})
    assert sides == {
        ("set", name): "train" if name.startswith("anna") else "test" for name in names
    }


def test_folders_that_only_sort_the_classes_name_nobody():
    photos = [
        *in_folders("letters", "letters"),
        *[FoundPhoto("signs/del/del1.jpg", CLASSES.index("del"), FileOrigin(""), ("signs",))],
    ]
    assert group_recordings(photos) == (["all"] * 3, "source")


def test_folders_with_versions_of_the_same_photos_name_nobody():
    photos = [
        FoundPhoto(f"{folder}/A/A{frame}.jpg", 0, FileOrigin(""), (folder,))
        for folder in ("original", "Augmented")
        for frame in (10, 2700)
    ]
    assert group_recordings(photos) == (["1", "4"] * 2, "frames")
    assert group_recordings(in_folders("original", "augmented")) == (["all"] * 2, "source")
    assert group_recordings(in_folders("anna/raw", "anna/flipped", "ben/raw"))[0] == ["anna", "anna", "ben"]


def test_photos_beside_the_folders_of_people_are_nobodys_of_these():
    photos = [
        FoundPhoto("ann/A/A1.jpg", 0, FileOrigin(""), ("ann",)),
        FoundPhoto("A/A1.jpg", 0, FileOrigin(""), ()),
    ]
    assert group_recordings(photos)[0] == ["ann/1", "all/1"]
    shared = [
        FoundPhoto("set/Ann/A/x.jpg", 0, FileOrigin(""), ("set", "Ann")),
        FoundPhoto("set/A/x.jpg", 0, FileOrigin(""), ("set",)),
    ]
    assert group_recordings(shared)[0] == ["Ann", "set"]


def test_no_person_is_on_two_sides(tmp_path):
    frames = [f"{{c}}/{{c}}{n}.jpg" for n in (10, 1500, 2700)]
    photos = write_photos(
        tmp_path / "set", *[f"{who}/{frame}" for who in ("anna", "ben", "cleo", "dora") for frame in frames]
    )
    prepare(photos, tmp_path / "store")
    people: dict[str, set[str]] = {}
    for recording, side in sides_of(tmp_path / "store"):
        people.setdefault(recording.partition("/")[0], set()).add(side)
    assert people == {"anna": {"train"}, "ben": {"train"}, "cleo": {"validation"}, "dora": {"test"}}
    prepare(photos, tmp_path / "named", split=SplitRule(test=("set/ben",)))
    held = {name for name, side in sides_of(tmp_path / "named") if side == "test"}
    assert held == {"ben/1", "ben/2", "ben/4"}


@pytest.mark.parametrize(
    ("folders", "recordings"),
    [
        (["session1/anna", "session1/ben", "session2/anna"], ["anna/session1", "ben/session1", "anna/session2"]),
        (["anna/day1", "anna/day2", "ben/day1"], ["anna/day1", "anna/day2", "ben/day1"]),
        (["images/anna", "more/anna", "other/cleo"], ["images+more/anna", "images+more/anna", "other/cleo"]),
        (["school1/anna", "school2/ben"], ["school1/anna", "school2/ben"]),
        (["set1", "set2"], ["set1", "set2"]),
        (["anna_day1", "anna_day2", "ben_day1"], ["anna/day1", "anna/day2", "ben/day1"]),
        (["clip_take1", "clip_take2"], ["clip_take1", "clip_take2"]),
        (["Raw Images/anna", "Aug Images/anna", "raw_images/ben"], ["anna", "anna", "ben"]),
    ],
)
def test_the_person_stands_in_front_of_the_take(folders, recordings):
    names = group_recordings(in_folders(*folders))[0]
    assert names == recordings


def test_a_person_with_several_folders_is_on_one_side():
    sides = split_recordings({"set": ["ann/day1", "bob/day1", "bob/day2"]})
    assert [sides["set", name] for name in ("ann/day1", "bob/day1", "bob/day2")] == ["train", "test", "test"]


def test_real_sets_have_no_split_folders(real_data):
    for name in ("asl_alphabet_train", "asl_alphabet_test", "other_signers/massey"):
        source = open_sources([f"x={real_data / name}"], image_size=32, synthetic=SyntheticOptions())[0]
        assert source.split_folders == (), name
