"""Photos are found in every layout, and grouped into recordings by the rule that was meant."""

from __future__ import annotations

import os
import shlex
import zipfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from horovod_asl.command_line.cli import parse
from horovod_asl.commands.prepare import PrepareConfig
from horovod_asl.discovery.file_names import ignored_line, mixed_line
from horovod_asl.discovery.find_photos import FoundPhoto, find_photos, pictures_in
from horovod_asl.errors import UserError
from horovod_asl.inference.folder import load_folder
from horovod_asl.inference.readers import PixelReader
from horovod_asl.labels import CLASS_INDEX, CLASSES
from horovod_asl.photos.decode import PhotoError
from horovod_asl.photos.origins import FileOrigin
from horovod_asl.sources.sources import SyntheticOptions, check_classes, open_sources
from horovod_asl.splits.recordings import group_recordings, listed, recording_order, summed_up


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def found(*names: str, label: str = "A") -> list[FoundPhoto]:
    """Photos as `find_photos` gives them, for rules that look at names only."""
    return [FoundPhoto(name, CLASS_INDEX[label], FileOrigin(name)) for name in names]


def open_one(text: str, **options: object) -> list:
    return open_sources([text], image_size=32, synthetic=SyntheticOptions(), **options)


def test_classes_come_from_the_nearest_folder_in_any_case_however_nested(tmp_path):
    touch(tmp_path, "train/asl/A/1.jpg", "train/asl/b/evening/2.jpg", "train/asl/Space/3.png", "D/e/4.jpg")
    photos = find_photos(tmp_path).photos
    assert {photo.path: CLASSES[photo.label] for photo in photos} == {
        "train/asl/A/1.jpg": "A",
        "train/asl/b/evening/2.jpg": "B",
        "train/asl/Space/3.png": "space",
        "D/e/4.jpg": "E",
    }


SYSTEM_PATHS = [
    *("A/.DS_Store", "A/Thumbs.db", "__MACOSX/A/._1.jpg", ".git/A/1.jpg", "A/.AppleDouble/1.jpg"),
    *("A/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/A/1.jpg", "#recycle/A/2.jpg", "#snapshot/A/2.jpg"),
    *("lost+found/A/1.jpg", "$RECYCLE.BIN/A/1.jpg", "System Volume Information/A/1.jpg", "A/._1.jpg"),
]


@pytest.mark.parametrize("path", SYSTEM_PATHS)
def test_what_systems_leave_is_no_photo_and_no_class(tmp_path, path):
    folder = touch(tmp_path / "set", "A/1.jpg", path)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("A/1.jpg", path):
            archive.write(folder / name, name)
    for place in (folder, tmp_path / "set.zip"):
        found_there = find_photos(place)
        assert [photo.path for photo in found_there.photos] == ["A/1.jpg"]
        assert (found_there.unknown, found_there.other_files) == ({}, {})
        assert [Path(name).name for name, _ in pictures_in(place)] == ["1.jpg"]


def test_a_folder_of_a_system_need_not_be_readable(tmp_path, monkeypatch):
    """Only root could enter `lost+found`; tests may run as root, so that os.walk says it in its place."""
    touch(tmp_path, "A/1.jpg", "lost+found/2.jpg")
    entered: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: entered.append(Path(path).name) or scandir(path))
    assert len(find_photos(tmp_path).photos) == 1
    assert "A" in entered
    assert "lost+found" not in entered


def test_files_beside_photos_that_are_no_pictures_are_ignored_and_counted(tmp_path):
    touch(tmp_path, "A/1.jpg", "A/1.xml", "B/1.JPG", "B/1.XML", "B/keypoints.npy", "B/deep/notes.txt")
    touch(tmp_path, "labels/1.txt", "labels/2.txt", "A/no_suffix", "A/frame.0001", "A/broken.heic")
    result = find_photos(tmp_path)
    names = [photo.path for photo in result.photos]
    assert names == ["A/1.jpg", "A/broken.heic", "A/frame.0001", "A/no_suffix", "B/1.JPG"]
    assert result.other_files == {".xml": 2, ".npy": 1, ".txt": 1}
    assert (result.unknown, result.ignored) == ({}, 2)
    line = ignored_line({".npy": 1, ".xml": 2})
    assert line == "ignored 3 files that are not pictures (.xml 2, .npy 1)"


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["depth_*"], ["A/color_1.png", "B/old/color_2.png"]),
        (["depth_*", "old"], ["A/color_1.png"]),
        (["A/*"], ["B/old/color_2.png", "B/old/depth_2.png"]),
        (["old/depth*"], ["A/color_1.png", "A/depth_1.png", "B/old/color_2.png"]),
    ],
)
def test_what_a_pattern_excludes(tmp_path, patterns, left):
    touch(tmp_path, "A/color_1.png", "A/depth_1.png", "B/old/color_2.png", "B/old/depth_2.png")
    assert [photo.path for photo in find_photos(tmp_path, patterns).photos] == left


def test_a_pattern_that_excludes_nothing_is_refused(tmp_path):
    touch(tmp_path / "set", "A/color_1.png")
    with pytest.raises(UserError, match=r"--exclude 'dept_\*' matches no file"):
        open_one(str(tmp_path / "set"), exclude=["dept_*"])


def kinds(*forms: str) -> list[str]:
    """Eight files of each kind in each of three classes; `{a}` stands for the class, `{n}` for the number."""
    return [form.format(a=label, n=n) for label in "ABD" for n in range(8) for form in forms]


COUNTED = (
    "by their names, {} of {} files may be depth maps, masks or second pictures of the others; if so, leave them out "
    "with {}"
)


@pytest.mark.parametrize(
    ("forms", "flags"),
    [
        (["{a}/color_{n}.png", "{a}/depth_{n}.png"], "--exclude 'depth_*'"),
        (["{a}/depth_0_{n}.png", "{a}/rgb_0_{n}.png"], "--exclude 'depth_*'"),
        (["{a}/{n}.png", "{a}/{n}_mask.png"], "--exclude '*_mask.*'"),
        (["{a}/IMG_{n}.jpg", "{a}/IMG_{n}-Depth.png"], "--exclude '*-Depth.*'"),
        (["{a}/{n}_rgb.jpg", "{a}/{n}_d.png"], "--exclude '*_d.*'"),
        (["{a}/{n}.png", "{a}/{n}_flipped.png"], "--exclude '*_flipped.*'"),
        (["{a}/img{n}.png", "{a}/ir{n}.png"], "--exclude 'ir[0-9.]*'"),
        (["{a}/{n}/color.png", "{a}/{n}/depth.png"], "--exclude 'depth[0-9.]*'"),
        (["{a}/{n}.png", "{a}/{n}mask.png"], "--exclude '*[0-9.]mask.*'"),
        (["{a}/color_{n}.png", "{a}/depth_{n}.png", "{a}/{n}.mask.png"], "--exclude '*.mask.*' --exclude 'depth_*'"),
        (["color/{a}/{n}.png", "depth/{a}/{n}.png"], "--exclude depth"),
        (["{a}/{n}.png", "{a}/depth_images/{n}.png"], "--exclude depth_images"),
        (["rgb/{a}/{n}.png", "it's Depth Maps [8]/{a}/{n}.png"], """--exclude 'it'"'"'s Depth Maps [[]8]'"""),
        (["masks, depth/{a}/{n}.png", "masks, depth/{a}/depth {n}.png"], "--exclude 'depth *'"),
        (["{a}/{n}.png", "{a}/depth__{n}.png"], "--exclude 'depth_*'"),
        (["{a}/{n}.png", "{a}/mask_{n}_mask.png"], "--exclude '*_mask.*' --exclude 'mask_*'"),
    ],
)
def test_names_of_what_is_no_photo_are_hinted_at_with_flags_to_paste(tmp_path, forms, flags):
    paths = kinds(*forms)
    count = 24 * (len(forms) - 1)
    assert mixed_line(paths) == COUNTED.format(count, len(paths), flags)
    touch(tmp_path, *paths)
    patterns = parse(PrepareConfig, ["a", "b", *shlex.split(flags)], prog="prepare", description=None).exclude
    left = [photo.path for photo in find_photos(tmp_path, patterns).photos]
    assert len(left) == 24
    assert mixed_line(left) == ""


@pytest.mark.parametrize(
    ("forms", "patterns"),
    [
        (["{a}/{n}-right.png", "{a}/{n}-left.png"], "'*-left.*' and '*-right.*'"),
        (["{a}/x_{n}.png", "{a}/y_{n}.png"], "'x_*' and 'y_*'"),
    ],
)
def test_of_pairs_with_unknown_words_both_halves_are_named(forms, patterns):
    paths = kinds(*forms)
    assert mixed_line(paths) == (
        f"{patterns} each match half of the files; if one half is depth maps, masks or second pictures of the other, "
        "leave it out with --exclude"
    )
    assert mixed_line(paths[1:]) == ""


def test_a_photo_without_its_depth_map_changes_no_hint():
    """But of fewer than 20 files names say nothing."""
    paths = [path for path in kinds("{a}/color_{n}.png", "{a}/depth_{n}.png") if "color_7" not in path]
    assert mixed_line(paths) == COUNTED.format(24, 45, "--exclude 'depth_*'")
    assert mixed_line(paths[:19]) == ""


@pytest.mark.parametrize("share", [1, 9, 10, 40, 41])
def test_a_word_of_few_files_or_of_nearly_all_says_nothing(share):
    for form in ("A/depth_{}.png", "depth_maps/A/{}.png"):
        paths = [form.format(n) for n in range(share)] + [f"A/{n}.png" for n in range(share, 50)]
        assert bool(mixed_line(paths)) == (share in (10, 40))


@pytest.mark.parametrize(
    "forms",
    [
        ["{a}/{a}{n}.jpg"],
        ["{a}/{a}_{n}.jpg", "{a}/{n}_{a}.jpg"],
        ["{a}{n}_test.jpg"],
        [f"{{a}}/hand1_{{a}}_{side}_seg_{{n}}_cropped.jpeg" for side in ("bot", "dif", "left", "right", "top")],
        ["anna/{a}/{n}.png", "ben/{a}/{n}.png"],
        ["{a}/hand1_{n}.png", "{a}/hand2_{n}.png"],
        ["{a}/IMG_{n}.png", "{a}/DSC_9{n}.png"],
        ["{a}/{n}.png", "{a}/1{n}.png"],
        ["{a}/{n}.png", "{a}/{n}_rgb.png"],
        ["{a}/photo_{n}.png", "{a}/Image_{n}.png"],
        ["{a}/iris_{n}.png", "{a}/{n}.png", "{a}/unmask{n}.png"],
        ["{a}/rgb_depth/{n}.png", "{a}/{n}.png"],
        ["{a}/depth_{n}.png"],
        ["depth_study/{a}/{n}.png", "depth_study/{a}/depth_{n}.png"],  # the pattern would take all
        ["left_hand/{a}/photo_{n}.png", "left_hand/{a}/left_{n}.png"],
        ["left_hand/{a}/right_{n}.png", "left_hand/{a}/left_{n}.png"],
    ],
)
def test_names_of_photos_give_no_hint(forms):
    assert mixed_line(kinds(*forms)) == ""


def test_evaluate_gives_the_hint_of_what_it_scores_on_rank_0(tmp_path):
    for side, n in [("train", 3), ("test", 10)]:
        for number in range(n):
            for kind in ("color", "depth"):
                file = tmp_path / side / "A" / f"{kind}_{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(file)
    hint = f"note: {tmp_path}: " + COUNTED.format(10, 20, "--exclude 'depth_*'")
    load = partial(load_folder, tmp_path, reader=PixelReader(8), split="test")
    assert load().notes[-1] == hint
    assert hint not in load(rank=1, world_size=2).notes
    assert not any("depth" in note for note in load(exclude=["depth_*"]).notes)


def test_the_flat_official_test_folder(tmp_path):
    touch(tmp_path, "asl_alphabet_test/A_test.jpg", "asl_alphabet_test/nothing_test.jpg", "readme.md")
    result = find_photos(tmp_path)
    assert [CLASSES[photo.label] for photo in result.photos] == ["A", "nothing"]
    assert (result.unknown, result.ignored) == ({}, 1)


def test_unknown_and_empty_classes_are_counted_and_files_elsewhere_are_not(tmp_path):
    touch(tmp_path, "set/A/1.jpg", "set/hello/1.jpg", "set/hello/2.jpg", "set/readme.md", "tests/A_test.jpg")
    (tmp_path / "set" / "B").mkdir()
    result = find_photos(tmp_path)
    assert (result.unknown, result.empty, result.ignored) == ({"hello": 2}, ("set/B",), 2)


def test_a_zip_gives_the_same_photos_and_bytes_and_is_not_unpacked(tmp_path):
    folder = touch(tmp_path / "folder", "train/A/A1.jpg", "train/B/B1.jpg", "train/odd/1.jpg")
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.jpg"):
            archive.write(file, file.relative_to(folder))
    before = set(tmp_path.rglob("*"))
    from_zip, from_folder = find_photos(tmp_path / "set.zip"), find_photos(folder)
    assert [(p.path, p.label) for p in from_zip.photos] == [(p.path, p.label) for p in from_folder.photos]
    assert [p.origin.read() for p in from_zip.photos] == [p.origin.read() for p in from_folder.photos]
    assert from_zip.unknown == from_folder.unknown == {"odd": 1}
    assert set(tmp_path.rglob("*")) == before


def test_a_damaged_zip_member_is_a_photo_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("A/A1.jpg", b"0123456789" * 50)
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[data.index(b"0123456789") + 100] ^= 255
    (tmp_path / "set.zip").write_bytes(data)
    photo = find_photos(tmp_path / "set.zip").photos[0]
    with pytest.raises(PhotoError, match="damaged in the zip"):
        photo.origin.read()


def test_what_is_no_source_says_what_to_give(tmp_path):
    touch(tmp_path, "file.zip", "empty/stuff/1.jpg")
    with pytest.raises(UserError, match="does not exist"):
        find_photos(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no readable zip"):
        find_photos(tmp_path / "file.zip")
    with pytest.raises(UserError, match=r"no class folders.*stuff \(1\)"):
        find_photos(tmp_path / "empty")


def test_links_in_a_loop_end(tmp_path):
    touch(tmp_path, "A/1.jpg")
    (tmp_path / "A" / "again").symlink_to(tmp_path)
    assert len(find_photos(tmp_path).photos) == 1


@pytest.mark.parametrize(
    ("frame", "recording"),
    [(1, "1"), (1000, "1"), (1001, "2"), (2000, "2"), (2001, "3"), (2500, "3"), (2501, "4"), (3000, "4")],
)
def test_frames_are_cut_where_the_public_set_is(frame, recording):
    assert group_recordings(found(f"train/A/A{frame}.jpg"), "frames") == ([recording], "frames")


@pytest.mark.parametrize(
    "name", ["A0.jpg", "A3001.jpg", "B7.jpg", "A.jpg", "a7.jpg", "A-7.jpg", "A7.", ".A7"]
)
def test_other_names_are_not_the_public_sets(name):
    with pytest.raises(UserError, match=f"misses 1 of 2 photos, such as A/{name}"):
        group_recordings(found("A/A1.jpg", f"A/{name}"), "frames")
    assert group_recordings(found("A/A1.jpg", f"A/{name}"), "auto") == (["all", "all"], "source")


def test_auto_sees_people_frames_folders_and_otherwise_one_recording():
    people = found("A/hand1_a_1.jpg", "A/hand1_a_2.jpg", "A/Hand2_a_1.jpg", "A/hand2_a_2.jpg")
    assert group_recordings(people) == (["hand1", "hand1", "hand2", "hand2"], "person")
    assert group_recordings(found("A/A5.jpg", "A/A1500.jpg")) == (["1", "2"], "frames")
    folders = [FoundPhoto(f"{who}/A/x.jpg", 0, FileOrigin(""), ("set", who)) for who in ("ann", "bob")]
    assert group_recordings(folders) == (["ann", "bob"], "subfolder")
    assert group_recordings(found("A/IMG_1.jpg", "A/IMG_2.jpg")) == (["all", "all"], "source")


def test_a_stray_name_does_not_undo_the_recordings_of_all_others():
    names = [f"A/A{frame}.jpg" for frame in range(1, 30)]
    with pytest.raises(UserError, match=r"29 of 30 names tell their recording \(frames\).*A/notes\.txt"):
        group_recordings(found(*names, "A/notes.txt"))


def test_a_number_that_counts_photos_is_no_person():
    names = [f"A/hand{number}.jpg" for number in range(40)]
    assert group_recordings(found(*names)) == (["all"] * 40, "source")


def test_subfolders_above_and_below_the_class(tmp_path):
    touch(tmp_path, "set/ann/A/1.jpg", "set/bob/A/1.jpg", "set/bob/A/evening/1.jpg")
    names, _ = group_recordings(find_photos(tmp_path).photos, "subfolder")
    assert names == ["ann", "bob", "bob/evening"]


def test_a_users_pattern_names_recordings_by_its_group():
    photos = found("A/x_ann_1.jpg", "A/x_bob_2.jpg")
    assert group_recordings(photos, r"x_(\w+?)_")[0] == ["ann", "bob"]
    assert group_recordings(photos, r"(x)_(?P<recording>\w+?)_")[0] == ["ann", "bob"]


def test_a_users_pattern_that_does_not_fit_is_refused_with_counts():
    with pytest.raises(UserError, match=r"misses 1 of 3 photos, such as A/other\.jpg"):
        group_recordings(found("A/x_1.jpg", "A/x_2.jpg", "A/other.jpg"), r"(x)_")
    with pytest.raises(UserError, match="has no group"):
        group_recordings(found("A/x_1.jpg"), "x_")
    with pytest.raises(UserError, match="no regular expression"):
        group_recordings(found("A/x_1.jpg"), "x_(")


def test_recordings_are_ordered_by_number():
    assert recording_order(["hand10", "hand2", "hand2", "hand1", "b"]) == ["b", "hand1", "hand2", "hand10"]


def test_sources_have_names_and_rules_of_their_own(new_frames):
    one, two = new_frames("one", classes=["A"]), new_frames("two", classes=["A"], seed=1)
    sources = open_sources(
        [f"z={one}", str(two)], group_by=["auto", "two=source"], image_size=32, synthetic=SyntheticOptions()
    )
    assert [(source.name, source.group_by) for source in sources] == [("two", "source"), ("z", "frames")]
    assert sources[1].recordings == ["1", "2", "3", "4"]
    with pytest.raises(UserError, match="two sources are called one"):
        open_sources([str(one), f"one={two}"], image_size=32, synthetic=SyntheticOptions())


def test_missing_unknown_and_empty_classes_name_their_flags(new_frames):
    folder = new_frames("some", classes=["A", "B"], recordings=1)
    touch(folder, "hello/1.jpg")
    (folder / "C").mkdir()
    sources = open_one(str(folder))
    with pytest.raises(UserError, match=r"folder hello \(1 photo\) is no class; rename it, .*--skip-unknown"):
        check_classes(sources, allow_missing=True, skip_unknown=False)
    with pytest.raises(
        UserError,
        match=r"4 photos\) has no photo of 27 of 29 classes: C \(empty folder\), D.*--allow-missing",
    ):
        check_classes(sources, allow_missing=False, skip_unknown=True)
    check_classes(sources, allow_missing=True, skip_unknown=True)


def test_kaggle_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    with pytest.raises(UserError, match=r"pip install 'horovod_asl\[kaggle\]'"):
        open_one("kaggle")


def test_synthetic_photos_have_recordings():
    source = open_sources(["synthetic"], image_size=32, synthetic=SyntheticOptions(3, 1, seed=5))[0]
    assert len(source.photos) == 3 * 29
    assert len(source.recordings) == 3


def test_real_sets_are_grouped_as_they_were_recorded(real_data):
    expected = {"asl_alphabet_train": ("frames", 3), "other_signers/massey": ("person", 5)}
    expected |= {"other_signers/phone": ("source", 1), "other_signers/homes": ("source", 1)}
    for name, grouping in expected.items():
        source = open_one(f"x={real_data / name}")[0]
        assert (source.group_by, len(source.recordings)) == grouping, name


def test_a_source_with_many_recordings_is_summed_up():
    drawn = [f"drawn/r{number}" for number in range(40)]
    assert listed(["asl/1", "asl/2", *drawn, "homes/all"]) == "asl/1, asl/2, drawn (40 recordings), homes/all"
    assert summed_up(drawn) == {"drawn (40 recordings)": drawn}
    assert [listed([folder]) for folder in ("friends", "/home/ada/friends")] == [
        "friends",
        "/home/ada/friends",
    ]
    assert listed([]) == ""
