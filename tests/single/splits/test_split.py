"""A recording is never on two sides, subsets are balanced, and the same photo on two sides is found."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from horovod_asl.errors import UserError
from horovod_asl.photos.decode import decode_photo
from horovod_asl.photos.hashing import phash
from horovod_asl.splits.leaks import find_leaks
from horovod_asl.splits.split import SPLITS, SplitRule, balanced_subset, random_split, split_recordings
from tests.conftest import draw_photo

NAMES = st.lists(st.sampled_from([f"hand{n}" for n in range(1, 13)]), min_size=1, max_size=8)
SOURCES = st.dictionaries(st.sampled_from(["asl", "massey", "phone"]), NAMES, min_size=1)


def sides(*names: str) -> dict[str, str]:
    """The default split of one source with these recordings."""
    return {name: side for (_, name), side in split_recordings({"asl": names}).items()}


def test_the_default_holds_out_the_last_recordings_of_each_source():
    assert sides("1") == {"1": "train"}
    assert sides("1", "2") == {"1": "train", "2": "test"}
    assert sides("1", "2", "3") == {"1": "train", "2": "train", "3": "test"}
    assert sides("1", "2", "3", "4") == {"1": "train", "2": "train", "3": "validation", "4": "test"}
    assert sides("hand10", "hand9", "hand9")["hand10"] == "test"


def test_recordings_can_be_named():
    recordings = {"asl": ["1", "2", "3"], "massey": ["1", "2"]}
    rule = split_recordings(recordings, validation=["asl/2"], test=["1"])
    assert rule == {
        ("asl", "1"): "test",
        ("asl", "2"): "validation",
        ("asl", "3"): "train",
        ("massey", "1"): "test",
        ("massey", "2"): "train",
    }


def test_a_source_can_be_held_out():
    recordings = {"asl": ["1", "2", "3"], "massey": ["hand1", "hand2"]}
    rule = split_recordings(recordings, test_source="massey")
    assert {key for key, side in rule.items() if side == "test"} == {("massey", "hand1"), ("massey", "hand2")}
    assert rule["asl", "3"] == "validation"
    both = split_recordings(recordings, test_source="massey", test=["asl/2"])
    assert [both["asl", name] for name in "123"] == ["train", "test", "train"]


def test_names_that_mean_nothing_are_refused():
    recordings = {"asl": ["1", "2"]}
    with pytest.raises(UserError, match=r"--test 7: no such recording; there are asl/1, asl/2"):
        split_recordings(recordings, test=["7"])
    with pytest.raises(UserError, match="named by both"):
        split_recordings(recordings, validation=["1"], test=["asl/1"])
    with pytest.raises(UserError, match="--test-source x: no such source; there are asl"):
        split_recordings(recordings, test_source="x")
    with pytest.raises(UserError, match="no recording is left for training"):
        split_recordings(recordings, test=["1", "2"])
    with pytest.raises(UserError, match="no recording is left for training"):
        split_recordings(recordings, test_source="asl")


@given(SOURCES)
def test_every_recording_is_on_one_side_and_something_is_left_to_train_on(recordings):
    rule = split_recordings(recordings)
    assert set(rule) == {(source, name) for source, names in recordings.items() for name in names}
    assert set(rule.values()) <= set(SPLITS)
    for source, names in recordings.items():
        own = Counter(side for (owner, _), side in rule.items() if owner == source)
        assert own["train"] >= 1
        assert own["test"] == (len(set(names)) > 1)
        assert own["validation"] == (len(set(names)) > 3)


@given(SOURCES, st.data())
def test_a_held_out_source_is_the_whole_test_split(recordings, data):
    held = data.draw(st.sampled_from(sorted(recordings)))
    if len(recordings) == 1:
        return
    rule = split_recordings(recordings, test_source=held)
    assert {source for (source, _), side in rule.items() if side == "test"} == {held}


PHOTOS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), min_size=1, max_size=120)


@settings(max_examples=60)
@given(PHOTOS, st.integers(1, 150), st.integers(0, 3))
def test_a_subset_is_balanced_over_classes_and_their_recordings(photos, count, seed):
    labels = np.array([label for label, _ in photos])
    recordings = [("asl", recording) for _, recording in photos]
    rows = balanced_subset(labels, recordings, count, seed)
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, balanced_subset(labels, recordings, count, seed))
    have, drawn = Counter(labels.tolist()), Counter(labels[rows].tolist())
    quota = count // len(have)
    assert len(rows) <= count
    for label in have:
        assert min(have[label], quota) <= drawn[label] <= min(have[label], quota + 1)
        inside = Counter(recordings[row] for row in rows if labels[row] == label)
        there = Counter(key for key, own in zip(recordings, labels, strict=True) if own == label)
        not_exhausted = [inside[key] for key in there if inside[key] < there[key]]
        assert not not_exhausted or max(inside.values(), default=0) - min(not_exhausted) <= 1


def test_a_subset_of_a_balanced_set_has_exactly_the_size_asked_for():
    labels = np.repeat(np.arange(29), 100)
    recordings = [("asl", str(row % 4)) for row in range(2900)]
    rows = balanced_subset(labels, recordings, 1000, seed=0)
    assert len(rows) == 1000
    assert set(np.bincount(labels[rows]).tolist()) == {34, 35}
    assert not np.array_equal(rows, balanced_subset(labels, recordings, 1000, seed=1))


def test_a_random_split_has_its_shares_in_every_class():
    labels = np.repeat(np.arange(29), 40)
    drawn = random_split(labels, 0.1, seed=0)
    for label in range(29):
        assert Counter(drawn[labels == label].tolist()) == {"train": 32, "validation": 4, "test": 4}
    with pytest.raises(UserError, match=r"between 0 and 0\.5"):
        SplitRule(kind="random", fraction=0.5)


def leaks_between(train: list[Image.Image], test: list[Image.Image]) -> list:
    """Pairs (row of train, row of test) that are found, photos by their bytes as PNG."""
    data = []
    for picture in [*train, *test]:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG" if picture.info.get("again") else "PNG", quality=60)
        data.append(buffer.getvalue())
    pixels = np.stack([decode_photo(one, 64) for one in data])
    found = find_leaks(
        np.array(["train"] * len(train) + ["test"] * len(test), dtype=object),
        np.array(data, dtype=object),
        phash(pixels),
        lambda rows: pixels[rows],
    )
    return [
        (int(a), int(b) - len(train), bool(e))
        for a, b, e in zip(found.other, found.held, found.exact, strict=True)
    ]


def test_different_photos_do_not_leak():
    photos = [draw_photo(seed, (200, 200)) for seed in range(30)]
    assert leaks_between(photos[:15], photos[15:]) == []


def test_the_same_bytes_leak():
    photos = [draw_photo(seed) for seed in range(4)]
    assert leaks_between(photos[:2], [photos[1], photos[3]]) == [(1, 0, True)]


def test_blocks_of_any_size_find_the_same_pairs(monkeypatch):
    photos = [draw_photo(seed, (64, 64)) for seed in range(12)]
    again = [photo.copy() for photo in photos[:7]]
    for photo in again:
        photo.info["again"] = True
    whole = leaks_between(photos, again)
    assert whole == [(row, row, False) for row in range(7)]
    monkeypatch.setattr("horovod_asl.splits.leaks._PAIRS_AT_ONCE", 30)
    assert leaks_between(photos, again) == whole


def test_a_photo_encoded_again_or_resized_leaks():
    photos = [draw_photo(seed, (200, 200)) for seed in range(4)]
    again, smaller = photos[2].copy(), photos[3].resize((150, 150))
    again.info["again"] = True
    assert leaks_between(photos, [again, draw_photo(9), smaller]) == [(2, 0, False), (3, 2, False)]


def test_real_recordings_do_not_leak_and_their_copies_do(real_data):
    files = (real_data / "asl_alphabet_train/asl_alphabet_train/A").glob("*.jpg")
    pictures = {int(file.stem.removeprefix("A")): Image.open(file) for file in sorted(files)}
    train = [picture for frame, picture in pictures.items() if frame <= 2000][::8]
    test = [picture for frame, picture in pictures.items() if frame > 2000][::4]
    assert leaks_between(train, test) == []
    copy = train[7].convert("RGB").resize((160, 160))
    copy.info["again"] = True
    assert (7, 1, False) in leaks_between(train, [test[0], copy])
