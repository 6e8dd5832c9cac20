"""Standard streams as they may be: of another encoding than UTF-8, closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from typing import TextIO

BROKEN_PIPE = 141
"""The exit code where nobody reads the output any more: what a shell reports of programs that SIGPIPE ends."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_ERRORS = "horovod_asl.readable"
_PLAIN = {
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "÷": "/",
    "→": "->",
    "−": "-",
    "≥": ">=",
    "≤": "<=",
    "·": ".",
}
_PLAIN |= dict.fromkeys("─━╺╸", "-") | dict.fromkeys("│┃", "|") | dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛┡┩╇", "+")


def make_usable() -> None:
    """Let every text be printed, every file name be read, and nobody meet a stream that is closed.

    A line is one piece of output, text and end together: a launcher puts the rank before each piece that comes, and
    Python writes the two apart where PYTHONUNBUFFERED is set, as horovodrun does.
    Output keeps its encoding. What that lacks is replaced by ASCII or an escape; the bytes of a file name that is not
    UTF-8 are written as they are. Standard input is read as a list of file names.
    """
    _open_closed()
    codecs.register_error(_ERRORS, _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS, line_buffering=True, write_through=False)
            _end_pieces_at_line_ends(stream)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())


def are_broken(error: BaseException | None) -> bool:
    """Whether the error is of standard output or standard error, and not of a worker's pipe or another rank's."""
    return isinstance(error, BrokenPipeError) and any(map(_has_no_reader, (sys.stdout, sys.stderr)))


def refuse(error: OSError) -> bool:
    """Whether the error is of an output that takes no more, such as a file on a full disk."""
    is_write = error.errno in _NO_ROOM and error.filename is None
    return is_write and any(map(_takes_nothing, (sys.stdout, sys.stderr)))


def flush() -> OSError | None:
    """Write what is left of the output; the error where that is refused. What then remains is dropped, in silence."""
    fault = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            fault = error
            _drop(stream)
        except ValueError:  # a stream that somebody closed
            pass
    return fault


def _end_pieces_at_line_ends(stream: io.TextIOWrapper) -> None:
    """Write a text of several lines up to its last line end; what follows waits for its own, which `print` adds."""
    write = stream.write

    def write_lines(text: str, /) -> int:
        lines, end, rest = text.rpartition("\n")
        if lines and rest:
            write(lines + end)
            write(rest)
        else:
            write(text)
        return len(text)

    stream.write = write_lines  # type: ignore[method-assign]


def _readable(error: UnicodeError) -> tuple[bytes, int]:
    """What `errors=` calls for characters that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_bytes_of, error.object[error.start : error.end])), error.end


def _bytes_of(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte of a file name that is not UTF-8
        return bytes([ord(character) - 0xDC00])
    return _PLAIN.get(character, character).encode("ascii", "backslashreplace")


def _open_closed() -> None:
    """Begun with `>&-` a stream is None, and the next file that is opened takes its place, and what C prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - to the end


def _has_no_reader(stream: TextIO) -> bool:
    try:
        ask = select.poll()
        ask.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in ask.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows has no poll; a stream of tests no number
        return True


def _takes_nothing(stream: TextIO) -> bool:
    try:
        os.write(stream.fileno(), b"\n")
    except (OSError, ValueError):
        return True
    return False


def _drop(stream: TextIO) -> None:
    """Let the interpreter's own flush at its end succeed."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
