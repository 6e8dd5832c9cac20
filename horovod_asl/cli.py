"""Flags and YAML to a typed, frozen config: tyro reads the flags, and a YAML file is flags in another spelling.

`--config FILE` is expanded in place into the flags that its keys name, so both go through one validation:
unknown keys and wrong types are refused alike, and a flag to the right of `--config` wins over the file.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from horovod_asl.errors import UserError

ConfigT = TypeVar("ConfigT")


def parse(
    config_class: type[ConfigT],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    default: ConfigT | None = None,
) -> ConfigT:
    """Parse `argv` into `config_class`.

    Args:
        config_class: a frozen dataclass; nested dataclasses become groups of flags without a prefix.
        argv: the arguments after the command's name; `--config FILE` may stand anywhere among them.
        prog: the name that usage shows, such as `horovod-asl train`.
        description: the manual above the flags, usually the command's module docstring.
        default: values in place of the dataclass's own defaults.

    Raises:
        UserError: the YAML file is missing, is not a mapping, or holds a key that the config lacks.
        SystemExit: from tyro, with code 2 for flags it refuses and 0 after `--help`.
    """
    return tyro.cli(
        config_class,
        args=_expand_config_files(config_class, list(argv)),
        prog=prog,
        description=description,
        default=default if default is not None else tyro.MISSING_NONPROP,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def to_yaml(config: Any) -> str:
    """The config as YAML that `--config` reads back to an equal config."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def fail(message: str) -> None:
    """Print a user's mistake as one line on standard error."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _expand_config_files(config_class: type[Any], argv: list[str]) -> list[str]:
    expanded: list[str] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        if word == "--config" or word.startswith("--config="):
            inline = word.partition("=")[2]
            if not inline and position + 1 == len(argv):
                raise UserError("--config needs the path of a YAML file")
            name = inline or argv[position + 1]
            expanded += flags_of_file(config_class, Path(name))
            position += 1 if inline else 2
        else:
            expanded.append(word)
            position += 1
    return expanded


def flags_of_file(config_class: type[Any], path: Path) -> list[str]:
    """The flags that a YAML file of `config_class` stands for.

    Raises:
        UserError: no such file, not a YAML mapping, or a key that the config lacks.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"the config {path} must be a mapping of option names to values")
    return _flags_of_mapping(config_class, content, where=str(path))


def _flags_of_mapping(config_class: type[Any], content: dict[str, Any], *, where: str) -> list[str]:
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    flags: list[str] = []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise UserError(f"{where}: unknown key {key!r}; known keys here: {', '.join(sorted(fields))}")
        nested = _dataclass_of(fields[name])
        if nested is not None:
            if not isinstance(value, dict):
                raise UserError(f"{where}: {key!r} is a section and needs keys of its own")
            flags += _flags_of_mapping(nested, value, where=f"{where}: {key}")
        else:
            flags += _flag(name, value)
    return flags


def _dataclass_of(field: dataclasses.Field[Any]) -> type[Any] | None:
    factory: Any = field.default_factory
    return factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None


def _flag(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option[2:]]
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [option, str(value)]
