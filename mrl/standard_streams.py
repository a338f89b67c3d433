"""Standard input, output and error: of a program that was started without them, or loses them while it runs.

Cron and daemons start programs with closed streams. Where a terminal is closed, or a reader goes away, whatever is
written fails (EIO, EPIPE), and what is still buffered fails once more when the interpreter flushes it at its exit: the
exit code would be 120, whatever the program had come to.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO


def open_missing() -> None:
    """Open on nothing those of the three that are closed; processes that this one starts inherit them.

    To be called before a file is opened: it would get the number 1 or 2, and with it what libraries print there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one: those below it are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open to the end


def say_error(text: str) -> None:
    """Print ``text`` on standard error; where that is gone, nobody is there to read it."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr)


def leave(code: int) -> NoReturn:
    """End the program with ``code``, also where one of its streams can no longer be written to."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                switch_off(stream)
    sys.exit(code)


def switch_off(stream: TextIO) -> None:
    """Let what ``stream`` holds, and all that is written to it from now on, go nowhere."""
    with suppress(OSError, ValueError, io.UnsupportedOperation):
        descriptor = stream.fileno()
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, descriptor)
        os.close(sink)
