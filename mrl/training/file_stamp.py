"""Whether files are still those that they were, without reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_STAT_THREADS = 16
_STATS_AT_ONCE = 4096


def stamp_of_files(paths: Sequence[Path]) -> str:
    """SHA-256 over size and time of change of each file; a missing one has neither."""

    def stats(some: Sequence[Path]) -> bytes:
        return np.array([_size_and_time(path) for path in some], dtype="<i8").tobytes()

    digest = hashlib.sha256()
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        for part in pool.map(stats, _groups(paths)):
            digest.update(part)
    return digest.hexdigest()


def _groups(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), _STATS_AT_ONCE):
        yield paths[start : start + _STATS_AT_ONCE]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
