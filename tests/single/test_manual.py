"""--help as a user sees it: wrapped to the terminal, options in an order with meaning, examples left alone."""

from __future__ import annotations

import dataclasses
import importlib
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from tyro.conf import Positional, arg

from horovod_asl.__main__ import COMMANDS
from horovod_asl.cli import parse
from horovod_asl.config import TrainConfig
from horovod_asl.manual import manual
from horovod_asl.networks import NetworkName
from horovod_asl.options import options_of


@dataclass(frozen=True)
class Section:
    """Of a section.

    More about it.
    """

    rate: float = 0.5
    """A text that is
    --broken before a dash, and (once more) 95 % of the way."""


@dataclass(frozen=True)
class Small:
    """Flags."""

    place: Positional[Annotated[Path, arg(metavar="PLACE")]]
    """Where."""
    by: Literal["b", "a"]
    """How."""
    names: tuple[str, ...] = ()
    many: int | None = None
    """How many."""
    loud: bool = True
    part: Section = field(default_factory=Section)


def config_of(command: str) -> type[Any]:
    if command == "train":
        return TrainConfig
    module = importlib.import_module(f"horovod_asl.commands.{command}")
    return getattr(module, f"{command.capitalize()}Config")  # type: ignore[no-any-return]


def paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if not part.startswith("    ")]


def test_a_manual_word_by_word() -> None:
    text = manual(
        Small, prog="do", description="One\n(two).\n\n    do  this   # as it is\n\nEnd.", columns=60
    )
    assert text == (
        "usage: do PLACE --by {b,a} [OPTIONS]\n\nOne (two).\n\n    do  this   # as it is\n\nEnd.\n\n"
        "arguments\n  PLACE\n        Where.\n\n"
        "options\n  --by {b,a}\n        How. (required)\n  --names TEXT …\n  --many INT\n        How many.\n"
        "  --[no-]loud\n        (default: on)\n"
        "  --config FILE\n        Read options from a YAML file; a flag to its right\n        wins.\n"
        "  -h, --help\n        Show this manual and leave.\n\n"
        "part: Of a section.\n  --rate FLOAT\n        A text that is --broken before a dash, and (once\n"
        "        more) 95 % of the way. (default: 0.5)"
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_none_ends_early(command: str, columns: int) -> None:
    """Word for word, a line holds what fits: the next line's first word would not have."""
    module = importlib.import_module(f"horovod_asl.commands.{command}")
    text = manual(
        config_of(command), prog=f"horovod-asl {command}", description=module.__doc__, columns=columns
    )
    assert "{None}" not in text
    assert "default: None" not in text
    for part in paragraphs(text):
        lines = part.splitlines()
        assert max(map(len, lines)) <= columns
        if not part.startswith(("usage", "arguments", "options")) and "\n  " not in part:
            for line, following in pairwise(lines):
                assert len(line) + 1 + len(following.split()[0]) > columns - 4, (
                    line
                )  # 4: a number with its unit


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_manual_with_its_text(command: str) -> None:
    config_class = config_of(command)
    text = " ".join(manual(config_class, prog="", description="", shows_all=True, columns=80).split())
    for option in options_of(config_class):
        assert option.help(), f"{command} {option.name} has no text"
        assert " ".join(option.help().split()) in text
        assert option.shown.removeprefix("--") in text


def test_the_short_manual_shows_the_options_that_people_use_and_how_to_see_the_others() -> None:
    short = manual(TrainConfig, prog="", description="", columns=80)
    assert len(TrainConfig.COMMON) == 25
    for option in options_of(TrainConfig):
        row = rf"(?m)^  --(\[no-\])?{option.flag[2:]}( |$)"
        assert bool(re.search(row, short)) == (option.name in TrainConfig.COMMON), option.name
    assert "--cutout" not in short
    assert f"Show {len(options_of(TrainConfig)) - 25} more options" in short
    whole = manual(TrainConfig, prog="", description="", shows_all=True, columns=80)
    assert "--cutout" in whole
    assert "--help-all" not in whole


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate", "RUN PHOTOS"),
        ("predict", "[RUN] PHOTO …"),
        ("inspect", "STORE"),
        ("export", "RUN [OUT]"),
        ("benchmark", "[PHOTOS]"),
        ("prepare", "SOURCE [SOURCE …] STORE"),
        ("crossval", "STORE --by {source,signer} --out PATH"),
        ("train", ""),
    ],
)
def test_the_usage_names_the_words_as_the_manual_does(command: str, words: str) -> None:
    first = manual(config_of(command), prog="do", description="", columns=200).splitlines()[0]
    assert first.split() == f"usage: do {words} [OPTIONS]".split()


def test_our_networks_come_first_and_the_default_optimizer() -> None:
    assert get_args(NetworkName)[:3] == ("hand_net", "landmark_mlp", "small_cnn")
    choices = {option.name: option.choices for option in options_of(TrainConfig)}
    assert choices["optimizer"][0] == TrainConfig().optimizer.optimizer
    assert choices["backend"] == ("auto", "serial", "dp", "ddp", "horovod")


def test_what_the_manual_says_of_an_option_is_what_tyro_parses() -> None:
    """Types, defaults and choices are read from the fields here, and by tyro's own reading there."""
    config = TrainConfig()
    plain = [
        option for option in options_of(TrainConfig) if option.name not in ("model", "input")
    ]  # resolved
    chosen = {option: option.choices[-1] for option in plain if option.choices}
    words = [word for option, choice in chosen.items() for word in (option.flag, choice)]
    read = parse(TrainConfig, words, prog="", description=None)
    for option in plain:
        before, after = (getattr(one, option.section) if option.section else one for one in (config, read))
        assert getattr(before, option.name) == option.default
        assert getattr(after, option.name) == chosen.get(option, option.default)
    assert len(options_of(TrainConfig)) == sum(
        len(dataclasses.fields(value)) if dataclasses.is_dataclass(value) else 1
        for value in vars(config).values()
    )
