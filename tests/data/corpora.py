"""Corpora for tests, of files that need not exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl.data.corpus import Corpus
from mrl.data.listing import offsets_of


def corpus_of(paths: Sequence[str], root: Path | str = "root") -> Corpus:
    """A corpus of the files ``<speaker>/.../<file>`` below ``root``."""
    ordered = sorted(paths, key=lambda path: path.split("/"))
    speakers = sorted({path.split("/")[0] for path in ordered})
    encoded = [path.encode() for path in ordered]
    return Corpus(
        Path(root),
        tuple(speakers),
        np.array([speakers.index(path.split("/")[0]) for path in ordered], dtype=np.int32),
        np.frombuffer(b"".join(encoded), dtype=np.uint8),
        offsets_of(np.array([len(path) for path in encoded], dtype=np.int64)),
    )


def counted(counts: Sequence[int], root: Path | str = "root") -> Corpus:
    """Speakers with so many utterances each, in one session."""
    return corpus_of(
        [f"s{place:03d}/{item:04d}.wav" for place, count in enumerate(counts) for item in range(count)], root
    )
