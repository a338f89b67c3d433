"""A process that may open few more files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def leave_room_for(count: int) -> None:
    """From now on this process can open ``count`` more files, or a few more where some numbers are free in between."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (lowest + count, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Within the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    leave_room_for(count)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
