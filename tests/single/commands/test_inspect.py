"""`inspect` counts what csv counts, finds what was copied, and draws every class and recording."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from horovod_asl.commands import inspect
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.splits.split import SplitRule
from horovod_asl.store.contact_sheet import choose_columns, contact_sheet
from horovod_asl.store.inspection import inspect_store
from horovod_asl.store.store import Store
from tests.conftest import write_frames
from tests.preparing import prepare_with


@pytest.fixture(scope="module")
def path(frames, tmp_path_factory):
    """Two sources, one of letters only and held out."""
    folder = tmp_path_factory.mktemp("inspect")
    letters = write_frames(folder / "letters", classes=CLASSES[:26], recordings=2, seed=7)
    prepare_with(
        [f"asl={frames}", f"letters={letters}"],
        folder / "store",
        image_size=32,
        split=SplitRule(test_source="letters"),
    )
    return folder / "store"


def test_counts_are_those_of_the_index(path):
    with (path / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    facts = inspect_store(Store.open(path))
    assert facts.photos == len(rows) == 232 + 104
    assert facts.splits == {**dict.fromkeys(facts.splits, 0), **Counter(row["split"] for row in rows)}
    for name, counts in facts.classes.items():
        own = Counter(row["split"] for row in rows if row["class"] == name)
        assert counts == {split: own[split] for split in ("train", "validation", "test")}
    table = {(row["source"], row["recording"]): row for row in facts.recordings}
    assert len(table) == 6
    assert table["letters", "2"] == {
        "source": "letters",
        "recording": "2",
        "train": 0,
        "validation": 0,
        "test": 52,
        "classes": 26,
    }
    assert facts.duplicates["pairs"] == []


def test_the_command_prints_tables_and_writes_json_and_a_sheet(path, tmp_path, capsys):
    words = [str(path), "--verify", "--json", str(tmp_path / "facts.json")]
    assert inspect.main([*words, "--contact-sheet", str(tmp_path / "new" / "sheet.png")]) == 0
    printed = capsys.readouterr().out
    assert "336 photos, 32 px" in printed
    assert "every digest checked" in printed
    assert "no photo is on two sides of a split" in printed
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["digest"] == Store.open(path).digest
    assert facts["classes"]["nothing"] == {"train": 4, "validation": 4, "test": 0}
    assert Image.open(tmp_path / "new" / "sheet.png").format == "PNG"


def test_copies_across_a_random_split_are_shown(frames, tmp_path, capsys):
    photos = shutil.copytree(frames, tmp_path / "frames")
    for name in CLASSES:
        for frame in range(3, 12):
            shutil.copy(photos / name / f"{name}1.jpg", photos / name / f"{name}{frame}.jpg")
    prepare_with(
        [str(photos)],
        tmp_path / "store",
        image_size=32,
        split=SplitRule(kind="random"),
    )
    store = Store.open(tmp_path / "store")
    facts = inspect_store(store)
    sides = {}
    for digest, split in zip(store.digests, store.splits, strict=True):
        sides.setdefault(digest, Counter())[split] += 1
    crossing = sum(
        a[x] * a[y] for a in sides.values() for x, y in combinations(("train", "validation", "test"), 2)
    )
    assert facts.duplicates["exact_pairs"] == crossing > 0
    assert facts.duplicates["repeated_bytes"] == 29 * 9
    inspect.main([str(tmp_path / "store")])
    assert "test photos are also in train" in capsys.readouterr().out


def test_the_contact_sheet_shows_every_class_and_recording(path):
    store = Store.open(path)
    columns = choose_columns(store, 12)
    assert Counter((c.source, c.recording) for c in columns) == {
        **{("asl", str(n)): 2 for n in (1, 2, 3, 4)},
        ("letters", "1"): 2,
        ("letters", "2"): 2,
    }
    sheet = np.asarray(contact_sheet(store, columns=12)).astype(int)
    enlarged = Image.fromarray(store.gather(np.array([0]))[0]).resize((80, 80), Image.Resampling.LANCZOS)
    window = np.lib.stride_tricks.sliding_window_view(sheet[100:200, 100:200, 0], (80, 80))
    assert np.abs(window - np.asarray(enlarged).astype(int)[:, :, 0]).mean(axis=(2, 3)).min() == 0


def test_more_recordings_than_columns_are_thinned_evenly(path):
    columns = choose_columns(Store.open(path), 3)
    assert [(c.source, c.recording) for c in columns] == [("asl", "1"), ("asl", "3"), ("letters", "2")]


def test_mistakes(path, tmp_path):
    with pytest.raises(UserError, match="is no store"):
        inspect.main([str(tmp_path)])
    with pytest.raises(UserError, match="cannot be written"):
        inspect.main([str(path), "--json", "/proc/nowhere/facts.json"])
