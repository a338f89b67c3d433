"""Audio files read ahead by threads, in order, few at a time, and not waited for without a limit."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, TypeVar

from mrl.audio import Samples, read
from mrl.errors import DataError
from mrl.stopping import heed

Item = TypeVar("Item")
Result = TypeVar("Result")

HUNG_SECONDS = 300.0
"""A result that is so late counts as one that never comes: a network share that is gone, a disk that hangs."""
_LOOK_SECONDS = 0.5  # between looks at the clock, and for a request to stop, while a result is late
_LAST_WAIT_SECONDS = 5.0  # for what has begun when nothing more is wanted


def read_ahead(paths: Iterable[Path], workers: int, max_samples: int | None = None) -> Iterator[Samples]:
    """Whole utterances [T] (or their first ``max_samples``) in the order of ``paths``, read by threads.

    At most twice as many as there are ``workers`` are held. Raises AudioError at the first unreadable file, and
    DataError as in `map_ahead`.
    """
    return map_ahead(partial(read, max_samples=max_samples), paths, workers)


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    name: Callable[[Item], object] = str,
) -> Iterator[Result]:
    """``function`` of each item, in the order of ``items``, computed by threads.

    At most twice as many results as there are ``workers`` are held; fewer workers than one count as one. What
    ``function`` raises is raised in that item's place; what has not begun by then never does. Raises DataError with
    the ``name`` of an item whose result has been waited for longer than `HUNG_SECONDS`, and Stopped where the run is
    asked to end while a result is late.
    """
    workers = max(1, workers)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    threads = _Threads(function, workers)
    try:
        for item in items:
            pending.append((item, threads.submit(item)))
            if len(pending) > 2 * workers:
                yield _result(*pending.popleft(), name)
        while pending:
            yield _result(*pending.popleft(), name)
    finally:
        for _, future in pending:
            future.cancel()
        threads.end()


class _Threads(Generic[Item, Result]):
    """Like concurrent.futures.ThreadPoolExecutor, but that nobody waits at exit for a thread that hangs."""

    def __init__(self, function: Callable[[Item], Result], count: int) -> None:
        self._tasks: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_serve, args=(function, self._tasks), daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> Future[Result]:
        future: Future[Result] = Future()
        self._tasks.put((item, future))
        return future

    def end(self) -> None:
        """What was cancelled never begins; what has begun is waited for, a few seconds in all."""
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + _LAST_WAIT_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def _serve(
    function: Callable[[Item], Result], tasks: SimpleQueue[tuple[Item, Future[Result]] | None]
) -> None:
    while (task := tasks.get()) is not None:
        item, future = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function(item))
        except BaseException as error:
            future.set_exception(error)
        del task, item, future  # nothing is held while the next one is waited for


def _result(item: Item, future: Future[Result], name: Callable[[Item], object]) -> Result:
    started = time.monotonic()
    while True:
        try:
            return future.result(_LOOK_SECONDS)
        except TimeoutError:
            if future.done():  # the function's own
                raise
        heed()
        if time.monotonic() - started > HUNG_SECONDS:
            raise DataError(
                f"{name(item)}: not read within {HUNG_SECONDS:g} s; look at the disk or network share that it lies on"
            )
