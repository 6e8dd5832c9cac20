"""The store's reader against NumPy and csv; and what it says of stores that are damaged or foreign."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.prepare.chunks import PixelBank
from horovod_asl.prepare.writer import Content, IndexRow, Problem, write_store
from horovod_asl.store import store as store_module
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import SHARD_PHOTOS
from horovod_asl.store.work_folder import work_folder

PHOTOS = SHARD_PHOTOS + 700
SIZE = 8


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (PHOTOS, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory, pictures):
    """A store of two shards, written by the writer alone."""
    path = tmp_path_factory.mktemp("stores") / "written"
    digests = [hashlib.sha256(picture).hexdigest() for picture in pictures]
    bank = PixelBank()
    bank.add(digests, np.arange(PHOTOS, dtype=np.uint64), [pictures], PHOTOS)
    splits = ("train", "validation", "test")
    rows = tuple(
        IndexRow("s", f"ä, {n}.jpg", digest, CLASSES[n % 29], f"r{n % 3}", splits[n % 3], f"{n:016x}")
        for n, digest in enumerate(digests)
    )
    sources = [{"name": "s", "photos": PHOTOS, "group_by": "auto", "recordings": {}}]
    content = Content(rows, (Problem("s", "x", "truncated"),), SIZE, sources, {})
    with work_folder(path, log=print) as work:
        write_store(work, content, bank)
    return path


def test_every_file_is_what_numpy_and_csv_read(path, pictures):
    shards = [np.load(path / f"images-0000{i}.npy") for i in (0, 1)]
    assert [len(shard) for shard in shards] == [SHARD_PHOTOS, 700]
    assert np.array_equal(np.concatenate(shards), pictures)
    labels = np.load(path / "labels.npy")
    assert (labels.dtype, labels.tolist()) == (np.int64, [n % 29 for n in range(PHOTOS)])
    with (path / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["source", "path", "sha256", "class", "recording", "split", "phash"]
    assert rows[5]["path"] == "ä, 5.jpg"
    manifest = json.loads((path / "store.json").read_text())
    assert (
        manifest["files"]["labels.npy"]["sha256"]
        == hashlib.file_digest((path / "labels.npy").open("rb"), "sha256").hexdigest()
    )


def test_the_reader_gives_what_was_written(path, pictures):
    store = Store.open(path, verify=True)
    assert (len(store), store.image_size, store.classes) == (PHOTOS, SIZE, CLASSES)
    assert (store.path, store.source_names) == (path, ("s",))
    assert store.labels.dtype == np.int64
    assert store.paths[5] == "ä, 5.jpg"
    assert store.recordings[:4].tolist() == ["r0", "r1", "r2", "r0"]
    assert store.splits[:3].tolist() == ["train", "validation", "test"]
    assert set(store.sources) == {"s"}
    assert store.hashes.tolist() == list(range(PHOTOS))
    assert store.problems() == [{"source": "s", "path": "x", "reason": "truncated"}]
    assert np.array_equal(store.rows("test"), np.arange(2, PHOTOS, 3))
    assert np.array_equal(store.rows("all"), np.arange(PHOTOS))
    with pytest.raises(UserError, match="'val' is no split: use one of train, validation, test or all"):
        store.rows("val")


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(PHOTOS)[::-1],
        np.random.default_rng(1).integers(0, PHOTOS, 200),
        np.array([SHARD_PHOTOS - 1, SHARD_PHOTOS, 0, 0]),
        np.zeros(0, np.int64),
        np.array([3], np.int32),
    ],
)
def test_gather_takes_rows_in_any_order(path, pictures, rows):
    gathered = Store.open(path).gather(rows)
    assert (gathered.dtype, gathered.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(gathered, pictures[rows])


def test_gather_copies_and_refuses_rows_outside(path, pictures):
    store = Store.open(path)
    store.gather(np.array([0]))[:] = 0
    assert np.array_equal(store.gather(np.array([0]))[0], pictures[0])
    for row in (-1, PHOTOS):
        with pytest.raises(IndexError, match=str(PHOTOS)):
            store.gather(np.array([0, row]))


def test_exists(path, tmp_path):
    assert Store.exists(path)
    assert Store.exists(str(path))
    assert not Store.exists(tmp_path)
    assert not Store.exists(tmp_path / "nowhere")


def test_a_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="horovod-asl prepare SOURCE"):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "nowhere.partial").mkdir()
    with pytest.raises(UserError, match="an unfinished prepare is beside it"):
        Store.open(tmp_path / "nowhere")


@pytest.fixture
def damaged(path, tmp_path):
    return shutil.copytree(path, tmp_path / "damaged")


def flip_byte(file, place=-1):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["images-00000.npy", "images-00001.npy", "labels.npy", "index.csv", "problems.csv"]
)
def test_damage_is_found_by_size_at_once_and_by_digest_on_request(damaged, name):
    flip_byte(damaged / name)
    Store.open(damaged)
    with pytest.raises(UserError, match=f"{name} does not match its digest"):
        Store.open(damaged, verify=True)
    (damaged / name).write_bytes((damaged / name).read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{name} has .* bytes instead of"):
        Store.open(damaged)
    (damaged / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        Store.open(damaged)


def test_a_manifest_that_was_changed_is_told(damaged):
    manifest = json.loads((damaged / "store.json").read_text())
    (damaged / "store.json").write_text(json.dumps({**manifest, "image_size": 9}))
    with pytest.raises(UserError, match="changed by hand"):
        Store.open(damaged, verify=True)
    older = {key: value for key, value in manifest.items() if key != "hands"}
    (damaged / "store.json").write_text(json.dumps({**older, "schema": 1}))
    with pytest.raises(UserError, match="schema 1, this version reads 4"):
        Store.open(damaged)
    (damaged / "store.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(UserError, match="schema 99, this version reads 4"):
        Store.open(damaged)
    for text in ("{", "[]", "{}"):
        (damaged / "store.json").write_text(text)
        with pytest.raises(UserError, match="damaged"):
            Store.open(damaged)


def test_the_digest_says_what_is_in_the_store_not_where_it_is(path, damaged):
    assert Store.open(path).digest == Store.open(damaged).digest
    assert store_module.whole_digest(Store.open(path).manifest) == Store.open(path).digest


def test_a_store_needs_no_torch():
    code = "import sys, horovod_asl.prepare.pipeline, horovod_asl.inference.folder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
