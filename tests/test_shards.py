"""One shard: what is written is read, and what was cut or changed is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.errors import DataError
from mrl.shards import (
    HEADER_BYTES,
    ShardTable,
    Unreadable,
    bytes_of,
    damaged_utterances,
    finished_shard,
    read_samples,
    require_size,
    shard_path,
    table_path,
    write_shard,
)

UTTERANCES = [np.arange(count, dtype=np.int16) - 7 * count for count in (50, 3, 200)]


def write(folder: Path, max_bytes: int = 1 << 20, number: int = 0) -> ShardTable:
    content = [UTTERANCES[0], Unreadable("b.wav: silent"), *UTTERANCES[1:]]
    return write_shard(folder, number, content, fingerprint="f", first=10, max_bytes=max_bytes)


def test_a_shard_is_an_array_that_numpy_reads(tmp_path: Path) -> None:
    table = write(tmp_path)
    whole = np.load(shard_path(tmp_path, 0))
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, np.concatenate(UTTERANCES))
    assert table.num_samples.tolist() == [50, 0, 3, 200]
    assert table.begins.tolist() == [0, 50, 50, 53, 253]
    assert (table.first, table.stop, table.unreadable) == (10, 14, ("b.wav: silent",))
    np.testing.assert_array_equal(read_samples(shard_path(tmp_path, 0), 53 + 20, 30), UTTERANCES[2][20:50])


def test_a_shard_ends_with_the_utterance_that_fills_it(tmp_path: Path) -> None:
    for max_bytes, count in ((HEADER_BYTES + 100, 1), (HEADER_BYTES + 101, 3), (1 << 20, 4)):
        assert len(write(tmp_path, max_bytes).num_samples) == count


def test_the_table_is_read_back(tmp_path: Path) -> None:
    table, again = write(tmp_path), finished_shard(tmp_path, 0)
    assert again is not None
    assert (again.fingerprint, again.first, again.unreadable) == ("f", 10, table.unreadable)
    np.testing.assert_array_equal(again.num_samples, table.num_samples)
    np.testing.assert_array_equal(again.checksums, table.checksums)


@pytest.mark.parametrize("damage", ["no table", "cut table", "no samples", "cut samples", "longer"])
def test_a_shard_that_is_not_whole_is_not_finished(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    path = table_path(tmp_path, 0) if "table" in damage else shard_path(tmp_path, 0)
    if damage.startswith("no"):
        path.unlink()
    elif damage == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path.write_bytes(path.read_bytes()[:-2])
    assert finished_shard(tmp_path, 0) is None


def test_nothing_appears_where_writing_fails(tmp_path: Path) -> None:
    def failing():
        yield UTTERANCES[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, 0, failing(), fingerprint="f", first=0, max_bytes=1 << 20)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_sample_is_found(tmp_path: Path) -> None:
    table = write(tmp_path)
    path = shard_path(tmp_path, 0)
    assert damaged_utterances(path, table.num_samples, table.checksums) == []
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 2 * 51] ^= 1  # in the utterance of three samples
    path.write_bytes(content)
    assert damaged_utterances(path, table.num_samples, table.checksums) == [2]


def test_a_cut_or_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = shard_path(tmp_path, 0)
    require_size(path, 253)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{path}: this shard has 534 bytes instead of {bytes_of(253)}"):
        require_size(path, 253)
    with pytest.raises(DataError, match=rf"{path}: this shard is cut short"):
        read_samples(path, 200, 53)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path}: this shard is missing"):
        require_size(path, 253)
    with pytest.raises(DataError, match=rf"{path}: this shard cannot be read: No such file"):
        read_samples(path, 0, 1)
