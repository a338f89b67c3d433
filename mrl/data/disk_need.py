"""How much disk a packed corpus will take, from the headers of some of its files, before it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mrl.audio import num_samples
from mrl.data.corpus import Corpus
from mrl.errors import AudioError, DataError
from mrl.randomness import numpy_generator
from mrl.read_ahead import map_ahead
from mrl.shards import SAMPLE_BYTES

_HEADERS_LOOKED_INTO = 500  # whose mean length is that of all to a few per cent


def require_room(corpus: Corpus, first: int, folder: Path, workers: int) -> str:
    """What packing the utterances from ``first`` on will take of the disk of ``folder``, in words.

    Raises DataError where there is less.
    """
    needed = (len(corpus) - first) * mean_bytes(corpus, first, workers)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: about {in_words(needed)} are needed and {in_words(free)} are free; make room, or name a "
            "folder on another disk"
        )
    return (
        f"{folder}: about {in_words(needed)} to write for {len(corpus) - first:,} of {len(corpus):,} utterances, "
        f"{in_words(free)} free"
    )


def mean_bytes(corpus: Corpus, first: int, workers: int) -> float:
    """Bytes that an utterance from ``first`` on takes when packed; ``workers`` threads open headers."""
    left = len(corpus) - first
    size = min(left, _HEADERS_LOOKED_INTO)
    some = first + numpy_generator(0, "packed size").choice(left, size=size, replace=False)
    paths = (corpus.path(int(utterance)) for utterance in some)
    return SAMPLE_BYTES * float(np.mean(list(map_ahead(_length_or_nothing, paths, workers))))


def in_words(size: float) -> str:
    """``size`` bytes: "1.5 GiB"."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _length_or_nothing(path: Path) -> int:
    try:
        return num_samples(path)
    except AudioError:
        return 0
