"""docs/example.yaml: every option of `train`, at its default, with the text of --help.

`python -m tests.single.docs.test_example_yaml > docs/example.yaml` writes it anew.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path

import yaml

from horovod_asl.command_line.cli import parse
from horovod_asl.command_line.config_file import flags_of_file
from horovod_asl.command_line.options import options_of
from horovod_asl.command_line.synonyms import LIKE
from horovod_asl.config import TrainConfig
from tests.launching import ROOT

EXAMPLE = ROOT / "docs" / "example.yaml"
LEFT_OUT = {"resume", "stop_after_steps"}  # of one start of a run, not of the run
HEAD = """\
# Every option of `horovod-asl train` and `crossval`, at its default, for `--config my.yaml`. Keep the lines that you
# change: a line that is left out has its default. A flag to the right of --config wins over the file.
# `null` stands for what the text says of \"none\". Keys may also stand in the sections that config.yaml of a run has.
"""


def example() -> str:
    parts = [HEAD]
    section = None
    for option in options_of(TrainConfig):
        if option.section != section:
            section = option.section
            parts.append(f"# ---- {section} ----\n")
        if option.name in LEFT_OUT:
            continue
        choices = f" One of {', '.join(option.choices)}." if option.choices else ""
        text = textwrap.fill(
            option.help() + choices,
            110,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        )
        value = yaml.safe_load(json.dumps(option.default))
        parts.append(f"{text}\n{option.name}: {json.dumps(value)}\n")
    return "\n".join(parts)


def test_the_example_is_the_manual_of_today() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example(), __doc__


def test_the_example_is_read_as_the_defaults() -> None:
    assert parse(TrainConfig, ["--config", str(EXAMPLE)], prog="", description=None) == TrainConfig()


def test_the_example_holds_every_option_that_is_not_left_out_on_purpose() -> None:
    held = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")).keys()
    names = {
        field.name
        for section in vars(TrainConfig()).values()
        if dataclasses.is_dataclass(section)
        for field in dataclasses.fields(section)
    } | {name for name, value in vars(TrainConfig()).items() if not dataclasses.is_dataclass(value)}
    assert held == names - LEFT_OUT


def test_every_line_of_the_example_can_be_changed_by_itself(tmp_path: Path) -> None:
    """Of each line alone a file is made: no key needs its section."""
    for name, value in yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")).items():
        file = tmp_path / "one.yaml"
        file.write_text(yaml.safe_dump({name: value}))
        assert len(flags_of_file(TrainConfig, file)) == 1
        assert name not in LIKE or name in {option.name for option in options_of(TrainConfig)}


if __name__ == "__main__":
    print(example(), end="")
