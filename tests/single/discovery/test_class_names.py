"""Folders and files that do not say their class get it by --classes and --class-from-name, and never by a guess."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from horovod_asl.commands.prepare import main as prepare
from horovod_asl.discovery.class_names import USUAL, ClassNames, classes_by, natural_order
from horovod_asl.discovery.find_photos import Found, find_photos
from horovod_asl.errors import UserError
from horovod_asl.inference.folder import load_folder
from horovod_asl.inference.readers import PixelReader
from horovod_asl.labels import CLASSES
from horovod_asl.sources.sources import SyntheticOptions, open_sources
from tests.conftest import draw_photo

LETTERS = string.ascii_uppercase
HAND = r"^hand\d+_([a-z])_"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def numbered(root: Path, names: str = LETTERS) -> Path:
    return touch(root, *[f"data/{number}/{n}.jpg" for number in range(len(names)) for n in range(2)])


def written(folder: Path, text: str) -> Path:
    file = folder / "classes.txt"
    file.write_text(text, encoding="utf-8")
    return file


def labels(found: Found) -> dict[str, str]:
    return {photo.path: CLASSES[photo.label] for photo in found.photos}


def by(file: Path | None = None, pattern: str | None = None) -> ClassNames:
    return classes_by(file, pattern)


FORMS = {
    "a list": "\n".join(LETTERS),
    "YAML's list": "".join(f"- {name}\n" for name in LETTERS),
    "YAML's mapping": "# ours\n" + "".join(f"{number}: {name}\n" for number, name in enumerate(LETTERS)),
    "CSV": "\ufeff" + "".join(f'"{number}",{name.lower()}\r\n' for number, name in enumerate(LETTERS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbered_folders_get_their_classes_in_natural_order(tmp_path, form):
    folder = numbered(tmp_path / "set")
    found = find_photos(folder, classes=by(written(tmp_path, FORMS[form])))
    assert labels(found) == {
        f"data/{number}/{n}.jpg": name for number, name in enumerate(LETTERS) for n in range(2)
    }
    arrows = ", ".join(f"{number} → {name}" for number, name in enumerate(LETTERS))
    assert found.class_lines == (f"{tmp_path}/classes.txt: {arrows}",)
    assert (found.unknown, found.empty) == ({}, ())


def test_numbers_alone_are_refused_with_what_to_do(tmp_path):
    folder = numbered(tmp_path / "set")
    with pytest.raises(UserError) as caught:
        find_photos(folder)
    assert str(caught.value) == (
        f"{folder} has 26 folders with numbers for names (0, 1, 2 … 25), which say no class: write their classes in "
        "this order into a file, a line each (if they are the alphabet: printf '%s\\n' {A..Z} > classes.txt), and "
        "add --classes classes.txt"
    )


def test_numbers_are_ordered_by_value():
    assert natural_order(["10", "2", "b1", "a10", "a9"]) == ["2", "10", "a9", "a10", "b1"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0: A\n1: thumbs\n", r"line 2: 'thumbs' is no class; the classes are A … Z, del, nothing, space"),
        ("0: A\n0: B\n", "line 2: 0 has another class above"),
        ("A\nB\n", r"holds 2 classes, but .*/set has 26 folders or words to give them to \(0, 1, 2 … 25\)"),
        ("0: A\nB\n", "must hold lines `FOLDER: CLASS`, or a class a line"),
        ("# nothing\n", "must hold lines"),
        ("x: A\n", r"set holds no folder that .*classes\.txt gives a class; there are 0 \(2\), 1 \(2\)"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text, fault):
    folder = numbered(tmp_path / "set")
    with pytest.raises(UserError, match=fault):
        find_photos(folder, classes=by(written(tmp_path, text)))


def test_a_file_of_classes_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"--classes .*nowhere cannot be read \(No such file"):
        by(tmp_path / "nowhere")


def test_other_names_keep_their_meaning_and_unnamed_folders_are_unknown(tmp_path):
    folder = touch(tmp_path / "set", "A/1.jpg", "letter_b/1.jpg", "Space/1.jpg", "C_samples/1.jpg")
    assert find_photos(folder).unknown == {"letter_b": 1, "C_samples": 1}
    found = find_photos(folder, classes=by(written(tmp_path, "Letter_B: b\n")))
    assert labels(found) == {"A/1.jpg": "A", "letter_b/1.jpg": "B", "Space/1.jpg": "space"}
    assert found.unknown == {"C_samples": 1}
    assert found.class_lines == (f"{tmp_path}/classes.txt: letter_b → B",)


def test_a_path_of_two_classes_is_refused_if_one_is_of_the_file(tmp_path):
    folder = touch(tmp_path / "set", "1/0/x.jpg", "2/0/x.jpg")
    with pytest.raises(UserError, match=r"1/0 holds two classes, 0 → A and 1 → B: rename"):
        find_photos(folder, classes=by(written(tmp_path, "0: A\n1: B\n")))
    people = touch(tmp_path / "people", "p1/0/x.jpg", "p2/0/x.jpg")
    found = find_photos(people, classes=by(written(tmp_path, "0: A\n1: B\n")))
    assert {photo.group_folders for photo in found.photos} == {("p1",), ("p2",)}


def flat(root: Path) -> Path:
    names = [f"hand{who}_{name}_bot_seg_{n}_cropped.jpeg" for who in (1, 2) for name in "ab7" for n in range(2)]
    return touch(root, *names, "notes.txt")


def test_the_class_in_the_names_of_files(tmp_path):
    found = find_photos(flat(tmp_path / "set"), classes=by(pattern=HAND))
    assert [(Path(path).name[:7], label) for path, label in labels(found).items()][:3] == [
        ("hand1_a", "A"),
        ("hand1_a", "A"),
        ("hand1_b", "B"),
    ]
    assert found.other_files == {".txt": 1}
    assert found.class_lines == (
        "classes by the names of files: A 4, B 4",
        f"left out 4 files whose names --class-from-name '{HAND}' does not match, such as "
        "hand1_7_bot_seg_0_cropped.jpeg",
    )


def test_the_words_in_names_of_files_are_looked_up(tmp_path):
    pattern = r"_(?P<class>[a-z0-9])_bot"
    with pytest.raises(UserError, match=r"that are no class \(A … Z, del, nothing, space\): '7' \(4\); give"):
        find_photos(flat(tmp_path / "set"), classes=by(pattern=pattern))
    found = find_photos(tmp_path / "set", classes=by(written(tmp_path, "7: space\n"), pattern))
    assert found.class_lines == (
        "classes by the names of files: A 4, B 4, space 4",
        f"{tmp_path}/classes.txt: 7 → space",
    )


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("^foot_(.)", r"finds no class in .*set, whose files are called hand1_7_bot_seg_0_cropped\.jpeg, hand1_7"),
        ("^hand", "has no group: put parentheses"),
        ("([", "is no regular expression"),
    ],
)
def test_an_expression_that_cannot_be_meant_is_refused(tmp_path, pattern, fault):
    folder = flat(tmp_path / "set")
    with pytest.raises(UserError, match=fault):
        find_photos(folder, classes=by(pattern=pattern))


def test_a_file_that_serves_no_source_is_refused(tmp_path):
    lettered = touch(tmp_path / "lettered", "A/1.jpg")
    folders = [str(numbered(tmp_path / "set")), str(lettered)]
    opened = open_sources(
        folders,
        image_size=8,
        synthetic=SyntheticOptions(),
        classes=by(written(tmp_path, FORMS["a list"])),
    )
    assert [len(source.notes) for source in opened] == [0, 1]
    with pytest.raises(UserError, match=r"--classes .*classes\.txt names no folder that is here"):
        open_sources(
            [str(lettered)], image_size=8, synthetic=SyntheticOptions(), classes=by(tmp_path / "classes.txt")
        )


def test_evaluate_reads_such_folders_and_shows_first_what_they_mean(tmp_path):
    for number in range(2):
        for n in range(2):
            (tmp_path / "set" / str(number)).mkdir(parents=True, exist_ok=True)
            draw_photo(2 * number + n).save(tmp_path / "set" / str(number) / f"{n}.png")
    lines: list[str] = []
    classes = by(written(tmp_path, "space\ndel\n"))
    loaded = load_folder(tmp_path / "set", reader=PixelReader(8), classes=classes, log=lines.append)
    assert [CLASSES[label] for label in loaded.labels] == ["space", "space", "del", "del"]
    assert lines == [f"{tmp_path / 'set'}: {tmp_path}/classes.txt: 0 → space, 1 → del"]
    load_folder(tmp_path / "set", reader=PixelReader(8), classes=classes, log=lines.append, rank=1, world_size=2)
    assert len(lines) == 1
    assert USUAL.meanings == {}


def test_prepare_shows_the_classes_before_it_decodes(tmp_path, monkeypatch, capsys):
    for number in range(26):
        (tmp_path / "set" / str(number)).mkdir(parents=True, exist_ok=True)
        draw_photo(number).save(tmp_path / "set" / str(number) / "1.png")
    written(tmp_path, FORMS["a list"])
    monkeypatch.chdir(tmp_path)
    flags = ["--classes", "classes.txt", "--allow-missing", "--image-size", "16", "--workers", "1"]
    assert prepare(["set", "store", *flags]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("set: classes.txt: 0 → A, 1 → B, 2 → C, 3 → D")
    assert said.out.startswith("store is ready: 26 photos")
