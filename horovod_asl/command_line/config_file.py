"""YAML files of options: each is read as the flags that its keys name, and a config is written as one.

Keys may stand in the section that a config is saved with (`optimizer: {learning_rate: 0.001}`) or at the top
(`learning_rate: 0.001`): no two sections have an option of the same name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from horovod_asl import __version__
from horovod_asl.command_line.config_upgrade import upgraded
from horovod_asl.command_line.flags import nearest, refusal, require_fit
from horovod_asl.command_line.options import Option, options_of
from horovod_asl.command_line.synonyms import our_name
from horovod_asl.config import SCHEMA, TrainConfig
from horovod_asl.errors import UserError


def to_yaml(config: Any) -> str:
    """The config as YAML that `--config` reads back to an equal config."""
    import yaml  # only here and below: --help and flags alone do without

    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flags_of_file(
    config_class: type[Any],
    path: Path,
    *,
    refuse_retired: bool = True,
    written_by: str = "the version that wrote it",
) -> list[str]:
    """The flags that a YAML file of `config_class` stands for.

    Args:
        refuse_retired: whether an option that this version no longer has must have its old default; else it is
            dropped.
        written_by: the version to name in that refusal.

    Raises:
        UserError: no such file, not a YAML mapping, of a newer version, with a key that the config lacks or that has
            two values, or with a value that does not fit.
    """
    content = _read(path)
    if issubclass(config_class, TrainConfig):
        require_known_schema(content, path)
        content.pop("schema", None)
        content, gone = upgraded(content)
        if gone and refuse_retired:
            flags = [f"--{name.replace('_', '-')} {value}" for name, value in gone.items()]
            raise UserError(
                f"{path} asks for {', '.join(flags)}, which this version of horovod-asl ({__version__}) no longer "
                f"has: train with {written_by}, or start a new run without it"
            )
    return _flags_of_mapping(config_class, content, path)


def require_known_schema(content: Mapping[str, Any], path: Path) -> None:
    """UserError if `content`, which `path` holds, was written by a version whose files this one cannot know."""
    schema = content.get("schema", 1)
    if schema not in range(1, SCHEMA + 1):
        raise UserError(
            f"{path} was written by a newer version of horovod-asl (its schema is {schema}, this version "
            f"{__version__} reads up to {SCHEMA}): use that version, or a later one"
        )


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        twice = _repeated_key(yaml.compose(text, yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"the config {path} must be a mapping of option names to values")
    if twice is not None:
        raise UserError(f"{path}: {twice!r} stands there twice: leave one out")
    return content


def _repeated_key(node: Any) -> str | None:
    """A key that one mapping holds twice: YAML's loader takes the last without a word."""
    if not isinstance(getattr(node, "value", None), list) or not node.tag.endswith(":map"):
        return None
    keys = [key.value for key, _ in node.value]
    twice = [str(key) for key in keys if keys.count(key) > 1]
    return twice[0] if twice else next(filter(None, (_repeated_key(value) for _, value in node.value)), None)


def _flags_of_mapping(config_class: type[Any], content: dict[Any, Any], path: Path) -> list[str]:
    options = options_of(config_class)
    given: dict[str, tuple[str, Any]] = {}
    flags: list[str] = []
    for where, name, value in _entries(options, content, path):
        option = _option_named(name, options, path)
        _refuse_wrong_kind(option, value, f"{path}: {where!r}")
        first, before = given.setdefault(option.name, (where, value))
        if before != value:
            raise UserError(
                f"{path}: {first!r} is {before} and {where!r} is {value}: leave one of the two out"
            )
        flags += _flag(option, value, path)
    return flags


def _entries(
    options: tuple[Option, ...], content: dict[Any, Any], path: Path
) -> Iterator[tuple[str, str, Any]]:
    """Key as the file has it, name and value of everything in the file, sections opened."""
    sections = {option.section for option in options if option.section}
    for key, value in content.items():
        if str(key) not in sections or not isinstance(value, dict):
            yield str(key), str(key), value
            continue
        held = {option.name for option in options if option.section == key}
        for inner, one in value.items():
            name = str(inner).replace("-", "_")
            if (our_name(name, options) or name) not in held:
                near = nearest(name, sorted(held))
                meant = f"did you mean {near}?" if near else f"it holds {', '.join(sorted(held))}"
                raise UserError(f"{path}: {key}: unknown key {inner!r}; {meant}")
            yield f"{key}: {inner}", str(inner), one


def _option_named(name: str, options: tuple[Option, ...], path: Path) -> Option:
    wanted = name.replace("-", "_")
    wanted = our_name(wanted, options) or wanted
    found = next((option for option in options if option.name == wanted), None)
    if found is None:
        error = refusal(repr(name), wanted, options, prog=None)
        raise UserError(f"{path}: {error}")
    if found.is_positional:
        raise UserError(f"{path}: {name!r} stands on the command line, without a flag: leave it out here")
    return found


def _refuse_wrong_kind(option: Option, value: Any, where: str) -> None:
    """What would make a flag of another shape: switches, lists and sections."""
    if value is None and option.may_be_none:
        return
    if value is True and option.bare_value is not None:
        return
    if isinstance(value, bool) != option.is_switch:
        raise UserError(
            f"{where} {'must be true or false' if option.is_switch else 'needs a value'}, not {value}"
        )
    if isinstance(value, dict) or (isinstance(value, list) and not option.is_list):
        raise UserError(f"{where} takes one value, not {value}")


def _flag(option: Option, value: Any, path: Path) -> list[str]:
    if option.is_switch and value is not None:
        return [option.flag if value else "--no-" + option.flag[2:]]
    if value is True:
        return [f"{option.flag}={option.bare_value}"]
    values = list(map(str, value)) if isinstance(value, list) else [str(value)]
    for one in values:
        try:
            require_fit(option, one)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    if isinstance(value, list):
        return [option.flag, *values]
    return [f"{option.flag}={value}"]  # in one word, so that a value may begin with a dash
