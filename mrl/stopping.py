"""Signals that ask a run to end: it ends where nothing is lost.

Ctrl-C (SIGINT), a cluster's SIGTERM and SIGUSR1, which many ask for some minutes before the end of the time, all mean
the same. While nothing has been trained they end the run at once. Under :func:`deferring` the first of them is
remembered until the run looks, between two steps say, and saves; a second one ends it there and then.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stopped(BaseException):
    """The run was asked to end. Like KeyboardInterrupt it is no Exception: nothing may take it for a mishap."""

    def __init__(self, number: int, *, is_sudden: bool = False) -> None:
        self.name = signal.Signals(number).name
        self.is_sudden = is_sudden
        """Whether it came in the middle of something, whose half is not to be saved."""
        self.exit_code = 128 + number
        self.saved: str | None = None
        """What the run can go on from, where something was saved."""
        super().__init__(f"by {self.name}")


class _Ears:
    """What the handlers have heard; signals belong to the process, and so does this."""

    def __init__(self) -> None:
        self.heard: int | None = None
        self.defers = False


_ears = _Ears()


@contextmanager
def listening() -> Iterator[None]:
    """Signals raise :class:`Stopped` within the block; the handlers from before are back after it."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    _ears.heard = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferring() -> Iterator[None]:
    """Within the block the first signal waits for :func:`heed` or :func:`is_stop_requested`."""
    _ears.defers = True
    try:
        yield
    finally:
        _ears.defers = False


def is_stop_requested() -> bool:
    """Whether a signal waits."""
    return _ears.heard is not None


def heed() -> None:
    """Raise Stopped if a signal waits: here nothing would be lost."""
    if _ears.heard is not None:
        raise stopped()


def stopped() -> Stopped:
    """For the signal that waits; for SIGTERM where it was another process that heard it."""
    return Stopped(signal.SIGTERM if _ears.heard is None else _ears.heard)


def last_words(stop: Stopped, command: Sequence[str]) -> str:
    """What a run that was asked to end says: what is saved, and that ``command`` goes on from there."""
    if stop.saved is None:
        return f"stopped {stop}; nothing is saved yet: start again with the same command"
    return f"stopped {stop}; saved: {stop.saved}; go on with: {shlex.join(command)}"


def heeding(advance: Callable[[int], None]) -> Callable[[int], None]:
    """``advance``, which counts work that may be broken off at any item, and then :func:`heed`."""

    def advance_and_heed(count: int) -> None:
        advance(count)
        heed()

    return advance_and_heed


def _hear(number: int, _: FrameType | None) -> None:
    is_first, _ears.heard = _ears.heard is None, number
    if not (_ears.defers and is_first):
        raise Stopped(number, is_sudden=True)
    if sys.stderr.isatty():  # written past the console, whose lock the main thread may hold
        os.write(2, b"\nending after this step; once more ends at once, and loses what was not saved\n")
