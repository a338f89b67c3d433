"""Rows on disk: what was written is read, and what is not as it was written counts as missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.errors import DataError
from mrl.loss import Targets
from mrl.training import feature_store
from mrl.training.feature_store import FeatureStore, Layout, decode, encode

LAYOUT = Layout(num_utterances=10, views=2, pooled_dim=5, reference_dim=3)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_store, "BLOCK_ROWS", 4)


def batch(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pooled, reference = torch.randn(rows, 5, generator=generator), torch.randn(rows, 3, generator=generator)
    speakers = torch.arange(rows) + 100_000
    return pooled, reference, Targets(speakers, speakers.flip(0), torch.linspace(0.5, 1, rows))


def records(block, seed=0):
    return encode(*batch(len(LAYOUT.blocks[block]), seed), LAYOUT)


def filled(folder, blocks=range(6), process=0):
    store = FeatureStore(folder, LAYOUT, process)
    store.prepare()
    for block in blocks:
        store.write(block, records(block, block), [])
    return store


def test_no_block_holds_rows_of_two_views():
    assert LAYOUT.blocks == [
        range(0, 4),
        range(4, 8),
        range(8, 10),
        range(10, 14),
        range(14, 18),
        range(18, 20),
    ]
    assert LAYOUT.num_bytes == 20 * (2 * 8 + 12)


def test_a_batch_is_read_as_it_was_written_but_for_half_precision():
    pooled, reference, targets = batch(6)
    read = decode(torch.from_numpy(encode(pooled, reference, targets, LAYOUT)), LAYOUT, mixed=True)
    torch.testing.assert_close(read.pooled, pooled, rtol=2**-11, atol=1e-7)
    assert torch.equal(read.pooled, pooled.half().float())
    assert torch.equal(read.reference, reference.half().float())
    for kept, given in zip(read.targets, targets, strict=True):
        assert torch.equal(kept, given)


def test_without_partners_and_teacher_there_are_none():
    layout = LAYOUT._replace(reference_dim=0)
    pooled, _, targets = batch(3)
    written = encode(pooled, None, Targets(targets.speakers), layout)
    read = decode(torch.from_numpy(written), layout, mixed=False)
    assert read.reference is None
    assert torch.equal(read.targets.speakers, targets.speakers)
    assert read.targets.partners is None
    mixed = decode(torch.from_numpy(written), layout, mixed=True).targets
    assert torch.equal(mixed.partners, targets.speakers)
    assert mixed.shares.tolist() == [1.0] * 3


def test_a_fresh_store_lacks_all_and_a_filled_one_nothing(tmp_path):
    store = filled(tmp_path / "cache", blocks=[])
    assert store.missing(range(6)) == [0, 1, 2, 3, 4, 5]
    store = filled(tmp_path / "cache")
    assert FeatureStore(tmp_path / "cache", LAYOUT).missing(range(6)) == []
    rows = store.open()
    assert np.array_equal(rows[4:8], records(1, 1))
    assert np.array_equal(rows[18:20], records(5, 5))


def test_processes_fill_one_file(tmp_path):
    filled(tmp_path, blocks=[0, 2, 4], process=0)
    filled(tmp_path, blocks=[1, 3], process=1)
    assert FeatureStore(tmp_path, LAYOUT).missing(range(6)) == [5]


def test_a_block_whose_bytes_changed_is_missing_and_can_be_written_again(tmp_path):
    store = filled(tmp_path)
    with store.folder.joinpath("rows.bin").open("r+b") as file:
        file.seek(5 * LAYOUT.record_bytes + 3)
        file.write(b"\xff")
    assert store.missing(range(6)) == [1]
    store.write(1, records(1, seed=9), [])
    assert store.missing(range(6)) == []


@pytest.mark.parametrize("size", [0, 100, LAYOUT.num_bytes + 1])
def test_a_file_of_another_size_is_begun_again(tmp_path, size):
    store = filled(tmp_path)
    with store.folder.joinpath("rows.bin").open("r+b") as file:
        file.truncate(size)
    assert not store.is_prepared()
    store.prepare()
    assert store.is_prepared()
    assert store.missing(range(6)) == [0, 1, 2, 3, 4, 5]


def test_a_list_that_a_crash_cut_off_costs_a_block_at_most(tmp_path):
    store = filled(tmp_path)
    lines = (tmp_path / "blocks.0.txt").read_text()
    (tmp_path / "blocks.0.txt").write_text(lines[:-3])
    assert store.missing(range(6)) == [5]
    store.write(4, records(4, 4), [])  # its line begins anew
    assert store.missing(range(6)) == [5]
    store.write(5, records(5, 5), [])
    assert store.missing(range(6)) == []


def test_messages_of_replaced_utterances_are_kept(tmp_path):
    store = filled(tmp_path, blocks=[])
    store.write(0, records(0), ["a.wav: empty", "b.wav: cut short"])
    FeatureStore(tmp_path, LAYOUT, process=1).write(1, records(1), ["a.wav: empty"])
    assert store.replaced() == ["a.wav: empty", "b.wav: cut short"]


def test_a_disk_that_is_full_is_a_clear_error(tmp_path, monkeypatch):
    store = filled(tmp_path, blocks=[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(feature_store.os, "pwrite", full)
        with pytest.raises(DataError, match=r"cannot be written .*No space left.*cache_views"):
            store.write(1, records(1), [])
    assert store.missing([0]) == []


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        FeatureStore(tmp_path / "cache" / "features", LAYOUT)


def test_long_blocks_are_written_in_pieces(tmp_path, monkeypatch):
    real = feature_store.os.pwrite
    monkeypatch.setattr(feature_store.os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    store = filled(tmp_path, blocks=[0, 3])
    assert store.missing([0, 3]) == []
