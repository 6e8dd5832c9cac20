"""What `train --resume` takes from the run, what from its flags, and what it refuses."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from horovod_asl.commands.train import _config, _flags, _for_the_sample
from horovod_asl.config import (
    HOW_LONG,
    NOT_LEARNED,
    TEMPORARY,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from horovod_asl.errors import UserError
from horovod_asl.run_opening import require_store
from horovod_asl.runfolder import RunFolder

BEGAN = TrainConfig(
    data=DataConfig(store=Path("stores/asl"), samples=500),
    optimizer=OptimizerConfig(learning_rate=0.01),
    execution=ExecutionConfig(precision="bf16", deterministic=True, backend="horovod", threads_per_rank=3),
    epochs=7,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFolder(tmp_path / "run").create(replace(BEGAN, run_folder=tmp_path / "run"))
    return tmp_path / "run"


def test_a_resume_goes_on_with_the_config_of_the_run(run: Path) -> None:
    config = _config(["--resume", str(run)])
    assert config == replace(
        BEGAN,
        run_folder=run,
        resume=run,
        optimizer=BEGAN.optimizer.resolved(),
        execution=ExecutionConfig(precision="bf16", deterministic=True),  # where it runs is chosen anew
    )


def test_where_and_how_long_may_change(run: Path) -> None:
    config = _config(
        [
            "--resume",
            str(run),
            "--backend=ddp",
            "--threads-per-rank=1",
            "--stop-after-steps=9",
            "--store=/moved",
        ]
    )
    assert (config.execution.backend, config.execution.threads_per_rank) == ("ddp", 1)
    assert (config.stop_after_steps, config.data) == (9, DataConfig(store=Path("/moved"), samples=500))


def test_flags_that_the_run_began_with_may_be_said_again(run: Path) -> None:
    words = [
        "--run-folder",
        str(run),
        "--epochs=7",
        "--learning-rate=0.01",
        "--precision=bf16",
        "--samples=500",
    ]
    assert _config([*words, "--resume", str(run)]) == _config(["--resume", str(run)])


def test_what_is_written_beside_the_weights_and_how_long_it_goes_on_may_change(run: Path) -> None:
    words = ["--save-every-steps=5", "--commit-every-steps=3", "--keep-top=1", "--ledger"]
    config = _config(["--resume", str(run), *words, "--epochs=20", "--patience=4"])
    assert (config.save_every_steps, config.commit_every_steps, config.keep_top) == (5, 3, 1)
    assert (config.ledger, config.epochs, config.patience) == (True, 20, 4)
    unsaid = _config(["--resume", str(run)])
    assert (unsaid.epochs, unsaid.keep_top, unsaid.ledger) == (7, 3, False)


def test_what_decides_the_learning_is_every_option_but_these() -> None:
    """A new option belongs on one of the two sides: this list is where that is decided."""
    assert _flags(TrainConfig()).keys() >= NOT_LEARNED | HOW_LONG
    assert {"last_epoch", "compile", "precision", "train", "cache_features", "samples"}.isdisjoint(NOT_LEARNED)


def test_a_flag_that_needs_others_goes_with_those_of_the_run(tmp_path: Path) -> None:
    """Alone, each of these is refused; `make model` resumes its last stage with the first."""
    model = ModelConfig(pretrained="hands", model="hand_net", train="last-6", cache_features="elsewhere")
    RunFolder(tmp_path).create(TrainConfig(model=model))
    for words, alone, cache in (
        (["--cache-features", "maps"], "--cache-features .* add --train head", "maps"),
        (["--cache-features"], "--cache-features .* add --train head", TEMPORARY),
        (["--train", "last-6"], "--train last-6 .* add --model hand_net", TEMPORARY),
    ):
        with pytest.raises(UserError, match=alone):
            _config(words)
        config = _config(["--resume", str(tmp_path), *words])
        assert config.model == replace(model, cache_features=cache, input="both")


@pytest.mark.parametrize(
    ("began", "words", "told"),
    [
        ({"train": "last-6"}, ["--train", "head"], "--train head .it began with last-6"),
        ({"train": "last-6"}, ["--cache-features"], "--cache-features temporary .it began with None"),
        ({"train": "head", "cache_features": "maps"}, ["--cache-features", "None"], "began with temporary"),
    ],
)
def test_which_layers_learn_and_whether_from_kept_features_is_not_changed_by_a_resume(
    began: dict[str, str], words: list[str], told: str, tmp_path: Path
) -> None:
    RunFolder(tmp_path).create(TrainConfig(model=ModelConfig(pretrained="hands", model="hand_net", **began)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=told):
        _config(["--resume", str(tmp_path), *words])


def test_the_store_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As older versions saved it: relative to the folder in which the command was given."""
    project = tmp_path / "project"
    (project / "stores" / "asl").mkdir(parents=True)
    began = replace(BEGAN, run_folder=Path("runs/first"))
    RunFolder(project / "runs" / "first").create(began)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    asked = _config(["--resume", str(project / "runs" / "first")])
    assert asked.data.store == project / "stores" / "asl"
    assert _config(["--resume", "../project/runs/first"]).data.store.samefile(project / "stores" / "asl")  # type: ignore[union-attr]
    (project / "runs").rename(tmp_path / "moved")
    assert _config(["--resume", str(tmp_path / "moved" / "first")]).data.store == Path("stores/asl")
    with pytest.raises(UserError, match=r"no store at .*name it with: \S+ train --resume 'my run' --store STORE"):
        require_store(Path("stores/asl"), Path("my run"))


@pytest.mark.parametrize(
    "words",
    [
        ["--learning-rate", "0.02"],
        ["--precision", "fp16"],
        ["--seed", "1"],
        ["--samples", "9"],
        # the next are defaults, and yet not what the run began with
        ["--learning-rate", "0.001"],
        ["--precision", "fp32"],
        ["--samples", "None"],
    ],
)
def test_a_flag_that_would_change_what_is_learned_is_refused(run: Path, words: list[str]) -> None:
    with pytest.raises(UserError, match=f"{words[0]} {words[1]} .it began with"):
        _config(["--resume", str(run), *words])


def test_a_switch_set_back_to_its_default_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"--deterministic False .it began with True"):
        _config(["--resume", str(run), "--no-deterministic"])


def test_the_optimizer_s_usual_rates_are_saved_as_numbers_and_may_be_said_again(tmp_path: Path) -> None:
    began = _config(["--optimizer", "sgd"])
    assert (began.optimizer.learning_rate, began.optimizer.weight_decay) == (0.05, 5e-4)
    RunFolder(tmp_path).create(began)
    words = ["--resume", str(tmp_path), "--optimizer", "sgd"]
    assert _config([*words, "--learning-rate", "None"]).optimizer == began.optimizer


def test_a_rank_that_does_not_see_the_run_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=f"no run in .*on {platform.node()}: .*on every host"):
        _config(["--resume", str(tmp_path / "none")])
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(UserError, match="holds no run"):
        _config(["--resume", str(tmp_path / "none")])


def test_another_folder_to_go_on_in_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="goes on in that folder"):
        _config(["--resume", str(run), "--run-folder", str(tmp_path / "other")])


@pytest.mark.parametrize(("world_size", "batch"), [(1, 32), (4, 32), (8, 16), (64, 2), (500, 2)])
def test_many_ranks_take_small_batches_of_the_sample(world_size: int, batch: int) -> None:
    config = _for_the_sample(TrainConfig(), world_size)
    assert config.batch_size_per_replica == batch
    rate = config.optimizer.resolved().learning_rate
    assert rate == pytest.approx(1e-3 * (batch / 32) ** 0.5)


@pytest.mark.parametrize("batch", [8, 64])
def test_a_batch_that_was_asked_for_stays(batch: int) -> None:
    asked = TrainConfig(batch_size_per_replica=batch)
    assert _for_the_sample(asked, 16) is asked
