"""Flags and YAML to a typed, frozen config: tyro reads the flags, and a YAML file is flags in another spelling.

`--config FILE` is expanded in place into the flags that its keys name, so both go through one validation:
unknown keys and wrong types are refused alike, and a flag to the right of `--config` wins over the file. `~` is
expanded in every path of the result, because a shell expands it at the beginning of a word alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import tyro

from horovod_asl import __version__
from horovod_asl.config import RETIRED, SCHEMA, TrainConfig
from horovod_asl.errors import UserError

ConfigT = TypeVar("ConfigT")

_LEAST_COLUMNS = 40


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
        UserError: the YAML file is missing, is not a mapping, or holds a key that the config lacks; a flag or a
            value is refused, by tyro or by the config itself; a path begins with `~` and the name of no user.
        SystemExit: after `--help`, with code 0.
    """
    args = _expand_config_files(config_class, _join_repeated(config_class, list(argv)))
    args = _with_values(config_class, args)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _wide_enough():
            config = tyro.cli(
                config_class,
                args=args,
                prog=prog,
                description=description,
                default=default if default is not None else tyro.MISSING_NONPROP,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _own_error(stop) or UserError(_one_line(complaint.getvalue(), prog)) from None
    result: ConfigT = _with_homes(config)
    return result


@contextlib.contextmanager
def _wide_enough() -> Iterator[None]:
    """In a terminal of a few columns tyro wraps its manual for ever, and takes all memory."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns >= _LEAST_COLUMNS:
        yield
        return
    os.environ["COLUMNS"] = str(_LEAST_COLUMNS)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def expand_home(text: str) -> str:
    """The path with `~` or `~USER` at its beginning replaced by that home folder.

    Raises:
        UserError: there is no such user, or the home is not known, and no file of that very name is here.
    """
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path's own raises a RuntimeError, and drops `./`
    first = text.partition("/")[0]
    if not expanded.startswith("~") or (first != "~" and Path(first).exists()):
        return expanded
    reason = (
        "your home folder is not known here; set HOME"
        if first == "~"
        else f"there is no user {first[1:]} on this machine"
    )
    raise UserError(f"{text}: {reason}, or write the whole path")


def to_yaml(config: Any) -> str:
    """The config as YAML that `--config` reads back to an equal config."""
    import yaml  # only here and below: --help and flags alone do without

    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def value_of(config_class: type[Any], argv: Sequence[str], flag: str) -> str | None:
    """The value of `flag` (`--resume`) among the arguments and in their config files, the last one; None without any.

    Nothing else is looked at: the other arguments may only make sense once this one is known.

    Raises:
        UserError: as `parse`, of a config file.
    """
    value = ""
    words = _expand_config_files(config_class, list(argv))
    for word, after in pairwise([*words, ""]):
        if word == flag:
            value = after
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return None if value in ("", "None") else value


def command(*words: str | Path) -> str:
    """`horovod-asl WORDS`, to be pasted into a shell: quoted, and by its path where the shell does not know it."""
    return f"{_program()} {shlex.join(map(str, words))}"


def _program() -> str:
    """`horovod-asl`; by its path where its environment is not active in the user's shell, as after `make train`."""
    if os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "horovod-asl"
    program, here = Path(sys.executable).with_name("horovod-asl"), Path.cwd()
    if not program.is_file():
        return f"{shlex.quote(sys.executable)} -m horovod_asl"
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))


def require_writable(path: Path, flag: str) -> None:
    """Refuse a place where `flag`'s file can't be written, before the work whose outcome it is to hold.

    Raises:
        UserError: a folder is there, its own folder is missing, or writing is not allowed.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a file in it, such as {path / 'scores.json'}")
    if not folder.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {folder}; make it, or name another place")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: choose another place")


def write_text(path: Path, text: str, flag: str) -> None:
    """Write `flag`'s file; UserError where the disk refuses it after all."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written ({error.strerror or error})") from error


def fail(message: str) -> None:
    """Print a user's mistake as one line on standard error."""
    with contextlib.suppress(OSError):  # the exit code tells those who read no standard error
        print(f"error: {message}", file=sys.stderr, flush=True)


def _own_error(stop: BaseException) -> UserError | None:
    """The config's own complaint, raised while tyro was building it; None where tyro itself complains."""
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__context__
    return cause


def _one_line(complaint: str, prog: str) -> str:
    """tyro's box of a fault, with the flags that may have been meant and a hint, as one line."""
    lines = [line.strip("│╭╮╰╯ ") for line in complaint.splitlines()[1:]]  # the first is the box's title
    ruled = "\n".join(line if line.strip("─-") else "\f" for line in lines).strip("\n\f")
    fault, *rest = ruled.split("\f")
    meant = [word.rstrip(",") for part in rest if "Perhaps you meant" in part for word in _first_flags(part)]
    hint = f"; perhaps you meant {', '.join(meant)}" if meant else ""
    return f"{' '.join(fault.split()).rstrip('.')}{hint} ({prog} --help lists all)"


def _first_flags(paragraph: str) -> list[str]:
    return [line.split()[0] for line in paragraph.splitlines() if line.startswith("--")]


def _with_homes(config: Any) -> Any:
    """The config with `~` expanded in each path that it or one of its groups holds."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    places = {field.name for field in dataclasses.fields(config) if field.metadata.get("is_place")}
    expanded = {name: _expanded(value, is_place=name in places) for name, value in values.items()}
    changed = {name: value for name, value in expanded.items() if value != values[name]}
    return dataclasses.replace(config, **changed) if changed else config


def _expanded(value: Any, *, is_place: bool) -> Any:
    if dataclasses.is_dataclass(value):
        return _with_homes(value)
    if isinstance(value, tuple):
        return tuple(_expanded(item, is_place=is_place) for item in value)
    if isinstance(value, Path):
        return _spelled(Path(expand_home(str(value))))
    if isinstance(value, str) and is_place:
        name, equals, place = value.partition("=")
        return f"{name}={expand_home(place)}" if equals and "/" not in name else expand_home(value)
    return value


def _spelled(path: Path) -> Path:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path} is no file name in this locale ({error.encoding}): set LC_ALL=C.UTF-8, or name another"
        ) from error
    return path


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
            expanded += flags_of_file(config_class, Path(expand_home(name)))
            position += 1 if inline else 2
        else:
            expanded.append(word)
            position += 1
    return expanded


def flags_of_file(
    config_class: type[Any], path: Path, *, refuse_retired: bool = True, written_by: str = "the version that wrote it"
) -> list[str]:
    """The flags that a YAML file of `config_class` stands for.

    Args:
        refuse_retired: whether a key of `config.RETIRED` must have its old default; else it is dropped at any value.
        written_by: the version to name in that refusal.

    Raises:
        UserError: no such file, not a YAML mapping, of a newer version, or with a key that the config lacks.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"the config {path} must be a mapping of option names to values")
    if issubclass(config_class, TrainConfig):
        require_known_schema(content, path)
        content.pop("schema", None)
        gone = _pop_retired(content)
        if gone and refuse_retired:
            raise UserError(
                f"{path} asks for {', '.join(gone)}, which this version of horovod-asl ({__version__}) no longer "
                f"has: train with {written_by}, or start a new run without it"
            )
    return _flags_of_mapping(config_class, content, where=str(path))


def require_known_schema(content: Mapping[str, Any], path: Path) -> None:
    """UserError if `content`, which `path` holds, was written by a version whose files this one cannot know."""
    schema = content.get("schema", 1)
    if schema not in range(1, SCHEMA + 1):
        raise UserError(
            f"{path} was written by a newer version of horovod-asl (its schema is {schema}, this version "
            f"{__version__} reads up to {SCHEMA}): use that version, or a later one"
        )


def _pop_retired(content: dict[str, Any]) -> list[str]:
    """Take the keys of `RETIRED` out of `content`; returns the flags of those that had not their old default."""
    gone: list[str] = []
    for key, value in list(content.items()):
        name = str(key).replace("-", "_")
        if isinstance(value, dict):
            gone += _pop_retired(value)
        elif name in RETIRED:
            del content[key]
            gone += [f"--{name.replace('_', '-')} {value}"] if value != RETIRED[name] else []
    return gone


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
            _refuse_wrong_kind(fields[name], value, where=f"{where}: {key!r}")
            flags += _flag(name, value)
    return flags


def _join_repeated(config_class: type[Any], argv: list[str]) -> list[str]:
    """The arguments with the values of a list that is given several times together: tyro would take the last alone.

    They stand where the last of them stood, so that they win over a config file to the left of that.
    """
    for option in _list_options(config_class):
        places = [i for i, word in enumerate(argv) if word == option or word.startswith(f"{option}=")]
        if len(places) < 2:
            continue
        values: list[str] = []
        for place in reversed(places[:-1]):
            end = place + 1
            while argv[place] == option and end < len(argv) and not argv[end].startswith("-"):
                end += 1
            inline = [argv[place].partition("=")[2]] if argv[place] != option else []
            values = [*inline, *argv[place + 1 : end], *values]
            del argv[place:end]
        last = next(i for i, word in enumerate(argv) if word == option or word.startswith(f"{option}="))
        inline = [argv[last].partition("=")[2]] if argv[last] != option else []
        argv[last : last + 1] = [option, *values, *inline]
    return argv


def _list_options(config_class: type[Any]) -> list[str]:
    options: list[str] = []
    for field in dataclasses.fields(config_class):
        nested = _dataclass_of(field)
        if nested is not None:
            options += _list_options(nested)
        elif str(field.type).startswith("tuple") and str(field.type).endswith("...]"):
            options.append("--" + field.name.replace("_", "-"))
    return options


def _with_values(config_class: type[Any], argv: list[str]) -> list[str]:
    """The arguments with `--hands` and `--no-hands` of a `bool | None` as `--hands=True` and `--hands=False`.

    Only a plain `bool` has such a pair of flags in tyro; one of None too would need a value.
    """
    values: dict[str, str] = {}
    for name in _optional_switches(config_class):
        values |= {f"--{name}": f"--{name}=True", f"--no-{name}": f"--{name}=False"}
    return [values.get(word, word) for word in argv]


def _optional_switches(config_class: type[Any]) -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(config_class):
        nested = _dataclass_of(field)
        if nested is not None:
            names += _optional_switches(nested)
        elif _is_optional_switch(field):
            names.append(field.name.replace("_", "-"))
    return names


def _is_optional_switch(field: dataclasses.Field[Any]) -> bool:
    return "bool | None" in str(field.type) or "Optional[bool]" in str(field.type)


def _dataclass_of(field: dataclasses.Field[Any]) -> type[Any] | None:
    factory: Any = field.default_factory
    return factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None


def _refuse_wrong_kind(field: dataclasses.Field[Any], value: Any, *, where: str) -> None:
    """What would make a flag of another shape, and a message about that flag: switches, lists and sections."""
    if _is_optional_switch(field) and value is None:
        return
    kind = "bool" if _is_optional_switch(field) else str(getattr(field.type, "__name__", field.type))
    if isinstance(value, bool) != (kind == "bool"):
        raise UserError(
            f"{where} {'must be true or false' if kind == 'bool' else 'needs a value'}, not {value}"
        )
    if isinstance(value, dict) or (isinstance(value, list) and not kind.startswith("tuple")):
        raise UserError(f"{where} takes one value, not {value}")


def _flag(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option[2:]]
    if isinstance(value, list):
        return [option, *map(str, value)]
    return [f"{option}={value}"]  # in one word, so that a value may begin with a dash
