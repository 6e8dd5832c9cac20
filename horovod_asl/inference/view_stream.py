"""Photos viewed one after another, in order and in bounded memory, for `predict`: answers come while others wait.

The first photos go to threads, which start at once; from as many on as make processes worth their start, to those.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread

from horovod_asl.inference.photo_view import PhotoView, view_photo
from horovod_asl.inference.readers import Reader
from horovod_asl.photos.decode import PhotoError
from horovod_asl.photos.origins import Origin
from horovod_asl.photos.workers import process_pool
from horovod_asl.system.cores import usable_cores

MOST_TOGETHER = 16
_AHEAD = 96
"""Photos that may be read ahead of the network, so that processes have work while threads do the first ones."""


@dataclass(frozen=True, eq=False)
class Viewed:
    """A photo by its name, and its view or why there is none."""

    name: str
    view: PhotoView | PhotoError


_Waiting = Queue[tuple[str, Future[PhotoView | PhotoError]] | BaseException | None]


def view_stream(photos: Iterable[tuple[str, Origin]], reader: Reader) -> Iterator[list[Viewed]]:
    """The views of photos by name, in order, in lists of those that are ready together, 1 to `MOST_TOGETHER`.

    `photos` is read by a thread, and may take its time, as a list on standard input does.
    """
    waiting: _Waiting = Queue(_AHEAD)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow's remarks about odd metadata; what matters raises
        Thread(target=_submit, args=(photos, reader, waiting, stack), daemon=True).start()
        yield from _together(waiting)


def _submit(
    photos: Iterable[tuple[str, Origin]], reader: Reader, waiting: _Waiting, stack: ExitStack
) -> None:
    """Hand each photo to a pool, and what will come of it to the reading thread; an error, and None at the end."""
    try:
        pool: Executor = _entered(ThreadPoolExecutor(usable_cores()), stack)
        for number, (name, origin) in enumerate(photos):
            if number == reader.processes_from:
                pool = _entered(process_pool(usable_cores()), stack)
            waiting.put((name, pool.submit(_view, origin, reader)))
    except BaseException as error:
        waiting.put(error)
    else:
        waiting.put(None)


def _entered(pool: Executor, stack: ExitStack) -> Executor:
    """The pool, to be ended with the stack, and not to begin what nobody waits for any more."""
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def _together(waiting: _Waiting) -> Iterator[list[Viewed]]:
    following = waiting.get()
    while following is not None:
        if isinstance(following, BaseException):
            raise following
        name, view = following
        ready = [Viewed(name, view.result())]
        following = _at_hand(waiting)
        while isinstance(following, tuple) and following[1].done() and len(ready) < MOST_TOGETHER:
            ready.append(Viewed(following[0], following[1].result()))
            following = _at_hand(waiting)
        yield ready
        following = waiting.get() if following is _NOTHING_YET else following


_NOTHING_YET = RuntimeError()


def _at_hand(waiting: _Waiting) -> tuple[str, Future[PhotoView | PhotoError]] | BaseException | None:
    try:
        return waiting.get_nowait()
    except Empty:
        return _NOTHING_YET


def _view(origin: Origin, reader: Reader) -> PhotoView | PhotoError:
    try:
        return view_photo(origin.read(), reader)
    except PhotoError as error:
        return error
