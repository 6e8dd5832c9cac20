"""Degraded copies of photos: the same on every machine, beside their photo, for training and for nothing else."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_asl.commands import inspect
from horovod_asl.commands import prepare as prepare_command
from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import DataConfig
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.photos.decode import MAX_MEGAPIXELS, decode_photo
from horovod_asl.photos.origins import FileOrigin
from horovod_asl.prepare.degrade import DegradedOrigin, _before_a_background, degraded_copy
from horovod_asl.prepare.options import Tolerance
from horovod_asl.splits.split import SPLITS, SplitRule
from horovod_asl.store.folds import LEFT_OUT, plan_folds, recordings_of, split_codes, with_fold
from horovod_asl.store.store import Store
from horovod_asl.store.store_files import is_copy, original_of
from horovod_asl.training.datasets import training_rows
from tests.preparing import prepare_with

COPIES = 2


def prepare(sources: list[Path], store: Path, **options: object) -> Store:
    settings = {"image_size": 32, "degraded_copies": COPIES, **options}
    prepare_with(sources, store, **settings)  # type: ignore[arg-type]
    return Store.open(store)


@pytest.fixture(scope="module")
def store(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare([frames], tmp_path_factory.mktemp("stores") / "copies")


def test_a_copy_has_the_same_bytes_each_time_and_other_bytes_than_the_next(frames: Path) -> None:
    origin = FileOrigin(str(frames / "A" / "A1.jpg"))
    first = DegradedOrigin(origin, 1, MAX_MEGAPIXELS).read()
    assert (
        first == DegradedOrigin(origin, 1, MAX_MEGAPIXELS).read() != DegradedOrigin(origin, 2, MAX_MEGAPIXELS).read()
    )


def test_copies_are_small_and_from_bright_to_very_dark_and_noisy() -> None:
    grey = np.full((256, 256, 3), 160, np.uint8)
    copies = [Image.open(io.BytesIO(degraded_copy(grey, np.random.default_rng(seed)))) for seed in range(200)]
    light = np.array([np.asarray(copy).mean() for copy in copies]) / 160
    assert {copy.format for copy in copies} == {"JPEG"}
    assert all(110 <= copy.width == copy.height < 230 for copy in copies)
    assert light.min() < 0.15
    assert light.max() > 1.1
    assert 0.2 < (light < 0.5).mean() < 0.6
    assert np.median([np.asarray(copy, np.float32).std((0, 1)).mean() for copy in copies]) > 1


def test_a_hand_that_was_cut_out_gets_a_background_and_stays_itself() -> None:
    """A grey disc on black; a photo of a dark room keeps its dark corner."""
    y, x = np.mgrid[0:256, 0:256]
    disc = np.hypot(x - 128, y - 128) < 60
    cut_out = np.where(disc[..., None], 200, 0).astype(np.uint8).repeat(3, 2)
    backgrounds = [_before_a_background(cut_out, np.random.default_rng(seed)) for seed in range(20)]
    inner, outer = np.hypot(x - 128, y - 128) < 54, np.hypot(x - 128, y - 128) > 66
    assert all((picture[inner] == 200).all() for picture in backgrounds)
    assert np.median([picture[outer].mean() for picture in backgrounds]) > 60
    assert len({picture.tobytes() for picture in backgrounds}) == 20

    def corner(photo: np.ndarray, seed: int) -> float:
        copy = np.asarray(Image.open(io.BytesIO(degraded_copy(photo, np.random.default_rng(seed)))))
        return float(copy[:8, :8].mean())

    room = np.full((256, 256, 3), 120, np.uint8)
    room[:64, :64] = 0
    assert max(corner(room, seed) for seed in range(20)) < 40
    assert max(corner(cut_out, seed) for seed in range(20)) > 100


def test_each_photo_has_its_copies_behind_it_in_its_recording(store: Store) -> None:
    photos = np.flatnonzero(~store.copies)
    assert len(store) == (1 + COPIES) * len(photos)
    assert (store.originals == np.repeat(photos, 1 + COPIES)).all()
    for column in (store.sources, store.recordings, store.labels, store.splits):
        assert (column == column[store.originals]).all()
    assert store.paths[0] == "A/A1.jpg"
    assert store.paths[1] == "A/A1.jpg#poor1"
    assert len(set(store.digests)) == len(store)


def test_workers_of_another_process_make_the_same_copies(frames: Path, store: Store, tmp_path: Path) -> None:
    assert prepare([frames], tmp_path / "store", workers=2).digest == store.digest


def test_the_pixels_are_the_copys(frames: Path, store: Store) -> None:
    read = DegradedOrigin(FileOrigin(str(frames / store.paths[0])), 2, MAX_MEGAPIXELS).read()
    assert (store.gather(np.array([2]))[0] == decode_photo(read, 32)).all()


def test_a_photo_that_is_too_large_has_no_copies_either(new_frames, tmp_path: Path) -> None:
    photos = new_frames("large", classes=list(CLASSES), recordings=4, seed=6)
    Image.new("RGB", (1200, 1200)).save(photos / "A" / "A1.jpg")
    left = prepare([photos], tmp_path / "store", tolerance=Tolerance(max_megapixels=1.0))
    assert not any(path.startswith("A/A1.jpg") for path in left.paths)
    assert [row["path"] for row in left.problems()] == ["A/A1.jpg"]
    assert [is_copy(path) for path in left.paths] == left.copies.tolist()
    assert [original_of(path) for path in left.paths] == left.paths[left.originals].tolist()


def test_a_photo_known_from_a_looser_limit_is_refused_with_its_copies(new_frames, tmp_path: Path) -> None:
    photos = new_frames("large", classes=list(CLASSES), recordings=4, seed=6)
    Image.new("RGB", (1200, 1200)).save(photos / "A" / "A1.jpg")
    whole = prepare([photos], tmp_path / "store")
    assert "A/A1.jpg" in whole.paths
    left = prepare([photos], tmp_path / "store", tolerance=Tolerance(max_megapixels=1.0))
    assert not any(path.startswith("A/A1.jpg") for path in left.paths)
    assert [is_copy(path) for path in left.paths] == left.copies.tolist()
    assert len(left) == len(whole) - 1 - COPIES


def test_only_training_sees_them(store: Store) -> None:
    assert store.copies[store.training_rows].mean() == pytest.approx(COPIES / (1 + COPIES))
    for split in (*SPLITS, "all"):
        assert len(store.rows(split))
        assert not store.copies[store.rows(split)].any()


def test_a_subset_takes_photos_with_their_copies(store: Store) -> None:
    rows = training_rows(TrainConfig(data=DataConfig(samples=29)), store)
    assert len(rows) == 29 * (1 + COPIES)
    assert (~store.copies[rows]).sum() == 29
    assert set(store.originals[rows]) == set(rows[~store.copies[rows]])


def test_a_fold_leaves_a_copied_photo_out_with_its_copies(frames: Path, new_frames, tmp_path: Path) -> None:
    """The one photo of another source that shows the same as one that is held out, encoded anew."""
    other = new_frames("other", classes=list(CLASSES), recordings=1, seed=5)
    for file in (other / "A").iterdir():
        file.unlink()
    Image.open(frames / "A" / "A2501.jpg").save(other / "A" / "A9.jpg", quality=85)
    opened = prepare([frames, other], tmp_path / "store", tolerance=Tolerance(drop_duplicates=True))
    assert not (
        (opened.paths == "A/A9.jpg") & (opened.sources == "other")
    ).any()  # dropped, and so are its copies
    assert not any(path.startswith("A/A9") for path in opened.paths)

    whole = prepare([other, frames], tmp_path / "whole", split=SplitRule(test=("frames/3",)))
    fold = plan_folds(recordings_of(whole), by="source", only=["frames"])[0]
    codes = split_codes(whole, fold)
    assert [str(path) for path in whole.paths[codes == LEFT_OUT]] == [
        "A/A9.jpg",
        "A/A9.jpg#poor1",
        "A/A9.jpg#poor2",
    ]
    split = with_fold(whole, fold, codes)
    assert not whole.copies[split.rows("test")].any()
    assert not set(split.training_rows) & set(split.rows("test"))


def test_inspect_counts_photos_and_tells_of_copies(store: Store, tmp_path: Path, capsys) -> None:
    assert inspect.main([str(store.path), "--json", str(tmp_path / "facts.json")]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    photos = int((~store.copies).sum())
    assert (facts["photos"], facts["copies"]) == (photos, COPIES * photos)
    assert sum(facts["splits"].values()) == photos
    assert sum(row["train"] + row["validation"] + row["test"] for row in facts["recordings"]) == photos
    assert f"{photos} photos and {COPIES * photos} degraded copies for training" in capsys.readouterr().out


def test_other_copies_make_another_store(frames: Path, tmp_path: Path, store: Store) -> None:
    lines: list[str] = []
    copied = shutil.copytree(store.path, tmp_path / "store")
    without = prepare([frames], copied, degraded_copies=0, log=lines.append)
    assert not without.copies.any()
    assert any("copies 2 → 0" in line for line in lines)
    with pytest.raises(UserError, match="--degraded-copies"):
        prepare([frames], copied, degraded_copies=-1)


def test_the_older_name_of_the_option_is_taken_and_its_store_is_up_to_date(
    frames: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stores keep the older word in their manifest and in paths: another would change their digests."""
    assert store.manifest["poor_copies"] == COPIES
    copied = shutil.copytree(store.path, tmp_path / "store")
    words = [str(frames), str(copied), "--image-size", "32", "--no-hands", "--workers", "1"]
    assert prepare_command.main([*words, "--poor-copies", str(COPIES)]) == 0
    assert f"{copied} is up to date" in capsys.readouterr().out
