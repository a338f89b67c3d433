"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrl.errors import MRLError


@contextmanager
def alone_in(folder: Path, error: MRLError) -> Iterator[None]:
    """Raise ``error`` where another process is within such a block on ``folder``, which must exist.

    A record lock, which belongs to this process and not to those that it forks: loading workers live a little longer
    than a run that was killed, and must not stand in the way of the next one. Where the file system has no locks, or
    the lock file cannot be written, nothing is held and nothing raised.
    """
    try:
        import fcntl

        file = (folder / ".lock").open("w")
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX leaves the choice between the two
            raise error from None
        except OSError:
            pass  # a file system without locks
        yield
