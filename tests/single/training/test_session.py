"""The ends of a run: what is left of it, and what it proposes to do next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from horovod_asl.commands import evaluate, predict
from horovod_asl.commands.export import main as export
from horovod_asl.commands.train import _config
from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import AugmentConfig, DataConfig, ExecutionConfig, ModelConfig
from horovod_asl.distributed.base import Serial
from horovod_asl.errors import UserError
from horovod_asl.inference.classifier import Classifier
from horovod_asl.inference.onnx_export import metadata
from horovod_asl.labels import CLASS_INDEX
from horovod_asl.models.registry import build_model
from horovod_asl.runs.bundled_model import put_weights
from horovod_asl.runs.opening import already_finished
from horovod_asl.runs.preemption import Outcome, StopSignal
from horovod_asl.runs.run_folder import RunFolder
from horovod_asl.store.folds import LEFT_OUT
from horovod_asl.store.store import Store
from horovod_asl.training.announce import next_step
from horovod_asl.training.datasets import times_shown
from horovod_asl.training.session import run_training
from tests.single.prepare.test_prepare import prepare


def test_the_next_commands_name_this_run_and_a_program_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert "horovod-asl evaluate 'runs/my run' FOLDER" in next_step(Path("runs/my run"), "s", is_sample=False)
    sample = next_step(Path("runs/r"), "/cache/sample", is_sample=True)
    assert "horovod-asl evaluate runs/r /cache/sample\n" in sample
    assert "prepare path/to/asl_alphabet_train" in sample
    monkeypatch.delenv("VIRTUAL_ENV")  # as after `make train`, whose scripts alone know of .venv
    monkeypatch.chdir(tmp_path)
    program = next_step(Path("runs/r"), "s", is_sample=False).split()[1]
    assert Path(program).is_file()


def _photos_of(sources: list[str], labels: list[int], found: list[bool]) -> Any:
    """What `times_shown` asks of a store."""
    return SimpleNamespace(
        sources=np.array(sources), labels=np.array(labels), hands={"found": np.array(found)}
    )


def test_small_sources_are_shown_oftener() -> None:
    store = _photos_of(["a"] * 90 + ["b"] * 10, [0] * 100, [True] * 100)
    rows = np.arange(100)
    assert times_shown(store, rows, DataConfig()) is None
    for power, times in ((1.0, 9), (0.5, 3)):
        shown = times_shown(store, rows, DataConfig(balance=power))
        assert shown is not None
        assert shown.tolist() == [1] * 90 + [times] * 10
    part = times_shown(store, rows[85:], DataConfig(balance=1.0))  # of the photos of training alone
    assert part is not None
    assert part.tolist() == [2] * 5 + [1] * 10


def test_nothing_with_hands_in_it_is_shown_less() -> None:
    nothing = CLASS_INDEX["nothing"]
    store = _photos_of(["a"] * 40, [nothing] * 20 + [0] * 20, [True] * 10 + [False] * 10 + [True] * 20)
    shown = times_shown(store, np.arange(40), DataConfig(hands_in_nothing=0.3))
    assert shown is not None
    assert shown[:10].sum() == 3
    assert set(shown[:10].tolist()) == {0, 1}
    assert shown[10:].tolist() == [1] * 30
    none = times_shown(store, np.arange(40), DataConfig(hands_in_nothing=0.0))
    assert none is not None
    assert none.tolist() == [0] * 10 + [1] * 30


def test_all_splits_trains_on_every_photo_and_scores_nothing_else(small_store: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=DataConfig(all_splits=True), run_folder=tmp_path / "run", epochs=1, batch_size_per_replica=64
    )
    run_training(config, small_store, Serial(torch.device("cpu")))
    folder = RunFolder(tmp_path / "run")
    assert folder.facts()["validated_on"] == []
    assert len(folder.facts()["trained_on"]) == 4
    result = json.loads((folder.path / "result.json").read_text())
    assert list(result["scores"]) == ["train"]
    assert result["scores"]["train"]["n"] == 29 * 4 * 2
    assert result["temperature"] is None


def test_a_run_that_begins_with_another_has_seen_whoever_that_one_saw(
    small_store: Path, tmp_path: Path
) -> None:
    """Where it begins, and where it is resumed, which may be on a machine without the earlier run."""
    store, serial = Store.open(small_store), Serial(torch.device("cpu"))
    recordings = np.unique(store.recordings)
    codes = np.full(len(store), LEFT_OUT, np.uint8)
    common = TrainConfig(epochs=2, batch_size_per_replica=64)

    def only(recording: str) -> Store:
        """The store with one recording, in training."""
        return store.with_splits(np.where(store.recordings == recording, 0, codes), {"kind": "test"})

    first, second = tmp_path / "first", tmp_path / "second"
    run_training(replace(common, run_folder=first), only(recordings[0]), serial)
    begins = replace(common, run_folder=second, model=ModelConfig(pretrained=str(first)))
    run_training(replace(begins, stop_after_steps=1), only(recordings[1]), serial)
    seen = np.isin(store.recordings, recordings[:2])

    def told() -> tuple[list[str], list[bool] | None]:
        return RunFolder(second).facts()["trained_on"], RunFolder(second).were_in_training(store.digests)

    expected = sorted({f"{store.sources[0]}/{name}" for name in recordings[:2]}), seen.tolist()
    assert told() == expected
    first.rename(tmp_path / "moved")
    run_training(replace(begins, run_folder=None, resume=second), only(recordings[1]), serial)
    assert told() == expected
    assert RunFolder(second).facts()["initialized_from"]["run"] == str(first)


@pytest.fixture(scope="module")
def first(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on the store's training split: the recordings r0 and r1."""
    path = tmp_path_factory.mktemp("first") / "first"
    run_training(replace(STEP, run_folder=path), small_store, SERIAL)
    return path


SERIAL = Serial(torch.device("cpu"))
STEP = TrainConfig(epochs=1, batch_size_per_replica=64, execution=ExecutionConfig(threads_per_rank=1))


def beginning_with(weights: Path, run: Path, store: Path | Store) -> RunFolder:
    begins = replace(STEP, run_folder=run, model=ModelConfig(pretrained=str(weights)))
    run_training(begins, store, SERIAL)
    return RunFolder(run)


@pytest.mark.parametrize("kept", ["best", "checkpoints"])
def test_a_file_of_weights_in_a_run_folder_is_that_run_s(
    kept: str, first: Path, small_store: Path, tmp_path: Path
) -> None:
    store = Store.open(small_store)
    (tmp_path / "link").symlink_to(next((first / kept).iterdir()))
    file = tmp_path / "link" / "weights.safetensors"
    # r2 alone in training; r3, which the first run did not see, is the test
    codes = np.array([{"r2": 0, "r3": 2}.get(name, LEFT_OUT) for name in store.recordings], np.uint8)
    second = beginning_with(file, tmp_path / "second", store.with_splits(codes, {"kind": "test"}))
    assert second.facts()["trained_on"] == ["synthetic/r0", "synthetic/r1", "synthetic/r2"]
    assert second.were_in_training(store.digests) == (store.recordings != "r3").tolist()
    assert (second.facts()["initialized_from"]["run"], second.unknown_weights()) == (str(first.resolve()), None)
    codes = np.array([{"r2": 0, "r1": 2}.get(name, LEFT_OUT) for name in store.recordings], np.uint8)
    with pytest.raises(UserError, match="58 photos of this run's test split were in its training"):
        beginning_with(file, tmp_path / "third", store.with_splits(codes, {"kind": "test"}))


def test_of_a_run_that_began_with_a_foreign_file_it_is_not_known_who_was_in_training(
    first: Path, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor of a run that began with it, or was stopped and resumed; the end of train, evaluate and the page say so."""
    foreign, second = tmp_path / "theirs.safetensors", tmp_path / "second"
    shutil.copy(next((first / "best").iterdir()) / "weights.safetensors", foreign)
    begins = replace(STEP, model=ModelConfig(pretrained=str(foreign)))
    run_training(replace(begins, run_folder=second, stop_after_steps=1), small_store, SERIAL)
    foreign.unlink()
    run_training(replace(begins, resume=second), small_store, SERIAL)
    third = beginning_with(second, tmp_path / "third", small_store)
    sentence = f"these weights began from {foreign}, and who was in its training is not known"
    assert capsys.readouterr().out.count(f"{sentence}: people who are held out may have been in it") == 2
    assert sentence in (third.path / "report.html").read_text()
    for run in (second, third.path):
        assert RunFolder(run).unknown_weights() == str(foreign)
        for split, known in (("test", 0), ("all", 116)):
            words = [str(run), str(small_store), "--split", split, "--json", str(tmp_path / "scores.json")]
            assert evaluate.main([*words, "--backend", "serial"]) == 0
            scores = json.loads((tmp_path / "scores.json").read_text())
            assert (scores["photos_in_training"], scores["photos_known_in_training"]) == (None, known)
            assert scores["in_training_unknown_because"] == sentence
            said = capsys.readouterr().out
            assert f"is unknown: {sentence}" in said
            assert "0 of 58 photos were in training" not in said
            assert ("116 of 232 are known to have been" in said) is (split == "all")


@pytest.mark.parametrize(("steps", "epoch", "weights"), [(5, 2, "best epoch so far"), (1, 0, "newest checkpoint")])
def test_what_reads_a_run_that_is_not_finished_says_so(
    steps: int,
    epoch: int,
    weights: str,
    small_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)  # active, so that the command needs no path
    run, scores = tmp_path / "my run", tmp_path / "scores.json"
    config = replace(STEP, epochs=3)  # of two steps each
    stopping = replace(config, run_folder=run, stop_after_steps=steps)
    assert run_training(stopping, small_store, SERIAL) is Outcome.STOPPED
    note = (
        f"note: {run} is not finished (epoch {epoch} of 3; resume it with `horovod-asl train --resume '{run}'`): "
        f"these are the weights of its {weights}\n"
    )
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(photo)

    def evaluated() -> tuple[str, bool]:
        capsys.readouterr()
        assert evaluate.main([str(run), str(small_store), "--json", str(scores), "--backend", "serial"]) == 0
        return capsys.readouterr().out, json.loads(scores.read_text())["finished"]

    said, finished = evaluated()
    assert (note in said, finished) == (True, False)
    assert predict.main([str(run), str(photo), "--json"]) == 0
    answer, told = capsys.readouterr()
    told_as_json = json.loads(answer)
    assert (told, told_as_json["photo"], told_as_json["finished"]) == (note, str(photo), False)
    assert metadata(Classifier.from_run(run))["finished"] == "false"
    bundle = tmp_path / "box"
    bundle.mkdir()
    put_weights(bundle, RunFolder(run), 1.0)
    boxed = Classifier.from_run(bundle)
    assert boxed.unfinished == f"{bundle} was made of a run that was not finished (epoch {epoch} of 3)"

    assert run_training(replace(config, resume=run), small_store, SERIAL) is Outcome.FINISHED
    said, finished = evaluated()
    assert ("not finished" in said, finished) == (False, True)
    assert predict.main([str(run), str(photo), "--json"]) == 0
    answer, told = capsys.readouterr()
    assert (told, "finished" in json.loads(answer)) == ("", False)
    assert metadata(Classifier.from_run(run))["finished"] == "true"


def test_others_may_read_what_the_umask_lets_them(small_store: Path, frames: Path, tmp_path: Path) -> None:
    """A run, a store, an export and features, under a umask that no fixed mode goes with."""
    before, file_mode, folder_mode = os.umask(0o007), 0o660, 0o770
    try:
        run, weights = tmp_path / "run", tmp_path / "run" / "best"
        config = TrainConfig(run_folder=run, epochs=1, batch_size_per_replica=64)
        run_training(config, small_store, Serial(torch.device("cpu")))
        prepare(frames, tmp_path / "store")
        assert export([str(run), str(tmp_path / "model.onnx")]) == 0
        frozen = ModelConfig(
            pretrained=str(next(weights.rglob("*.safetensors"))),
            train="head",
            cache_features=str(tmp_path / "features"),
        )
        config = replace(config, run_folder=tmp_path / "head", model=frozen, augment=AugmentConfig(augment=False))
        run_training(config, small_store, Serial(torch.device("cpu")))
    finally:
        os.umask(before)
    others = {
        f"{path.relative_to(tmp_path)} {path.stat().st_mode & 0o777:o}"
        for path in tmp_path.rglob("*")
        if path.stat().st_mode & 0o777 != (folder_mode if path.is_dir() else file_mode)
    }
    assert others == set()
    names = {path.name for path in tmp_path.rglob("*")}
    assert names >= {"weights.safetensors", "state.pt", "store.json", "model.onnx", "features", "features.json"}


def test_a_folder_that_holds_no_run_is_no_beginning(small_store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    config = TrainConfig(run_folder=tmp_path / "run", model=ModelConfig(pretrained=str(tmp_path / "mine")))
    with pytest.raises(UserError, match="mine holds no run"):
        run_training(config, small_store, Serial(torch.device("cpu")))
    assert not (tmp_path / "run").exists()


# -- resumed, extended, finished -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A head on a frozen network, whose steps take next to no time."""
    torch.manual_seed(1)
    weights = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(build_model("small_cnn", num_classes=29).state_dict(), weights)
    return TrainConfig(
        model=ModelConfig(pretrained=str(weights), train="head"),
        augment=AugmentConfig(augment=False),
        epochs=2,
        batch_size_per_replica=16,
    )


def serial() -> Serial:
    return Serial(torch.device("cpu"))


def test_a_run_is_extended_from_another_folder_and_its_folder_says_so(
    frozen: TrainConfig,
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A store and a run that were named relative to the working folder, as most are."""
    monkeypatch.chdir(tmp_path)
    Path("stores").symlink_to(small_store.parent)
    store, run = Path("stores") / small_store.name, Path("runs/first")
    begins = replace(frozen, run_folder=run, data=DataConfig(store=store))
    run_training(begins, store, serial())
    first = json.loads((run / "result.json").read_text())
    assert (first["epochs"], first["stopped_early"]) == (2, False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = Path("../runs/first")
    resumed = _config(["--resume", str(run), "--epochs", "4", "--keep-top", "1"])
    assert resumed.data.store == tmp_path / store
    assert already_finished(resumed, serial()) is None
    capsys.readouterr()
    assert run_training(resumed, resumed.data.store, serial()) is Outcome.FINISHED
    said = capsys.readouterr().out
    assert "4 epochs in place of 2: from here the learning rate follows the schedule of a run of 4" in said
    saved = RunFolder(run).config()
    assert (saved.epochs, saved.keep_top, saved.data.store) == (4, 1, tmp_path / store)
    assert (saved.resume, saved.run_folder) == (None, Path("runs/first"))
    assert RunFolder(run).facts()["store"] == str(tmp_path / store)
    assert [row["epoch"] for row in RunFolder(run).metrics()] == [1, 2, 3, 4]
    assert json.loads((run / "result.epoch-2.json").read_text()) == first
    assert RunFolder(run).result()["epochs"] == 4
    said = already_finished(_config(["--resume", str(run)]), serial())
    assert said is not None
    assert f"{run} is finished (4 epochs, test " in said
    assert f"train --resume {run} --epochs N" in said


def test_patience_ends_a_run_that_is_then_finished_and_goes_on_with_more(
    frozen: TrainConfig,
    small_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    still = replace(frozen.optimizer, learning_rate=1e-30, weight_decay=0.0)  # so that no epoch is a gain
    begins = replace(frozen, run_folder=tmp_path / "run", optimizer=still, epochs=9, patience=2)
    run_training(replace(begins, data=DataConfig(store=small_store)), small_store, serial())
    assert "ended after 3 of 9 epochs: validation has not improved for 2 (--patience)" in capsys.readouterr().out
    result = RunFolder(tmp_path / "run").result()
    assert (result["epochs"], result["stopped_early"]) == (3, True)
    assert set(result["scores"]) == {"train", "validation", "test"}

    def asked(*words: str) -> str | None:
        return already_finished(_config(["--resume", str(tmp_path / "run"), *words]), serial())

    finished = asked()
    assert finished is not None
    assert "(3 epochs, ended by --patience, test " in finished
    assert "--patience N, N more than 2" in finished
    assert asked("--patience", "2") == asked("--epochs", "3", "--patience", "None") == finished
    with pytest.raises(UserError, match=r"--epochs 20 with --patience 2: .* for 2 epochs already.*add --patience N"):
        asked("--epochs", "20")
    with pytest.raises(UserError, match=r"--epochs 2: .* has done 3 already"):
        asked("--epochs", "2")
    assert asked("--patience", "3") is None
    assert asked("--patience", "None", "--epochs", "4") is None
    RunFolder(tmp_path / "run").write_result(result | {"stopped_early": False})  # as of a run of three epochs
    with pytest.raises(UserError, match=r"--epochs 4 with --patience 1: .*would end at once"):
        asked("--epochs", "4", "--patience", "1")
    RunFolder(tmp_path / "run").write_result(result)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "away")  # to save room, say
    assert asked() == finished
    with pytest.raises(UserError, match=r"has no checkpoint any more.* --pretrained"):
        asked("--patience", "3")


def test_patience_needs_a_validation_split(frozen: TrainConfig, small_store: Path, tmp_path: Path) -> None:
    opened = Store.open(small_store)
    everything = opened.with_splits(np.zeros(len(opened), np.uint8), {"kind": "none"})
    config = replace(frozen, run_folder=tmp_path / "run", patience=1)
    with pytest.raises(UserError, match=r"--patience .* no validation split"):
        run_training(config, everything, serial())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("named", [True, False])
def test_stopped_while_photos_pass_the_backbone_the_same_command_goes_on(
    named: bool,
    frozen: TrainConfig,
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is saved yet that --resume could read; an empty folder of ours is not left behind."""
    monkeypatch.chdir(tmp_path)
    model = replace(frozen.model, cache_features=str(tmp_path / "features"))
    config = replace(frozen, model=model, run_folder=Path("run") if named else None)
    stop = StopSignal()
    stop.received = True
    assert run_training(config, small_store, serial(), stop) is Outcome.PREEMPTED
    assert f"the same command continues with them in {tmp_path / 'features'}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("run*/*")] == []
    assert run_training(replace(config, stop_after_steps=1), small_store, serial()) is Outcome.STOPPED


def test_the_command_that_goes_on_can_be_pasted(
    frozen: TrainConfig, small_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = replace(frozen.model, cache_features=str(tmp_path / "my features"))
    config = replace(frozen, model=model, run_folder=tmp_path / "my run", data=DataConfig(store=small_store))
    assert run_training(replace(config, stop_after_steps=3), small_store, serial()) is Outcome.STOPPED
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "resume with: " in line]
    program, *words = shlex.split(line.partition("resume with: ")[2])
    assert Path(program).name == "horovod-asl"
    assert words[0] == "train"
    resumed = _config(words[1:])
    assert resumed.model.cache_file == tmp_path / "my features"
    assert run_training(replace(resumed, stop_after_steps=4), small_store, serial()) is Outcome.STOPPED
