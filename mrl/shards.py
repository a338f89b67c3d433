"""One shard of a packed corpus: the samples of consecutive utterances in one file, with its own small table.

``shard_00000.npy`` is a NumPy array of 16-bit integers, 16 kHz mono, utterance after utterance. Beside it lies
``shard_00000.npz``, written after it: which utterances these are, their lengths and checksums, and what could
not be read. A shard with its table is finished; anything else is written anew. N utterances, T samples.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.atomic import write_atomically
from mrl.errors import DataError
from mrl.stored_zip import load_arrays

FULL_SCALE = 32768
HEADER_BYTES = 128
"""Of a shard's file, before its samples."""
SAMPLE_BYTES = 2

_SAMPLE_TYPE = np.dtype("<i2")
_FORMAT = "1"
_SEPARATOR = "\0"

PackedSamples = NDArray[np.int16]


class Unreadable(NamedTuple):
    """An utterance without samples, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class ShardTable:
    """What a shard holds."""

    fingerprint: str
    """Of the corpus that is packed."""
    first: int
    """Number of its first utterance in the corpus."""
    num_samples: NDArray[np.int32]  # [N], 0 for an utterance that could not be read
    checksums: NDArray[np.uint32]  # [N], CRC-32 of the samples' bytes
    unreadable: tuple[str, ...]
    """Why, for each utterance without samples."""

    @property
    def stop(self) -> int:
        """Number of the utterance after its last."""
        return self.first + len(self.num_samples)

    @property
    def begins(self) -> NDArray[np.int64]:
        """Where each utterance begins in the shard, and where the last one ends, in samples: [N + 1]."""
        return np.concatenate([[0], np.cumsum(self.num_samples, dtype=np.int64)])


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:05d}.npy"


def table_path(folder: Path, number: int) -> Path:
    return shard_path(folder, number).with_suffix(".npz")


def write_shard(
    folder: Path,
    number: int,
    utterances: Iterable[PackedSamples | Unreadable],
    *,
    fingerprint: str,
    first: int,
    max_bytes: int,
) -> ShardTable:
    """Write ``utterances`` from ``first`` on until they fill ``max_bytes``, the last one whole, or end.

    The files appear whole or not at all, the table last. Raises OSError where they cannot be written.
    """
    lengths: list[int] = []
    checksums: list[int] = []
    unreadable: list[str] = []

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _write_header(file, 0)
            for utterance in utterances:
                if isinstance(utterance, Unreadable):
                    unreadable.append(utterance.reason)
                    content = b""
                else:
                    content = utterance.astype(_SAMPLE_TYPE, copy=False).tobytes()
                file.write(content)
                lengths.append(len(content) // SAMPLE_BYTES)
                checksums.append(zlib.crc32(content))
                if file.tell() >= max_bytes:
                    break
            file.seek(0)
            _write_header(file, sum(lengths))

    write_atomically(shard_path(folder, number), write)
    table = ShardTable(
        fingerprint,
        first,
        np.array(lengths, dtype=np.int32),
        np.array(checksums, dtype=np.uint32),
        tuple(unreadable),
    )
    write_atomically(table_path(folder, number), lambda temporary: _save_table(temporary, table))
    return table


def finished_shard(folder: Path, number: int) -> ShardTable | None:
    """The table of a shard that is there with all its samples; None where either file is missing or cut."""
    try:
        content = load_arrays(table_path(folder, number))
        if str(content["format"]) != _FORMAT:
            return None
        reasons = content["unreadable"].tobytes().decode("utf-8", "surrogateescape")
        table = ShardTable(
            str(content["fingerprint"]),
            int(content["first"]),
            content["num_samples"],
            content["checksums"],
            tuple(reasons.split(_SEPARATOR)) if reasons else (),
        )
        if not _is_consistent(table):
            return None
    except Exception:  # whatever is wrong with it, writing it anew mends it
        return None
    num_samples = int(table.num_samples.sum(dtype=np.int64))
    return table if _size(shard_path(folder, number)) == bytes_of(num_samples) else None


def _is_consistent(table: ShardTable) -> bool:
    lengths, checksums = table.num_samples, table.checksums
    return bool(
        lengths.dtype == np.int32
        and checksums.dtype == np.uint32
        and lengths.ndim == 1
        and lengths.shape == checksums.shape
        and table.first >= 0
        and (lengths >= 0).all()
        and (lengths == 0).sum() == len(table.unreadable)
    )


def require_size(path: Path, num_samples: int) -> None:
    """Raise DataError unless the shard's file is there and as long as ``num_samples`` are."""
    expected, found = bytes_of(num_samples), _size(path)
    if found != expected:
        what = "is missing" if found is None else f"has {found} bytes instead of {expected}"
        raise DataError(f"{path}: this shard {what}; pack the corpus again, whole shards are kept")


def read_samples(path: Path, begin: int, count: int) -> PackedSamples:
    """``count`` samples of a shard from ``begin`` on: int16 [T].

    Read, not memory-mapped: a shard that is cut while it is in use is then a DataError that names it, where a
    map would end the process, and a crop is one request to the disk.
    """
    try:
        samples = np.fromfile(path, _SAMPLE_TYPE, count, offset=HEADER_BYTES + SAMPLE_BYTES * begin)
    except OSError as error:
        raise DataError(f"{path}: this shard cannot be read: {error.strerror or error}") from error
    if len(samples) < count:
        raise DataError(f"{path}: this shard is cut short; pack the corpus again, whole shards are kept")
    return samples


def damaged_utterances(
    path: Path, num_samples: NDArray[np.int32], checksums: NDArray[np.uint32]
) -> list[int]:
    """Places in the shard at ``path`` of utterances whose samples are not those that were written."""
    damaged = []
    begin = 0
    for place, (count, checksum) in enumerate(zip(num_samples.tolist(), checksums.tolist(), strict=True)):
        if zlib.crc32(read_samples(path, begin, count).tobytes()) != checksum:
            damaged.append(place)
        begin += count
    return damaged


def bytes_of(num_samples: int) -> int:
    """Size of a shard's file."""
    return HEADER_BYTES + SAMPLE_BYTES * num_samples


def _size(path: Path) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _write_header(file: BinaryIO, num_samples: int) -> None:
    """NumPy's own, which leaves room for the length to grow: it is written again when that is known."""
    description = {"descr": _SAMPLE_TYPE.str, "fortran_order": False, "shape": (num_samples,)}
    np.lib.format.write_array_header_1_0(file, description)
    assert file.tell() == HEADER_BYTES


def _save_table(path: Path, table: ShardTable) -> None:
    reasons = _SEPARATOR.join(table.unreadable).encode("utf-8", "surrogateescape")
    with path.open("wb") as file:
        np.savez(
            file,
            format=np.array(_FORMAT),
            fingerprint=np.array(table.fingerprint),
            first=np.array(table.first),
            num_samples=table.num_samples,
            checksums=table.checksums,
            unreadable=np.frombuffer(reasons, dtype=np.uint8),
        )
