"""`horovod-asl COMMAND …`: find the command, run it, and turn a user's mistake into one line."""

from __future__ import annotations

import errno
import getpass
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from horovod_asl import __version__
from horovod_asl.command_line.cli import fail
from horovod_asl.distributed.launcher import announced_rank
from horovod_asl.errors import UserError
from horovod_asl.system import streams
from horovod_asl.system.files import is_full

COMMANDS: dict[str, str] = {
    "prepare": "decode photos once into a store",
    "inspect": "what is in a store: counts, duplicates, a contact sheet",
    "train": "train on a store, on any number of ranks",
    "evaluate": "score a run on a split or on a folder of photos",
    "predict": "read photos with a run, or with the model that ships",
    "live": "a page that reads you at your camera, letter by letter, and speaks",
    "translate": "the text that a film spells, as captions and as speech",
    "export": "a run as an ONNX file, or as the bundled model",
    "crossval": "leave one source or person out at a time, and report each",
    "compare": "the same job under serial, dp, ddp and horovod, in one table",
    "draw": "a film of a drawn hand that spells a text",
    "doctor": "what is installed here, and what is missing for what",
}

_MOVED = {"benchmark": "in a checkout, run `make bench` or `python -m benchmarks`"}

# What is on this machine and not in this program: a file or folder that this user may not read or write.
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)

USAGE = "\n".join(
    [
        f"horovod-asl {__version__}: train an ASL alphabet classifier on as many machines as you have.",
        "",
        "usage: horovod-asl COMMAND [OPTIONS]      (horovod-asl COMMAND --help is its manual)",
        "",
        *(f"  {name:<10} {summary}" for name, summary in COMMANDS.items()),
    ]
)


def main(command: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code; with 141 where nobody reads the output any more.

    Args:
        command: the command's name; None takes it from the first argument.
        argv: the arguments after the command; None takes them from `sys.argv`.
    """
    run(lambda: _command(command, list(sys.argv[1:] if argv is None else argv)))


def run(program: Callable[[], int]) -> NoReturn:
    """Run a program as a command is run: a user's mistake is one line. Leave with the exit code that it returns."""
    streams.make_usable()
    _name_user()
    _let_idle_threads_sleep()
    _leave(_code(program))


def _command(command: str | None, arguments: list[str]) -> int:
    if command is None:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(USAGE)
            return 0 if arguments else 2
        if arguments[0] == "--version":
            print(f"horovod-asl {__version__}")
            return 0
        command = arguments.pop(0)
    if command in _MOVED:
        fail(f"`{command}` is no longer a command: {_MOVED[command]}")
        return 2
    if command not in COMMANDS:
        fail(f"no command {command!r}; there are: {', '.join(COMMANDS)}")
        return 2
    _require_working_folder()
    module = importlib.import_module(f"horovod_asl.commands.{command}")
    return int(module.main(arguments))


def _code(program: Callable[[], int]) -> int:
    try:
        return program()
    except UserError as error:
        fail(_with_rank(str(error)))
        return 2
    except KeyboardInterrupt as interrupt:
        fail(_with_rank("; ".join(["interrupted", *map(str, interrupt.args)])))
        return 130
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # how rich leaves
            return streams.BROKEN_PIPE
        if stop.code not in (None, 0):
            raise
        return 0  # after --help
    except Exception as error:
        if streams.are_broken(error):
            return streams.BROKEN_PIPE
        if isinstance(error, OSError) and streams.refuse(error):
            fail(_with_rank(f"the output cannot be written ({error.strerror})"))
            return 2
        if is_full(error):
            fail(_with_rank(f"a disk is full, or your quota is used up ({error}): free some room and try again"))
            return 2
        if (fault := _fault_of_torch(error)) is not None:
            fail(_with_rank(fault))
            return 2
        if isinstance(error, OSError) and error.errno in _NOT_ALLOWED and error.filename is not None:
            fail(_with_rank(f"{os.fspath(error.filename)}: {error.strerror}"))
            return 2
        if not _one_of_several():
            raise
        print(_with_rank("failed; its traceback:"), file=sys.stderr)
        traceback.print_exc()
        return 1


def _fault_of_torch(error: Exception) -> str | None:
    """A line for what a GPU or the memory lacks; torch is not imported for it."""
    if "torch" not in sys.modules:
        return None
    from horovod_asl.distributed.gpu import in_one_line

    return in_one_line(error)


def _require_working_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as error:
        raise UserError("the working folder was removed: go to another, with `cd`") from error


def _name_user() -> None:
    """A user without an entry in passwd (docker run --user 1234) has no name, and torch.compile wants one."""
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _let_idle_threads_sleep() -> None:
    """A thread of OpenMP waits for the others in a loop that takes its whole core, also where another process wants
    it, and torch is then up to ten times slower. It reads this as it is loaded; the user's own value stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _leave(code: int) -> NoReturn:
    """Exit; a rank that failed leaves at once, because tidy shutdown would wait for ranks that wait for it."""
    fault = streams.flush()
    if isinstance(fault, BrokenPipeError):
        code = streams.BROKEN_PIPE
    elif fault is not None and code == 0:
        fail(_with_rank(f"the output cannot be written ({fault.strerror or fault})"))
        code = 2
    if code != 0 and _one_of_several():
        os._exit(code)
    sys.exit(code)


def _one_of_several() -> bool:
    return announced_rank() is not None


def _with_rank(message: str) -> str:
    rank = announced_rank()
    return message if rank is None else f"rank {rank}: {message}"


if __name__ == "__main__":
    main()
