"""Packing: the same corpus, the same crops; interrupted, damaged and mistaken runs."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.config import DataConfig
from mrl.data import disk_need, packing
from mrl.data.corpus import Corpus, scan
from mrl.data.epoch_batches import EpochBatches
from mrl.data.held_out import split_utterances
from mrl.data.joining import join_corpora
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset
from mrl.data.overlap import shared_speakers
from mrl.data.pack_checks import crops_per_second, verify_packed
from mrl.data.packing import pack_corpus, sixteen_bits
from mrl.data.readable import check_audio_readable
from mrl.data.sampling import Sampling
from mrl.data.trials import generate_trials, read_trials, write_trials
from mrl.errors import DataError
from mrl.packed import TABLE, is_packed
from mrl.shards import HEADER_BYTES, shard_path, table_path
from tests.data.packing_material import SMALL, Silent, packed, plant_audio

STEP = 1.0 / 32768


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return plant_audio(tmp_path / "source")


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def test_a_packed_corpus_is_the_same_corpus(source: Path, tmp_path: Path) -> None:
    there = scan(source, manifest_dir=None)
    here = scan(packed(source, tmp_path / "packed"), manifest_dir=tmp_path / "manifests")
    assert here.fingerprint() == there.fingerprint()
    assert here.speakers == there.speakers
    np.testing.assert_array_equal(here.speaker_ids, there.speaker_ids)
    assert [here.relative_path(item) for item in range(len(here))] == [
        there.relative_path(item) for item in range(len(there))
    ]
    assert not (tmp_path / "manifests").exists()


def test_sixteen_bits_round_to_the_nearest_and_stay_in_range(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = np.float32([1.0, -1.0, 0.4 * STEP, 0.6 * STEP, -0.6 * STEP, 0.5])
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    result = sixteen_bits(path)
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [32767, -32768, 0, 1, -1, 16384]


def batches_of(corpus: Corpus, workers: int) -> list:
    epochs = EpochBatches(Sampling(corpus, DataConfig(train=corpus.root), 7), 4)
    epochs.set_epoch(3)
    return list(make_loader(CropDataset(corpus, 2000, seed=7), epochs, workers, pin_memory=False))


def assert_same_batches(corpus: Corpus, other: Corpus, workers: int = 0) -> None:
    pairs = list(zip(batches_of(corpus, workers), batches_of(other, 0), strict=True))
    assert len(pairs) > 1
    for one, two in pairs:
        assert torch.equal(one.utterances, two.utterances)
        assert torch.equal(one.speakers, two.speakers)
        assert len(one.replaced) == len(two.replaced)
        assert (one.waveforms - two.waveforms).abs().max() <= STEP / 2 + 1e-9


@pytest.mark.parametrize("workers", [0, 2])
def test_training_hears_the_same_crops_unreadable_files_included(
    source: Path, tmp_path: Path, workers: int
) -> None:
    (source / "id2/s1/u1.flac").write_bytes(b"damaged")
    folder = packed(source, tmp_path / "packed")
    assert_same_batches(scan(folder, manifest_dir=None), scan(source, manifest_dir=None), workers)


def test_parts_of_a_packed_corpus_are_those_of_its_source(source: Path, tmp_path: Path) -> None:
    whole = scan(packed(source, tmp_path / "packed"), manifest_dir=None), scan(source, manifest_dir=None)
    for divide in (
        lambda corpus: corpus.split_speakers({"id1", "id3"})[0],
        lambda corpus: corpus.split_speakers({"id1", "id3"})[1],
        lambda corpus: split_utterances(corpus, 0.5, 1)[1],
        lambda corpus: corpus.select(np.arange(len(corpus)) % 3 > 0),
    ):
        here, there = map(divide, whole)
        assert here.fingerprint() == there.fingerprint()
        assert_same_batches(here, there)


@pytest.mark.parametrize("which", ["first", "second", "both"])
def test_packed_corpora_join_with_others(source: Path, tmp_path: Path, which: str) -> None:
    other = plant_audio(tmp_path / "other", speakers=2, seed=5)
    roots = {"first": source, "second": other}
    files = {label: scan(root, manifest_dir=None) for label, root in roots.items()}
    mixed = {
        label: scan(packed(root, tmp_path / f"packed_{label}"), manifest_dir=None)
        if which in (label, "both")
        else files[label]
        for label, root in roots.items()
    }
    here, there = join_corpora(mixed), join_corpora(files)
    assert here.fingerprint() == there.fingerprint()
    assert_same_batches(here, there)
    _, out = here.split_speakers({"first/id1", "second/id0"})
    assert_same_batches(out, there.split_speakers({"first/id1", "second/id0"})[1])
    in_files = {"first": ["other"], "second": ["source"], "both": []}[which]
    assert [path.parts[-4] for path in here.example_files()] == in_files


def test_the_files_of_a_corpus_are_what_its_samples_depend_on(source: Path, tmp_path: Path) -> None:
    there = scan(source, manifest_dir=None)
    assert there.files() == [there.path(item) for item in range(len(there))]
    folder = packed(source, tmp_path / "packed")
    assert scan(folder, manifest_dir=None).files() == [folder / TABLE]


def test_trials_are_made_of_held_out_speakers_and_their_audio_is_read(source: Path, tmp_path: Path) -> None:
    lists = []
    for root in (source, packed(source, tmp_path / "packed")):
        train, out = scan(root, manifest_dir=None).split_speakers({"id0", "id1"})
        trials = generate_trials(out, seed=1, name="v", targets_per_speaker=3, nontargets_per_target=2)
        assert shared_speakers(train, trials) == []
        check_audio_readable([trials])
        write_trials(trials, tmp_path / "v.txt")
        lists.append(read_trials(tmp_path / "v.txt", root, "v"))
        assert shared_speakers(scan(root, manifest_dir=None), lists[-1]) == ["id0", "id1"]
    assert lists[0].fingerprint() == lists[1].fingerprint()


def test_packing_again_changes_nothing_and_reads_no_audio(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = packed(source, tmp_path / "packed")
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(packing, "sixteen_bits", None)
    reporter = Silent()
    pack_corpus(source, folder, SMALL, reporter)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    assert "16 utterances of 4 speakers" in reporter.said[-1]


def test_an_interrupted_run_goes_on_from_the_finished_shards(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content_of(packed(source, tmp_path / "whole"))
    real, read = packing.sixteen_bits, []

    def interrupted(path: Path) -> object:
        if path.parts[-3] == "id2":
            raise KeyboardInterrupt
        return real(path)

    folder = tmp_path / "packed"
    with monkeypatch.context() as patch:
        patch.setattr(packing, "sixteen_bits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            packed(source, folder)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert kept
    assert not is_packed(folder)
    monkeypatch.setattr(packing, "sixteen_bits", lambda path: read.append(path) or real(path))
    reporter = Silent()
    pack_corpus(source, folder, SMALL, reporter)
    assert content_of(folder) == expected
    assert all((folder / name).stat().st_mtime_ns == time for name, time in kept.items())
    assert 0 < len({path.parts[-3:] for path in read}) < 16
    assert reporter.advanced["checking finished shards"] == len(kept)
    assert reporter.advanced[f"packing into {folder}"] == 16


@pytest.mark.parametrize("loss", ["samples", "table", "cut", "first", "corpus table", "damaged corpus table"])
def test_what_is_lost_is_written_anew_and_the_rest_kept(source: Path, tmp_path: Path, loss: str) -> None:
    folder = packed(source, tmp_path / "packed")
    expected, table = content_of(folder), (folder / TABLE).read_bytes()
    last = shard_path(folder, len(expected) - 1)
    before = last.stat().st_mtime_ns
    if loss == "cut":
        shard_path(folder, 1).write_bytes(expected["shard_00001.npy"][:-2])
    elif loss == "damaged corpus table":
        (folder / TABLE).write_bytes(table[:100])
    else:
        paths = {
            "samples": shard_path(folder, 1),
            "table": table_path(folder, 1),
            "first": shard_path(folder, 0),
        }
        paths.get(loss, folder / TABLE).unlink()
    packed(source, folder)
    assert content_of(folder) == expected
    assert last.stat().st_mtime_ns == before
    assert scan(folder, manifest_dir=None).fingerprint() == scan(source, manifest_dir=None).fingerprint()


def test_a_kept_shard_with_changed_samples_is_written_anew(source: Path, tmp_path: Path) -> None:
    folder = packed(source, tmp_path / "packed")
    expected = content_of(folder)
    (folder / TABLE).unlink()
    damaged = bytearray(expected["shard_00001.npy"])
    damaged[HEADER_BYTES + 9] ^= 1
    shard_path(folder, 1).write_bytes(damaged)
    reporter = Silent()
    pack_corpus(source, folder, SMALL, reporter)
    assert content_of(folder) == expected
    assert any("shard_00001.npy: damaged" in line for line in reporter.said)


def test_other_shard_sizes_may_follow_and_leave_nothing_behind(source: Path, tmp_path: Path) -> None:
    folder = packed(source, tmp_path / "packed")
    shard_path(folder, 1).unlink()
    packed(source, folder, replace(SMALL, shard_bytes=1 << 20))
    assert sorted(content_of(folder)) == ["shard_00000.npy", "shard_00001.npy"]
    assert len(list(folder.glob("shard_*.npz"))) == 2
    verify_packed(folder, Silent())
    assert_same_batches(scan(folder, manifest_dir=None), scan(source, manifest_dir=None))


def test_verification_names_what_changed(source: Path, tmp_path: Path) -> None:
    folder = packed(source, tmp_path / "packed")
    verify_packed(folder, Silent())
    path = shard_path(folder, 0)
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES] ^= 1
    path.write_bytes(content)
    message = r"1 of \d shards are damaged: shard_00000\.npy \(1 utterances, the first id0/s1/u0\.wav\)"
    with pytest.raises(DataError, match=message):
        verify_packed(folder, Silent())


def test_unreadable_files_are_named_and_counted(source: Path, tmp_path: Path) -> None:
    (source / "id0/s1/u0.wav").write_bytes(b"damaged")
    (source / "id3/s2/u2.wav").write_bytes(b"")
    folder = packed(source, tmp_path / "packed")
    lines = (folder / "unreadable.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        str(source / "id0/s1/u0.wav"),
        str(source / "id3/s2/u2.wav"),
    ]
    with pytest.raises(
        DataError, match=r"2 of the 16 utterances of .*source cannot be read, more than the share of 0\.1"
    ):
        packed(source, tmp_path / "strict", replace(SMALL, max_unreadable_share=0.1))
    assert len((tmp_path / "strict/unreadable.txt").read_text().splitlines()) == 2
    assert not is_packed(tmp_path / "strict")


def test_mistakes_are_errors(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in (source / "packed", source, tmp_path):
        with pytest.raises(DataError, match=r"lies in .*, or around it"):
            packed(source, inside)
    folder = packed(source, tmp_path / "packed")
    with pytest.raises(DataError, match="packed already"):
        packed(folder, tmp_path / "twice")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"it holds other files \(thesis\.tex\)"):
        packed(source, tmp_path / "full")
    (source / "id0/s1/u0.wav").rename(source / "id0/s1/u7.wav")
    for state in ("whole", "unfinished"):
        if state == "unfinished":
            (folder / TABLE).unlink()
        with pytest.raises(DataError, match=r"another corpus, or .* has other files since"):
            packed(source, folder)
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(disk_need.shutil, "disk_usage", lambda _: Usage(10, 10, 1000))
    with pytest.raises(DataError, match=r"about 0\.\d MiB are needed and 0\.0 MiB are free"):
        packed(source, tmp_path / "new")


def test_a_full_disk_is_an_error_that_says_how_to_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "write_shard", full)
    with pytest.raises(
        DataError, match=r"cannot be written \(No space left on device\); mend that and run the same"
    ):
        packed(source, tmp_path / "packed")


def test_the_disk_need_is_estimated_from_headers(source: Path, tmp_path: Path) -> None:
    corpus = scan(source, manifest_dir=None)
    folder = packed(source, tmp_path / "packed")
    written = sum(path.stat().st_size - HEADER_BYTES for path in folder.glob("*.npy"))
    assert disk_need.mean_bytes(corpus, 0, 2) * len(corpus) == pytest.approx(written)


def test_what_a_killed_process_left_is_removed_and_what_still_grows_is_not(
    source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    old, new = folder / ".shard_00000.npy.aa.tmp", folder / ".shard_00000.npy.bb.tmp"
    for path in (old, new):
        path.write_bytes(b"x" * 1000)
    os.utime(old, (time.time() - 100, time.time() - 100))
    packed(source, folder)
    assert not old.exists()
    assert new.exists()


def test_a_killed_run_goes_on_when_it_is_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plant_audio(tmp_path / "source", speakers=30)
    expected = content_of(packed(source, tmp_path / "whole"))
    folder = tmp_path / "packed"
    real = packing.sixteen_bits

    def slowly(path: Path) -> object:
        time.sleep(0.01)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "sixteen_bits", slowly)
        process = multiprocessing.get_context("fork").Process(target=packed, args=(source, folder))
        process.start()
    deadline = time.monotonic() + 60
    while not table_path(folder, 2).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not is_packed(folder)
    kept = len(list(folder.glob("shard_*.npz")))
    assert 3 <= kept < len(expected)
    packed(source, folder)
    assert content_of(folder) == expected


def test_crops_are_counted_in_both(source: Path, tmp_path: Path) -> None:
    folder = packed(source, tmp_path / "packed")
    rates = crops_per_second(
        {"files": scan(source, manifest_dir=None), "packed": scan(folder, manifest_dir=None)}
    )
    assert set(rates) == {"files", "packed"}
    assert min(rates.values()) > 0
