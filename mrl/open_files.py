"""The limit of open files, which files, worker processes and memory shared with them count for alike."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

ADVICE = "raise the limit of open files (`ulimit -n`)"

_LIMITS = (errno.EMFILE, errno.ENFILE)  # of this process, of the machine


def is_at_limit(error: BaseException) -> bool:
    """Whether ``error`` comes of it; what torch raises in place of an OSError has it in its text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _LIMITS
    return isinstance(error, RuntimeError) and os.strerror(errno.EMFILE).lower() in str(error).lower()


def require_room(count: int) -> None:
    """Raise OSError where this process cannot open ``count`` more files."""
    with ExitStack() as opened:
        for _ in range(count):
            try:
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                raise OSError(error.errno, error.strerror) from None  # it is not about that file
