"""A small corpus of several kinds of files, packed, for the tests of packing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from mrl.audio import SAMPLE_RATE
from mrl.data.packing import PackOptions, pack_corpus

SMALL = PackOptions(shard_bytes=40_000, workers=2, max_unreadable_share=0.3)
"""Shards of a few utterances."""


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.advanced: dict[str, int] = {}

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def progress(self, description: str, total: int, initial: int = 0) -> Iterator[_Counter]:
        yield _Counter(self.advanced, description, initial)


class _Counter:
    def __init__(self, counts: dict[str, int], name: str, initial: int) -> None:
        self._counts, self._name = counts, name
        counts[name] = initial

    def advance(self, n: int = 1) -> None:
        self._counts[self._name] += n


def plant_audio(root: Path, speakers: int = 4, seed: int = 0) -> Path:
    """``<root>/id<n>/s<m>/u<k>``: 16-bit WAV and FLAC at 16 kHz, one float WAV, one of 44.1 kHz, one short."""
    generator = np.random.default_rng(seed)
    for speaker in range(speakers):
        for number, (session, suffix, rate, subtype) in enumerate(
            [
                ("s1", "wav", SAMPLE_RATE, "PCM_16"),
                ("s1", "flac", SAMPLE_RATE, "PCM_16"),
                ("s2", "wav", SAMPLE_RATE, "FLOAT"),
                ("s2", "wav", 44_100, "PCM_16"),
            ]
        ):
            path = root / f"id{speaker}" / session / f"u{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            length = 300 if number == 0 else int(generator.integers(3_000, 9_000))
            samples = generator.uniform(-0.7, 0.7, length).astype(np.float32)
            soundfile.write(path, samples, rate, subtype=subtype)
    return root


def packed(root: Path, folder: Path, options: PackOptions = SMALL) -> Path:
    pack_corpus(root, folder, options, Silent())
    return folder
