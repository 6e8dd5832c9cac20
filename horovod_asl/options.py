"""The options that a config class declares, read from its fields: for the manual, for YAML and for good refusals."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union

from tyro.conf import Positional

_KINDS = {"int": "INT", "float": "FLOAT", "str": "TEXT", "Path": "PATH"}
_SHORTEST_LIST_OF_CHOICES = 36


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: the field's name, which is its key in YAML.
        owner: the dataclass that declares it.
        section: the group that it stands in, which is its section in YAML; None at the top.
        kind: its type without `Optional` and markers; of a list, that of its elements.
        default: `dataclasses.MISSING` where it must be given.
        is_list: whether it takes any number of values.
        may_be_none: whether `None` is a value.
        is_positional: whether it is a plain word, without a flag.
        label: what stands for its value in the manual.
        bare_value: its value where the flag stands without one; None where it needs one.
    """

    name: str
    owner: type[Any]
    section: str | None
    kind: Any
    default: Any
    is_list: bool
    may_be_none: bool
    is_positional: bool
    label: str
    bare_value: str | None = None

    @property
    def flag(self) -> str:
        """`--learning-rate`."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that there are, in the order of the declaration; () for an option of any value."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, and takes no value."""
        return self.kind is bool

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def shown(self) -> str:
        """How the manual calls it: by its flag, or as the word that it is."""
        return self.label if self.is_positional else self.flag

    def help(self) -> str:
        """The docstring under the field, in one line."""
        return _docstrings(self.owner.__module__)[self.owner.__name__].get(self.name, "")


def options_of(config_class: type[Any]) -> tuple[Option, ...]:
    """All options of a config class, those of its sections included, in the order of declaration."""
    return tuple(_options(config_class, None))


def section_of(field: dataclasses.Field[Any]) -> type[Any] | None:
    """The dataclass that a field is a section of; None for an option."""
    factory: Any = field.default_factory
    return factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None


def _options(config_class: type[Any], section: str | None) -> Iterator[Option]:
    hints = typing.get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        nested = section_of(field)
        if nested is not None:
            yield from _options(nested, field.name)
        else:
            yield _option(config_class, field, hints[field.name], section)


def _option(config_class: type[Any], field: dataclasses.Field[Any], hint: Any, section: str | None) -> Option:
    kind, marks = _without_marks(hint)
    kind, may_be_none = _without_none(kind)
    is_list = typing.get_origin(kind) is tuple
    if is_list:
        kind = typing.get_args(kind)[0]
    labels = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
    owner = next(one for one in config_class.__mro__ if field.name in vars(one).get("__annotations__", {}))
    return Option(
        name=field.name,
        owner=owner,
        section=section,
        kind=kind,
        default=field.default,
        is_list=is_list,
        may_be_none=may_be_none,
        is_positional=Positional in marks,
        label=labels[0] if labels else _label(kind, is_list=is_list),
        bare_value=field.metadata.get("bare_value"),
    )


def _without_marks(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, ()
    inner, *marks = typing.get_args(hint)
    kind, more = _without_marks(inner)
    return kind, (*marks, *more)


def _without_none(kind: Any) -> tuple[Any, bool]:
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    others = [one for one in typing.get_args(kind) if one is not type(None)]
    return others[0], len(others) < len(typing.get_args(kind))


def _label(kind: Any, *, is_list: bool) -> str:
    values = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    listed = "{" + ",".join(map(str, values)) + "}"
    one = (
        (listed if len(listed) <= _SHORTEST_LIST_OF_CHOICES else "NAME")
        if values
        else _KINDS.get(getattr(kind, "__name__", ""), "")
    )
    return f"{one} …" if is_list else one


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string that stands under it in the source, its line breaks taken out."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            found[node.name] = {
                field.target.id: " ".join(text.value.value.split())
                for field, text in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return found
