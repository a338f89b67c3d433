"""The benchmark of scanning runs, its contenders list the same files, and workers share the table."""

from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path

import pytest

from benchmarks.scanning import plain_scan, plant, private_growth, random_items, run, table_bytes, touch_paths
from mrl.data.corpus import scan

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say what a process shares"
)


def test_both_scans_list_the_same_files(tmp_path: Path) -> None:
    plant(tmp_path / "all", 3)
    corpus = scan(tmp_path / "all", manifest_dir=None)
    assert [str(corpus.path(item)) for item in range(len(corpus))] == plain_scan(tmp_path / "all")
    assert len(corpus) == 3 * 168


def test_it_runs() -> None:
    scans, reloads, workers = run(quick=True)
    assert [len(table.rows) for table in (scans, reloads, workers)] == [2, 2, 2]
    assert len(reloads.claims) == 2


@needs_proc
def test_memory_that_a_worker_writes_is_counted() -> None:
    assert (private_growth(partial(bytearray, b"1" * 20_000_000)) or 0) + 20e6 > 19e6  # freed again
    kept: list[bytearray] = []
    assert (private_growth(lambda: kept.append(bytearray(b"1" * 20_000_000))) or 0) > 19e6


@needs_proc
def test_a_worker_shares_the_table_of_twenty_thousand_files(tmp_path: Path) -> None:
    plant(tmp_path / "all", 120)
    corpus = scan(tmp_path / "all", manifest_dir=None)
    paths = pickle.loads(pickle.dumps(plain_scan(tmp_path / "all")))
    grown = private_growth(partial(touch_paths, corpus.relative_path, random_items(len(corpus))))
    copied = private_growth(partial(touch_paths, paths.__getitem__, random_items(len(paths))))
    assert grown is not None
    assert copied is not None
    assert grown < copied / 4
    assert grown < table_bytes(corpus) / 2


@pytest.mark.slow
@needs_proc
def test_a_million_files_are_reloaded_and_shared() -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("a million files take long without a file system in memory")
    for table in run():
        assert all(claim.holds for claim in table.claims), [str(claim) for claim in table.claims]
