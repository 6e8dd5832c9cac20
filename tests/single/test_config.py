"""Configs: what is impossible is refused where it is declared, and YAML is a faithful second spelling."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_asl.command_line.cli import parse
from horovod_asl.command_line.config_file import to_yaml
from horovod_asl.commands import crossval, train
from horovod_asl.config import TrainConfig
from horovod_asl.config_groups import AugmentConfig, DataConfig, ExecutionConfig, ModelConfig, OptimizerConfig
from horovod_asl.engine.train_state import build_optimizer
from horovod_asl.errors import UserError
from horovod_asl.runs.bundled_model import BUNDLE
from horovod_asl.runs.run_folder import RunFolder
from tests.launching import ROOT

RECIPES = (*sorted((ROOT / "launch").glob("*.yaml")), BUNDLE / "config.yaml")
shares = st.floats(0, 1)
counts = st.integers(1, 10**9)
# "None" is how a flag spells None, so a file of that name can't be told from none.
paths = st.text("abcXYZ019 ._-=:#'\"é\\/", min_size=1).map(Path).filter(lambda path: str(path) != "None")


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


optimizers = st.builds(
    OptimizerConfig,
    optimizer=st.sampled_from(["sgd", "adamw", "adam"]),
    learning_rate=optional(st.floats(1e-12, 1e12)),
    learning_rate_scaling=st.sampled_from(["auto", "linear", "sqrt", "none"]),
    momentum=st.floats(0, 0.999),
    weight_decay=optional(st.floats(0, 1e300)),
    schedule=st.sampled_from(["cosine", "step", "constant"]),
    warmup_epochs=st.floats(0, 1e6),
    clip_norm=st.none(),
    ema_decay=st.floats(0, 0.99999),
)
augments = st.builds(
    AugmentConfig,
    augment=st.booleans(),
    rotation_degrees=st.floats(-360, 360),
    scale=st.floats(0, 0.99),
    translation=st.floats(-1, 1),
    blur=shares,
    mixup_alpha=st.floats(0, 10),
    label_smoothing=shares,
)
executions = st.builds(
    ExecutionConfig,
    backend=st.sampled_from(["auto", "serial", "dp", "ddp", "horovod"]),
    precision=st.sampled_from(["fp32", "bf16"]),
    compile=st.booleans(),
    threads_per_rank=optional(counts),
    adasum=st.booleans(),
)
configs = st.builds(
    TrainConfig,
    data=st.builds(DataConfig, store=optional(paths), samples=optional(counts)),
    model=st.builds(
        ModelConfig, model=st.sampled_from(["small_cnn", "resnet18"]), pretrained=optional(paths.map(str))
    ),
    optimizer=optimizers,
    augment=augments,
    execution=executions,
    run_folder=optional(paths),
    resume=optional(paths),
    epochs=counts,
    seed=st.integers(0, 2**32 - 1),
    save_every_steps=optional(counts),
)


@given(configs)
@settings(deadline=None, max_examples=40)
def test_any_config_comes_back_equal_from_its_yaml(config: TrainConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(to_yaml(config))
        assert parse(TrainConfig, ["--config", str(file)], prog="p", description=None) == config


def test_yaml_holds_every_field_under_its_own_name() -> None:
    config = TrainConfig(run_folder=Path("runs/x"))
    expected = dataclasses.asdict(config) | {"run_folder": "runs/x"}
    assert yaml.safe_load(to_yaml(config)) == expected


def test_no_arguments_give_the_defaults() -> None:
    assert parse(TrainConfig, [], prog="p", description=None) == TrainConfig()


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (DataConfig, "samples", 0),
        (DataConfig, "samples", -5),
        *((OptimizerConfig, "learning_rate", value) for value in (0.0, -1.0, NAN, INF)),
        *((OptimizerConfig, "weight_decay", value) for value in (-1e-9, NAN, INF)),
        *((OptimizerConfig, "momentum", value) for value in (-0.1, 1.0, NAN)),
        *((OptimizerConfig, "ema_decay", value) for value in (-0.1, 1.0, NAN)),
        *((OptimizerConfig, "warmup_epochs", value) for value in (-1.0, NAN, INF)),
        *((OptimizerConfig, "clip_norm", value) for value in (0.0, -1.0, NAN)),
        *((AugmentConfig, name, 1.01) for name in ("colour", "blur", "cutout", "label_smoothing")),
        *((AugmentConfig, name, -0.01) for name in ("colour", "blur", "cutout", "label_smoothing")),
        *((AugmentConfig, "perspective", value) for value in (-0.1, 1.1, NAN)),
        *((AugmentConfig, "scale", value) for value in (-0.1, 1.0, NAN)),
        *((AugmentConfig, "rotation_degrees", value) for value in (NAN, INF)),
        *((AugmentConfig, "translation", value) for value in (NAN, INF)),
        *((AugmentConfig, "mixup_alpha", value) for value in (-1.0, NAN, INF)),
        *((AugmentConfig, "cutmix_alpha", value) for value in (-1.0, NAN, INF)),
        (ExecutionConfig, "threads_per_rank", 0),
        *((TrainConfig, name, 0) for name in ("epochs", "batch_size_per_replica", "accumulation_steps")),
        *((TrainConfig, name, 0) for name in ("keep_top", "save_every_steps", "stop_after_steps")),
        (TrainConfig, "seed", -1),
        (TrainConfig, "seed", 2**32),
    ],
)
def test_a_value_that_no_run_can_have_is_refused_by_the_name_of_its_flag(
    part: type[Any], name: str, value: float
) -> None:
    with pytest.raises(
        UserError, match="alphas" if name.endswith("alpha") and value == -1 else name.replace("_", "-")
    ):
        part(**{name: value})


def test_options_that_contradict_each_other_are_refused_with_the_remedy() -> None:
    adasum = ExecutionConfig(adasum=True)
    with pytest.raises(UserError, match="--clip-norm None"):
        TrainConfig(execution=adasum)
    with pytest.raises(UserError, match="bf16"):
        TrainConfig(
            execution=dataclasses.replace(adasum, precision="fp16"), optimizer=OptimizerConfig(clip_norm=None)
        )
    with pytest.raises(UserError, match="--pretrained"):
        TrainConfig(model=ModelConfig(train="head"))
    TrainConfig(execution=adasum, optimizer=OptimizerConfig(clip_norm=None))


FROZEN = "--pretrained=w.pt --train head"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (f"{FROZEN} --cache-features --model alexnet", "--cache-features: alexnet has dropout among its frozen"),
        (f"{FROZEN} --cache-features f --model vgg19", "--cache-features: vgg19 has dropout among its frozen"),
        ("--no-augment --mixup-alpha 0.2", "--mixup-alpha 0.2 has no effect with --no-augment"),
        (f"{FROZEN} --cache-features --cutmix-alpha 1", "--cutmix-alpha 1.0 has no effect with --cache-features"),
        ("--momentum 0.8", "--momentum 0.8 has no effect with --optimizer adamw: add --optimizer sgd"),
        ("", None),
        (f"{FROZEN} --no-augment --cache-features", None),
        (f"{FROZEN} --model alexnet", None),
        ("--optimizer sgd --momentum 0.8", None),
        *((f"--config {file}", None) for file in RECIPES),
    ],
)
def test_an_option_that_others_leave_without_effect_is_refused_for_a_new_run(
    words: str, complaint: str | None, tmp_path: Path
) -> None:
    """A run that an older version trained with it is still read."""
    config = parse(TrainConfig, words.split(), prog="p", description=None)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert RunFolder(tmp_path).config() == config
    others = [str(tmp_path), "--by", "source", "--out", str(tmp_path / "out")]
    if complaint is None:
        train._config(words.split())
    else:
        with pytest.raises(UserError, match=complaint):
            train._config(words.split())
        with pytest.raises(UserError, match=complaint):
            crossval.main([*others, *words.split()])


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        ([], (1e-3, 0.05)),
        (["--optimizer=adamw"], (1e-3, 0.05)),
        (["--optimizer=sgd"], (0.05, 5e-4)),
        (["--optimizer=adam"], (1e-3, 0.0)),
        (["--optimizer=sgd", "--learning-rate=0.3"], (0.3, 5e-4)),
        (["--optimizer=adam", "--weight-decay=0.3"], (1e-3, 0.3)),
    ],
)
def test_rates_that_are_not_given_are_the_usual_ones_of_the_optimizer(
    words: list[str], rates: tuple[float, float]
) -> None:
    config = parse(TrainConfig, words, prog="p", description=None).optimizer
    assert (config.learning_rate_in_force, config.weight_decay_in_force) == rates
    resolved = config.resolved()
    assert (resolved.learning_rate, resolved.weight_decay) == rates
    groups = build_optimizer(torch.nn.Linear(2, 2), config).param_groups
    assert (groups[0]["lr"], groups[0]["weight_decay"]) == rates


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]
