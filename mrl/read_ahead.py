"""Audio files read ahead by threads, in order, few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from mrl.audio import Samples, read

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(paths: Iterable[Path], workers: int, max_samples: int | None = None) -> Iterator[Samples]:
    """Whole utterances [T] (or their first ``max_samples``) in the order of ``paths``, read by threads.

    At most twice as many as there are ``workers`` are held. Raises AudioError at the first unreadable file.
    """
    return map_ahead(partial(read, max_samples=max_samples), paths, workers)


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """``function`` of each item, in the order of ``items``, computed by threads.

    At most twice as many results as there are ``workers`` are held; fewer workers than one count as one. What
    ``function`` raises is raised in that item's place; what has not begun by then never does.
    """
    workers = max(1, workers)
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
