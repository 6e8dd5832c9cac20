"""Checkpoints are whole or absent, under SIGKILL and under damage; a damaged newest falls back, loudly."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_asl.errors import UserError
from horovod_asl.runs import checkpoint
from horovod_asl.runs.checkpoint import MANIFEST, STATE, WEIGHTS
from tests.launching import ROOT

Weights = dict[str, torch.Tensor]


def make_weights(seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(3, 4, generator=generator),
        "a.bias": torch.randn(3, generator=generator),
        "norm.num_batches_tracked": torch.tensor(seed + 7),
        "half": torch.randn(5, generator=generator).bfloat16(),
    }


def make_run(parent: Path, count: int = 3) -> list[Path]:
    """Checkpoints of steps 1 … `count`, oldest first."""
    folders = [parent / f"step-{step:09d}" for step in range(1, count + 1)]
    for step, folder in enumerate(folders, start=1):
        checkpoint.save(folder, weights=make_weights(step), state={"step": step}, facts={"step": step})
    return folders


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    state = {"step": 3, "sums": [0.1, 2.0], "tensors": {"m": torch.arange(3)}, "none": None}
    folder = tmp_path / "runs" / "step-1"
    checkpoint.save(folder, weights=make_weights(), state=state, facts={"step": 3, "score": 0.5})
    manifest = checkpoint.read_manifest(folder)
    assert (manifest["step"], manifest["score"]) == (3, 0.5)
    assert same(checkpoint.load_weights(folder), make_weights())
    loaded = checkpoint.load_state(folder)
    assert torch.equal(loaded.pop("tensors")["m"], torch.arange(3))
    assert loaded == {"step": 3, "sums": [0.1, 2.0], "none": None}
    assert [path.name for path in folder.parent.iterdir()] == ["step-1"]


def test_state_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "step-1", weights=make_weights(), state={"path": Path("x")}, facts={})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load_state(tmp_path / "step-1")


def test_saving_again_replaces(tmp_path: Path) -> None:
    for seed in (1, 2):
        checkpoint.save(tmp_path / "best", weights=make_weights(seed), facts={"seed": seed})
    assert checkpoint.read_manifest(tmp_path / "best")["seed"] == 2
    assert same(checkpoint.load_weights(tmp_path / "best"), make_weights(2))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_tensors_that_lie_oddly_in_memory_are_saved_by_value(tmp_path: Path) -> None:
    turned = torch.arange(6.0).view(2, 3).t()
    checkpoint.save(tmp_path / "x", weights={"turned": turned, "same": turned}, facts={})
    assert torch.equal(checkpoint.load_weights(tmp_path / "x")["turned"], turned)


# -- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [WEIGHTS, STATE, MANIFEST])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=25)
def test_one_flipped_bit_anywhere_is_seen(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, bit: int
) -> None:
    (folder,) = make_run(tmp_path_factory.mktemp("run"), 1)
    before = checkpoint.read_manifest(folder)
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    if name == MANIFEST:  # a flip in its white space means the same, and so may be read
        try:
            assert checkpoint.read_manifest(folder) == before
        except UserError as error:
            assert "damaged" in str(error)  # noqa: PT017 – either outcome is right
    else:
        with pytest.raises(UserError, match=f"damaged: {name} does not match its digest"):
            checkpoint.read_manifest(folder)


@pytest.mark.parametrize("name", [WEIGHTS, STATE, MANIFEST])
@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
def test_a_damaged_newest_falls_back_to_the_one_before_with_a_warning(
    tmp_path: Path, name: str, harm: str
) -> None:
    *_, before, newest = make_run(tmp_path)
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    if harm == "gone":
        (newest / name).unlink()
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged.*trying the one before"):
        found = checkpoint.newest_sound(tmp_path)
    assert found is not None
    assert (found[0], found[1]["step"]) == (before, 2)


@pytest.mark.parametrize("text", ["null", "[]", "5", '{"sha256": null}', '{"sha256": {"../x": "0"}}', "{}"])
def test_a_manifest_that_is_something_else_is_damage(tmp_path: Path, text: str) -> None:
    (folder,) = make_run(tmp_path, 1)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read_manifest(folder)


def test_where_all_are_damaged_the_user_is_told(tmp_path: Path) -> None:
    for folder in make_run(tmp_path, 2):
        (folder / WEIGHTS).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(UserError, match=r"every checkpoint in .* is damaged"),
    ):
        checkpoint.newest_sound(tmp_path)


def test_sound_checkpoints_are_found_in_silence_and_none_is_none(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.newest_sound(tmp_path) is None
        assert checkpoint.newest_sound(tmp_path / "nowhere") is None
        newest = make_run(tmp_path)[-1]
        found = checkpoint.newest_sound(tmp_path)
    assert found is not None
    assert found[0] == newest


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    folders = make_run(tmp_path, 5)
    checkpoint.keep_newest(tmp_path, 2)
    assert sorted(tmp_path.iterdir()) == folders[-2:]


# -- SIGKILL --------------------------------------------------------------------------------------------------

# torch is imported once; each attempt is a fork of its own, killed after the time on the command line.
WRITER = """
import os, sys, time
from itertools import count
from pathlib import Path
import torch
from horovod_asl.runs import checkpoint
torch.set_num_threads(1)
for attempt, seconds in enumerate(map(float, sys.argv[2:])):
    parent = Path(sys.argv[1]) / str(attempt)
    parent.mkdir()
    reader, announce = os.pipe()
    writer = os.fork()
    if writer == 0:
        for step in count(1):
            weights = {"w": torch.full((50_000,), float(step))}
            checkpoint.save(parent / f"step-{step:09d}", weights=weights, state={"step": step}, facts={"step": step})
            checkpoint.save(parent / "best", weights=weights, facts={"step": step})
            checkpoint.keep_newest(parent, 2)
            os.write(announce, b"%d " % step)
    os.close(announce)
    announced = os.read(reader, 100)
    time.sleep(seconds)
    os.kill(writer, 9)
    os.waitpid(writer, 0)
    while more := os.read(reader, 10_000):
        announced += more
    os.close(reader)
    print(announced.split()[-1].decode(), flush=True)
"""


def test_killed_at_any_moment_the_newest_checkpoint_is_whole_and_none_older_than_was_announced(
    tmp_path: Path,
) -> None:
    chance = random.Random(4)
    moments = [f"{chance.uniform(0.0, 0.1):.4f}" for _ in range(25)]
    finished = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path), *moments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    announced = [int(line) for line in finished.stdout.split()]
    assert len(announced) == len(moments)
    for attempt, step in enumerate(announced):
        _require_whole(tmp_path / str(attempt), step)


def _require_whole(parent: Path, announced: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a folder whose removal was cut short is passed over with a warning
        found = checkpoint.newest_sound(parent)
    assert found is not None
    folder, manifest = found
    assert manifest["step"] >= announced
    assert manifest["step"] == checkpoint.load_state(folder)["step"]
    assert torch.equal(checkpoint.load_weights(folder)["w"], torch.full((50_000,), float(manifest["step"])))
    if (parent / "best").exists():
        checkpoint.read_manifest(parent / "best")


# -- the digest of weights ------------------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_order_or_memory_layout() -> None:
    weights = make_weights()
    turned = {name: weights[name] for name in reversed(weights)}
    turned["a.weight"] = weights["a.weight"].t().contiguous().t()
    assert checkpoint.weights_digest(turned) == checkpoint.weights_digest(weights)


@given(name=st.sampled_from(sorted(make_weights())), place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_the_digest_changes_with_any_bit(name: str, place: int, bit: int) -> None:
    weights = make_weights()
    array = weights[name].reshape(-1).view(torch.uint8)
    array[place % len(array)] ^= 1 << bit
    assert checkpoint.weights_digest(weights) != checkpoint.weights_digest(make_weights())


def test_the_digest_changes_with_names_shapes_and_types() -> None:
    tensor = torch.zeros(2, 3)
    others = [{"b": tensor}, {"a": tensor.view(3, 2)}, {"a": tensor.int()}, {"a": tensor, "b": tensor}, {}]
    digests = [checkpoint.weights_digest(weights) for weights in ({"a": tensor}, *others)]
    assert len(set(digests)) == len(digests)


def test_the_manifest_can_be_read_by_a_person(tmp_path: Path) -> None:
    (folder,) = make_run(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["step"] == 1
    assert set(manifest["sha256"]) == {WEIGHTS, STATE}
