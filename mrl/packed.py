"""Reading a packed corpus, which ``scripts/pack_corpus.py`` makes: samples in shards, and a table of all of them.

The folder holds ``corpus.npz``, the table, and the shards (see :mod:`mrl.shards`). Utterances keep the
numbers and paths that they had in the corpus that was packed, those that could not be read included. So the
same crops are drawn, and below the packed folder each path names the samples that its file held, to 16 bits.
N utterances, T samples.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.atomic import write_atomically
from mrl.errors import AudioError, DataError
from mrl.shards import FULL_SCALE, ShardTable, read_samples, require_size, shard_path
from mrl.stored_zip import load_arrays

TABLE = "corpus.npz"
UNREADABLE = "unreadable.txt"

_FORMAT = "1"
_SEPARATOR = "\0"
_OPENED_AT_ONCE = 8
_MOST_SAMPLES = 1 << 48  # of a shard; far beyond any disk, and no sum overflows
_OPENING = threading.Lock()  # so that threads that read one corpus do not each load its table


@dataclass(frozen=True, eq=False)
class Shards:
    """Where the samples of each utterance lie."""

    folder: Path
    shard: NDArray[np.int32]  # [N], number of its shard
    begin: NDArray[np.int64]  # [N], its first sample in that shard
    num_samples: NDArray[np.int32]  # [N], 0 where it could not be read when it was packed
    checksums: NDArray[np.uint32]  # [N], CRC-32 of its bytes

    def samples(self, utterance: int, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop`` of an utterance: float32 [T] in [-1, 1].

        Raises DataError for a shard that is cut or cannot be read.
        """
        path = shard_path(self.folder, int(self.shard[utterance]))
        packed = read_samples(path, int(self.begin[utterance]) + start, stop - start)
        return packed * np.float32(1 / FULL_SCALE)

    def length(self, utterance: int) -> int:
        """Samples of an utterance. Raises AudioError, without a name, for one that could not be read."""
        length = int(self.num_samples[utterance])
        if length == 0:
            raise AudioError(f"it could not be read when it was packed, see {self.folder / UNREADABLE}")
        return length

    def count(self) -> int:
        """How many shards there are."""
        return int(self.shard[-1]) + 1

    def require_sizes(self) -> None:
        """Raise DataError for a shard that is missing or has not all its samples."""
        for last in np.flatnonzero(np.diff(self.shard, append=-1)).tolist():
            end = int(self.begin[last]) + int(self.num_samples[last])
            require_size(shard_path(self.folder, int(self.shard[last])), end)


class PackedUtterance(NamedTuple):
    """One utterance of a packed corpus."""

    shards: Shards
    number: int


class PackedCorpus(NamedTuple):
    """The table: the utterances as :class:`mrl.data.corpus.Corpus` lists them, and where their samples lie."""

    speakers: tuple[str, ...]  # [S], sorted
    speaker_ids: NDArray[np.int32]  # [N], ascending
    path_bytes: NDArray[np.uint8]  # paths of the files that were packed, joined
    path_offsets: NDArray[np.int64]  # [N + 1], where each begins
    ignored_files: int
    shards: Shards
    fingerprint: str
    """Of the corpus that was packed."""

    def find(self, path: str) -> int | None:
        """The utterance at ``path`` below the folder; None where there is none.

        Speakers, and within a speaker paths, are in order, so nothing need be built to look one up.
        """
        speaker = path.partition("/")[0]
        place = bisect_left(self.speakers, speaker)
        if place == len(self.speakers) or self.speakers[place] != speaker:
            return None
        bounds = np.array([place, place + 1], dtype=np.int32)
        first, stop = np.searchsorted(self.speaker_ids, bounds).tolist()
        found: int = first + bisect_left(range(first, stop), path, key=self.path_of)
        return found if found < stop and self.path_of(found) == path else None

    def path_of(self, utterance: int) -> str:
        """The path of an utterance below the folder."""
        start, stop = self.path_offsets[utterance : utterance + 2]
        return os.fsdecode(self.path_bytes[start:stop].tobytes())


def is_packed(folder: Path) -> bool:
    return (folder / TABLE).is_file()


def open_packed(folder: Path) -> PackedCorpus:
    """The packed corpus in ``folder``; every shard is seen to have its length.

    Raises DataError for a damaged table, or a shard that is missing or cut.
    """
    packed = open_table(folder)
    packed.shards.require_sizes()
    return packed


def open_table(folder: Path) -> PackedCorpus:
    """As :func:`open_packed`, without a look at the shards. A table is loaded once for as long as it stays."""
    path = folder / TABLE
    try:
        changed = path.stat().st_mtime_ns
        with _OPENING:
            return _load_table(folder, changed)
    except OSError as error:
        raise DataError(
            f"{path}: the table of this packed corpus cannot be read: {error.strerror}"
        ) from error


def require_finished(folder: Path) -> None:
    """Raise DataError where ``folder`` holds shards, and no table of them yet."""
    if not is_packed(folder) and shard_path(folder, 0).exists():
        raise DataError(
            f"{folder}: packing it was interrupted; run scripts/pack_corpus.py again to finish it"
        )


def save_table(
    folder: Path,
    tables: Sequence[ShardTable],
    *,
    speakers: Sequence[str],
    speaker_ids: NDArray[np.int32],
    path_bytes: NDArray[np.uint8],
    path_offsets: NDArray[np.int64],
    ignored_files: int,
    fingerprint: str,
) -> None:
    """Write the table of ``folder``, whose shards are ``tables``, in order. Raises OSError."""
    counts = [len(table.num_samples) for table in tables]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                fingerprint=np.array(fingerprint),
                speakers=np.frombuffer(os.fsencode(_SEPARATOR.join(speakers)), dtype=np.uint8),
                speaker_ids=speaker_ids,
                path_bytes=path_bytes,
                path_offsets=path_offsets,
                ignored_files=np.array(ignored_files),
                shard=np.repeat(np.arange(len(tables), dtype=np.int32), counts),
                begin=np.concatenate([table.begins[:-1] for table in tables]),
                num_samples=np.concatenate([table.num_samples for table in tables]),
                checksums=np.concatenate([table.checksums for table in tables]),
            )

    write_atomically(folder / TABLE, write)


def find_utterance(path: Path) -> PackedUtterance | None:
    """The utterance that ``path`` names in a packed corpus that it lies in; None for a file, or where there is none.

    Raises DataError for a damaged table.
    """
    if os.path.lexists(path):
        return None
    for folder in path.parents:
        if is_packed(folder):
            packed = open_table(folder)
            number = packed.find(path.relative_to(folder).as_posix())
            return None if number is None else PackedUtterance(packed.shards, number)
    return None


@lru_cache(maxsize=_OPENED_AT_ONCE)
def _load_table(folder: Path, _changed: int) -> PackedCorpus:
    path = folder / TABLE
    try:
        content = load_arrays(path)
        version = str(content["format"])
        if version == _FORMAT:
            return _packed_corpus(folder, content.__getitem__)
    except OSError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: this table is damaged; pack the corpus again, whole shards are kept"
        ) from error
    raise DataError(
        f"{path}: packed in format {version if version.isalnum() else '?':.20}, this program reads {_FORMAT}; pack the "
        "corpus again"
    )


def require_listing(
    speakers: Sequence[str],
    speaker_ids: NDArray[np.int32],
    path_bytes: NDArray[np.uint8],
    path_offsets: NDArray[np.int64],
    ignored_files: int,
) -> None:
    """ValueError unless these are the utterances of a corpus as :class:`mrl.data.corpus.Corpus` holds them."""
    _require_arrays(len(speaker_ids), np.int32, speaker_ids)
    _require_arrays(len(speaker_ids) + 1, np.int64, path_offsets)
    _require_arrays(len(path_bytes), np.uint8, path_bytes)
    if not len(speaker_ids) or not all(speakers) or len(set(speakers)) != len(speakers) or ignored_files < 0:
        raise ValueError("no utterances, or speakers without a name of their own")
    if (np.diff(speaker_ids) < 0).any() or speaker_ids[0] < 0 or speaker_ids[-1] >= len(speakers):
        raise ValueError("utterances of speakers that there are not, or out of their order")
    if path_offsets[0] or path_offsets[-1] != len(path_bytes) or (np.diff(path_offsets) <= 0).any():
        raise ValueError("paths without letters, or that overlap")


def _require_arrays(length: int, kind: type[np.generic], *arrays: NDArray[Any]) -> None:
    for array in arrays:
        if array.dtype != kind or array.shape != (length,):
            raise ValueError(f"{array.dtype} {list(array.shape)} in place of {np.dtype(kind)} [{length}]")


def _require_places(shards: Shards, length: int) -> None:
    _require_arrays(length, np.int32, shards.shard, shards.num_samples)
    _require_arrays(length, np.int64, shards.begin)
    _require_arrays(length, np.uint32, shards.checksums)
    if shards.shard[0] or (np.diff(shards.shard) < 0).any() or (np.diff(shards.shard) > 1).any():
        raise ValueError("shards that are not counted from 0")
    if (shards.num_samples < 0).any() or (shards.begin < 0).any() or shards.begin.max() > _MOST_SAMPLES:
        raise ValueError("samples at places that no shard has")


def _packed_corpus(folder: Path, content: Callable[[str], np.ndarray]) -> PackedCorpus:
    corpus = PackedCorpus(
        tuple(os.fsdecode(content("speakers").tobytes()).split(_SEPARATOR)),
        content("speaker_ids"),
        content("path_bytes"),
        content("path_offsets"),
        int(content("ignored_files")),
        Shards(folder, content("shard"), content("begin"), content("num_samples"), content("checksums")),
        str(content("fingerprint")),
    )
    require_listing(*corpus[:5])
    _require_places(corpus.shards, len(corpus.speaker_ids))
    return corpus
