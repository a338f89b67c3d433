"""Whether the samples of a packed corpus are those that were written, and how fast crops of them are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from mrl.audio import SAMPLE_RATE
from mrl.data.corpus import Corpus
from mrl.data.packing import Reporter
from mrl.errors import AudioError, DataError
from mrl.packed import open_packed
from mrl.randomness import numpy_generator
from mrl.shards import damaged_utterances, shard_path

_NAMED_AT_MOST = 5
_CROPS_TIMED = 200
_CROP_SAMPLES = 3 * SAMPLE_RATE


def verify_packed(folder: Path, reporter: Reporter) -> None:
    """Read every shard of the packed corpus in ``folder`` and compare checksums.

    Raises DataError that names damaged shards, and an utterance in each.
    """
    packed = open_packed(folder)
    shards = packed.shards
    bounds = np.searchsorted(shards.shard, np.arange(shards.count() + 1, dtype=np.int32)).tolist()
    damaged = []
    with reporter.progress(f"verifying {folder}", len(packed.speaker_ids)) as bar:
        for number, (first, stop) in enumerate(pairwise(bounds)):
            path = shard_path(folder, number)
            places = damaged_utterances(path, shards.num_samples[first:stop], shards.checksums[first:stop])
            if places:
                named = packed.path_of(first + places[0])
                damaged.append(f"{path.name} ({len(places)} utterances, the first {named})")
            bar.advance(stop - first)
    if damaged:
        more = ", ..." if len(damaged) > _NAMED_AT_MOST else ""
        raise DataError(
            f"{folder}: {len(damaged)} of {shards.count()} shards are damaged: "
            f"{', '.join(damaged[:_NAMED_AT_MOST])}{more}; remove them and pack again, the others are kept"
        )
    reporter.say(f"{folder}: every checksum is right")


def crops_per_second(corpora: Mapping[str, Corpus]) -> dict[str, float]:
    """Random 3 s crops that one process reads in a second from each of ``corpora``, which take turns.

    They hold the same utterances. The first crop of each, which loads libraries, does not count.
    """
    seconds = dict.fromkeys(corpora, 0.0)
    generator = numpy_generator(0, "crops timed")
    size = len(next(iter(corpora.values())))
    for turn in range(_CROPS_TIMED + 1):
        # Of another utterance for each, so that none finds in memory what the one before has read.
        for name, corpus in corpora.items():
            utterance, position = int(generator.integers(size)), float(generator.random())
            started = time.perf_counter()
            with suppress(AudioError):  # it took its time all the same
                corpus.read_crop(utterance, _CROP_SAMPLES, position)
            if turn:
                seconds[name] += time.perf_counter() - started
    return {name: _CROPS_TIMED / taken for name, taken in seconds.items()}
