"""Options by the names that other programs give them, and slips of a letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from horovod_asl.cli import parse
from horovod_asl.commands.compare import CompareConfig
from horovod_asl.commands.crossval import CrossvalConfig
from horovod_asl.commands.evaluate import EvaluateConfig
from horovod_asl.commands.export import ExportConfig
from horovod_asl.commands.predict import PredictConfig
from horovod_asl.commands.prepare import PrepareConfig
from horovod_asl.config import TrainConfig
from horovod_asl.errors import UserError
from horovod_asl.flags import nearest
from horovod_asl.options import options_of
from horovod_asl.synonyms import LIKE, SAME, WITHOUT

CONFIGS = (
    TrainConfig,
    PrepareConfig,
    EvaluateConfig,
    PredictConfig,
    ExportConfig,
    CompareConfig,
    CrossvalConfig,
)


def refused(config_class: type, *words: str) -> str:
    with pytest.raises(UserError) as error:
        parse(config_class, words, prog="horovod-asl do", description=None)
    return str(error.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--lr 0.5", "--learning-rate 0.5"),
        ("--lr=0.5", "--learning-rate 0.5"),
        ("--learning_rate 0.5", "--learning-rate 0.5"),
        ("--batch-size 7", "--batch-size-per-replica 7"),
        ("--batch_size=7", "--batch-size-per-replica 7"),
        ("--wd 0.1", "--weight-decay 0.1"),
        ("--arch resnet18", "--model resnet18"),
        ("--no_augment", "--no-augment"),
    ],
)
def test_a_name_that_means_the_same_is_accepted(theirs: str, ours: str) -> None:
    read = [parse(TrainConfig, words.split(), prog="", description=None) for words in (theirs, ours)]
    assert read[0] == read[1] != TrainConfig()


def test_loader_workers_are_those_of_prepare_and_of_nothing_else() -> None:
    for words in ("-j 3", "--num-workers 3", "--workers=3"):
        config = parse(PrepareConfig, ["a", "b", *words.split()], prog="", description=None)
        assert config.workers == 3
        assert "there are no loader workers: leave it out" in refused(TrainConfig, *words.split())


@pytest.mark.parametrize(
    ("config_class", "words", "part"),
    [
        (TrainConfig, "--gpus 2", "--gpus: the launcher starts the processes"),
        (TrainConfig, "--output runs/a", "--output: here it is --run-folder"),
        (TrainConfig, "--resume-from runs/a", "--resume-from: here it is --resume"),
        (TrainConfig, "--data photos", "--data: here it is --store"),
        (TrainConfig, "--imgsz 64", "--imgsz: the size is that of the store"),
        (TrainConfig, "-b 64", "-b: here it is --batch-size-per-replica"),
        (TrainConfig, "--amp", "--amp: here it is --precision"),
        (TrainConfig, "--epoch 3", "no option --epoch: did you mean --epochs?"),
        (TrainConfig, "--no-augmnt", "no option --no-augmnt: did you mean --augment?"),
        (TrainConfig, "--xyzzy 3", "no option --xyzzy (horovod-asl do --help lists all)"),
        (CompareConfig, "--batch-size 64", "--batch-size: here it is --global-batch"),
        (PredictConfig, "--image x.jpg", "--image: write it without a flag: horovod-asl do [RUN] PHOTO …"),
        (PredictConfig, "a.jpg --conf 0.9", "--conf: here it is --abstain"),
        (PredictConfig, "a.jpg -o a.txt", "-o: the output is printed"),
        (EvaluateConfig, "--model runs/a", "--model: write it without a flag: horovod-asl do RUN PHOTOS"),
        (EvaluateConfig, "a b --batch-size 3", "--batch-size: how many photos are read at a time"),
        (ExportConfig, "a --output a.onnx", "--output: write it without a flag: horovod-asl do RUN [OUT]"),
        (CrossvalConfig, "", "needs STORE and --by and --out"),
        (CrossvalConfig, "stores/a --by source", "needs --out"),
        (EvaluateConfig, "a", "needs PHOTOS"),
        (TrainConfig, "--model resnet5", "--model resnet5: did you mean resnet50?"),
        (TrainConfig, "--model ResNet50", "--model ResNet50: did you mean resnet50?"),
        (TrainConfig, "--backend mpi", "--backend mpi: there are auto, serial, dp, ddp, horovod"),
        (TrainConfig, "--backend=hvd", "--backend hvd: did you mean horovod?"),
        (CompareConfig, "--backends serial hovorod", "--backends hovorod: did you mean horovod?"),
        (TrainConfig, "--epochs --seed 3", "--epochs needs a value: --epochs FLOAT"),
        (TrainConfig, "--seed 2.5", "--seed 2.5: it must be a whole number"),
        (TrainConfig, "--lr fast", "--learning-rate fast: it must be a number"),
    ],
)
def test_a_name_or_value_that_is_none_of_ours_is_refused_with_what_was_meant(
    config_class: type, words: str, part: str
) -> None:
    assert part in refused(config_class, *words.split())


def test_values_that_look_like_flags_stay_values() -> None:
    config = parse(TrainConfig, ["--lr", "1e-3", "--clip-norm", "None"], prog="", description=None)
    assert (config.optimizer.learning_rate, config.optimizer.clip_norm) == (1e-3, None)
    assert "--epochs must be above 0 and finite, not -1" in refused(TrainConfig, "--epochs", "-1")
    assert parse(PredictConfig, ["-"], prog="", description=None).words == (Path("-"),)


def test_the_table_names_options_that_there_are_and_hides_none() -> None:
    """An option of ours may be called what another means elsewhere; then it is ours where it exists."""
    names = {option.name for config_class in CONFIGS for option in options_of(config_class)}
    assert {*SAME.values(), *(ours for row in LIKE.values() for ours in row)} <= names
    for config_class in CONFIGS:
        own = {option.name for option in options_of(config_class)}
        assert not [(name, ours) for name, ours in SAME.items() if ours in own and name in own]
    assert all("leave it out" in text or "put" in text for text in WITHOUT.values())


def test_nearest_is_case_blind_and_silent_where_nothing_is_near() -> None:
    assert nearest("SPCAE", ["space", "nothing"]) == "space"
    assert nearest("zzz", ["space", "nothing"]) is None
