"""Signals that ask a run to end: it ends where nothing is lost.

Ctrl-C (SIGINT), a terminal that is closed (SIGHUP), a cluster's SIGTERM, and what clusters send some minutes before the
end of the time (SIGUSR1, SIGUSR2, SIGXCPU) all mean the same. While nothing has been trained they end the run at once.
Under :func:`deferring` the first of them is remembered until the run looks, between two steps say, and saves; another
one, later, ends it there and then.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_UNASKED = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGXCPU") if hasattr(signal, name))
"""Shell, system and launcher each tell of a closed terminal, and the system of each second beyond a limit of CPU time:
that they come again is nobody's wish to end at once."""
_SAME_SECONDS = 2.0
"""One request may come twice: a launcher passes on what the whole group of processes was sent."""
_DEAF_SECONDS = 60.0
"""A process that has not even looked at a signal for so long waits, in C, for another one that will not answer."""


class Stopped(BaseException):
    """The run was asked to end. Like KeyboardInterrupt it is no Exception: nothing may take it for a mishap."""

    def __init__(self, number: int, *, is_sudden: bool = False) -> None:
        self.name = signal.Signals(number).name
        self.is_sudden = is_sudden
        """Whether it came in the middle of something, whose half is not to be saved."""
        self.exit_code = 128 + number
        self.saved: str | None = None
        """What the run can go on from, where something was saved."""
        self.resume = "auto"
        """And what to resume from."""
        super().__init__(f"by {self.name}")


class _Ears:
    """What the handlers have heard; signals belong to the process, and so does this."""

    def __init__(self) -> None:
        self.heard: int | None = None
        self.heard_at = 0.0
        self.defers = False


_ears = _Ears()


@contextmanager
def listening() -> Iterator[None]:
    """Signals raise :class:`Stopped` within the block; the handlers from before are back after it.

    A SIGHUP that is ignored already stays so: that is what ``nohup`` asks for.
    """
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    before = {number: signal.signal(number, _hear) for number in SIGNALS if not _is_ignored_hangup(number)}
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


@contextmanager
def never_deaf() -> Iterator[None]:
    """Within the block a signal ends this process also where it waits in C for others, `_DEAF_SECONDS` later.

    Python runs a handler between two of its own instructions; a process that waits for one that hangs comes to none.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the thread


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


def last_words(stop: Stopped, arguments: Sequence[str]) -> str:
    """What train.py, called with ``arguments``, says when it was asked to end: what is saved, and how to go on."""
    if stop.saved is None:
        return f"stopped {stop}; nothing is saved yet: start again with the same command"
    count = os.environ.get("LOCAL_WORLD_SIZE", "1")
    launcher = ["python"] if count == "1" else ["torchrun", f"--nproc-per-node={count}"]
    again = ["uv", "run", *launcher, "train.py", *_without_resume(arguments), "--resume", stop.resume]
    return f"stopped {stop}; saved: {stop.saved}; go on with: {shlex.join(again)}"


def _without_resume(arguments: Sequence[str]) -> list[str]:
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--resume":
            next(words, None)
        elif not word.startswith("--resume="):
            kept.append(word)
    return kept


def heeding(advance: Callable[[int], None]) -> Callable[[int], None]:
    """``advance``, which counts work that may be broken off at any item, and then :func:`heed`."""

    def advance_and_heed(count: int) -> None:
        advance(count)
        heed()

    return advance_and_heed


def _is_ignored_hangup(number: int) -> bool:
    # Scripts start what they put into the background with SIGINT ignored; that must end the run all the same.
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN


def _hear(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    is_first = _ears.heard is None
    if not is_first and (number in _UNASKED or now - _ears.heard_at < _SAME_SECONDS):
        return
    _ears.heard, _ears.heard_at = number, now
    if not (_ears.defers and is_first):
        raise Stopped(number, is_sudden=True)
    with suppress(OSError, ValueError, AttributeError):  # the terminal may be gone
        if sys.stderr.isatty():  # written past the console, whose lock the main thread may hold
            os.write(2, b"\nending after this step; once more, in two seconds, ends at once and loses it\n")


def _watch(reading: int) -> None:
    """End the process if a signal that the system has noted is not heard in time."""
    while noted := os.read(reading, 1):
        if noted[0] not in SIGNALS:
            continue
        began = time.monotonic()
        while time.monotonic() - began < _DEAF_SECONDS:
            time.sleep(0.2)
            if _ears.heard is not None:
                break
        else:
            with suppress(OSError):  # the terminal may be gone
                os.write(2, b"ended: this process waited for another one, which does not answer\n")
            os._exit(128 + noted[0])
    os.close(reading)
