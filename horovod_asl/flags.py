"""The words of a command line before tyro reads them: names known by meaning, slips with the nearest that fits."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from horovod_asl.errors import UserError
from horovod_asl.options import Option, options_of
from horovod_asl.synonyms import WITHOUT, like, our_name

_NUMBERS = {int: "a whole number", float: "a number"}


def checked(config_class: type[Any], argv: Sequence[str], *, prog: str) -> list[str]:
    """The arguments with every flag under our name, and no value that its option cannot take.

    Raises:
        UserError: a flag that there is not, with the one that was meant; a value that is missing or does not fit.
    """
    options = options_of(config_class)
    by_flag = {option.flag: option for option in options if not option.is_positional}
    words: list[str] = []
    reading: Option | None = None  # whose values follow
    for position, word in enumerate(argv):
        if word.partition("=")[0] == "--config":
            words.append(word)
            reading = None
            continue
        if not _is_flag(word, options):
            if reading is not None:
                require_fit(reading, word)
                reading = reading if reading.is_list else None
            words.append(word)
            continue
        given, equals, value = word.partition("=")
        flag = _our_flag(given, options, by_flag, prog)
        words.append(flag + equals + value)
        option = by_flag.get(flag)
        takes_more = option is not None and not option.is_switch and not equals
        if option is not None and equals and not option.is_switch:
            require_fit(option, value)
        if option is not None and takes_more and not option.is_list:
            following = argv[position + 1 : position + 2]
            if option.bare_value is not None and (not following or following[0].startswith("-")):
                words[-1] += f"={option.bare_value}"
                takes_more = False
            else:
                _require_value(option, following)
        reading = option if takes_more else None
    return words


def require_fit(option: Option, value: str) -> None:
    """UserError where an option of choices or of a number has no such value."""
    if (value == "None" and option.may_be_none) or option.is_positional:
        return
    if option.choices and value not in option.choices:
        near = nearest(value, option.choices)
        meant = f"did you mean {near}? There are" if near else "there are"
        raise UserError(f"{option.flag} {value}: {meant} {', '.join(option.choices)}")
    if option.kind in _NUMBERS:
        try:
            option.kind(value)
        except ValueError:
            raise UserError(f"{option.flag} {value}: it must be {_NUMBERS[option.kind]}") from None


def refusal(given: str, name: str, options: Sequence[Option], *, prog: str | None) -> UserError:
    """Why there is no such option, and which was meant.

    Args:
        given: how it was written.
        name: its bare name.
        prog: `horovod-asl train`; None for a key of a YAML file.
    """
    meant = like(name, options)
    if meant is not None and meant.is_positional:
        labels = " ".join(option.label for option in options if option.is_positional)
        where = f": {prog} {labels}" if prog else ", on the command line"
        return UserError(f"{given}: write it without a flag{where}")
    if meant is not None:
        return UserError(f"{given}: here it is {_spelled(meant.name, prog)}")
    if name in WITHOUT:
        return UserError(f"{given}: {WITHOUT[name]}")
    near = nearest(name.removeprefix("no_"), [option.name for option in options if not option.is_positional])
    hint = f": did you mean {_spelled(near, prog)}?" if near else ""
    manual = f" ({prog} --help lists all)" if prog else ""
    return UserError(f"there is no option {given}{hint}{manual}")


def _spelled(name: str, prog: str | None) -> str:
    return "--" + name.replace("_", "-") if prog else name


def nearest(word: str, among: Sequence[str]) -> str | None:
    """The one of these that is spelled most like `word`, in whatever case; None where none is near."""
    folded = {one.lower(): one for one in among}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def _is_flag(word: str, options: Sequence[Option]) -> bool:
    """Whether a word is no value: `-1`, `-` and `-a/b.jpg` are values."""
    name = word.partition("=")[0].lstrip("-")
    if word.startswith("--"):
        return word != "--"
    return word.startswith("-") and len(name) == 1 and name.isalpha() and _is_known(name, options)


def _is_known(name: str, options: Sequence[Option]) -> bool:
    return our_name(name, options) is not None or like(name, options) is not None or name in WITHOUT


def _our_flag(given: str, options: Sequence[Option], by_flag: dict[str, Option], prog: str) -> str:
    name = given.lstrip("-").replace("-", "_")
    flag = "--" + name.replace("_", "-")
    if given.startswith("--"):
        positive = "--" + flag.removeprefix("--no-")
        if flag in by_flag or (flag != positive and positive in by_flag and by_flag[positive].is_switch):
            return flag
    ours = our_name(name, options)
    if ours is None:
        raise refusal(given, name, options, prog=prog)
    return "--" + ours.replace("_", "-")


def _require_value(option: Option, following: Sequence[str]) -> None:
    if not following or following[0].startswith("--"):
        raise UserError(f"{option.flag} needs a value: {option.flag} {option.label}")


def join_repeated(config_class: type[Any], argv: list[str]) -> list[str]:
    """The arguments with the values of a list that is given several times together: tyro would take the last alone.

    They stand where the last of them stood, so that they win over a config file to the left of that.
    """
    for option in (option.flag for option in options_of(config_class) if option.is_list):
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
