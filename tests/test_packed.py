"""A packed corpus gives what its files gave, under the same paths, to 16 bits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.audio import SAMPLE_RATE, is_there, num_samples, read, read_crop
from mrl.data.corpus import scan
from mrl.errors import AudioError, DataError
from mrl.packed import TABLE, find_utterance, is_packed, open_packed
from mrl.shards import shard_path
from tests.data.packing_material import packed, plant_audio

ROUNDING = 0.5 / 32768 + 1e-9


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The corpus in files, and packed; one file is unreadable."""
    folder = tmp_path_factory.mktemp("both")
    source = plant_audio(folder / "source")
    (source / "id1" / "s1" / "u1.flac").write_bytes(b"damaged")
    return source, packed(source, folder / "packed")


def test_every_path_gives_the_samples_of_its_file(both: tuple[Path, Path]) -> None:
    source, folder = both
    corpus = scan(source, manifest_dir=None)
    assert open_packed(folder).shards.count() >= 3
    for utterance in range(len(corpus)):
        relative = corpus.relative_path(utterance)
        if relative == "id1/s1/u1.flac":
            continue
        there, here = source / relative, folder / relative
        whole = read(here)
        exact = "u0" in relative or "u1" in relative  # 16 bits, 16 kHz
        np.testing.assert_allclose(whole, read(there), rtol=0, atol=0 if exact else ROUNDING)
        assert whole.dtype == np.float32
        assert num_samples(here) == num_samples(there) == len(whole)
        np.testing.assert_array_equal(read(here, max_samples=100), whole[:100])
        for position in (0.0, 0.4, 0.999999):
            crop = read_crop(here, 1000, position)
            np.testing.assert_allclose(
                crop, read_crop(there, 1000, position), rtol=0, atol=0 if exact else ROUNDING
            )


def test_paths_that_were_not_packed_are_not_there(both: tuple[Path, Path]) -> None:
    source, folder = both
    assert is_there(folder / "id0/s1/u0.wav")
    assert is_there(source / "id0/s1/u0.wav")
    for path in (
        "id0/s1/u9.wav",
        "id0/s1",
        "id9/s1/u0.wav",
        "id0",
        "aaa/u.wav",
        "zzz/u.wav",
        "id0/s1/u0.wav/x.wav",
    ):
        assert not is_there(folder / path)
        assert find_utterance(folder / path) is None
    with pytest.raises(AudioError, match=r"u9\.wav: no such file"):
        read(folder / "id0/s1/u9.wav")


def test_an_unreadable_utterance_says_where_the_reason_stands(both: tuple[Path, Path]) -> None:
    path = both[1] / "id1/s1/u1.flac"
    for attempt in (read, num_samples, lambda path: read_crop(path, 10, 0.0)):
        with pytest.raises(
            AudioError, match=rf"{path}: it could not be read when it was packed.*unreadable\.txt"
        ):
            attempt(path)
    assert f"{both[0] / 'id1/s1/u1.flac'}: damaged" in (both[1] / "unreadable.txt").read_text()


def test_a_relative_path_and_odd_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plant_audio(tmp_path / "source", speakers=2)
    (source / "id0").rename(source / "Ünï 日本")
    os.rename(os.fsencode(source / "id1/s1/u0.wav"), os.fsencode(source / "id1/s1") + b"/\xff.wav")
    packed(source, tmp_path / "packed")
    monkeypatch.chdir(tmp_path)
    for name in ("Ünï 日本/s1/u1.flac", os.fsdecode(b"id1/s1/\xff.wav")):
        np.testing.assert_array_equal(read(Path("packed") / name), read(Path("source") / name))


def test_ffmpeg_is_not_needed_for_what_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plant_audio(tmp_path / "source", speakers=1)
    encoders = pytest.importorskip("torchcodec.encoders")
    noise = 0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    encoders.AudioEncoder(noise, sample_rate=SAMPLE_RATE).to_file(str(source / "id0/s1/u.m4a"))
    there = read(source / "id0/s1/u.m4a")
    folder = packed(source, tmp_path / "packed")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    np.testing.assert_allclose(read(folder / "id0/s1/u.m4a"), there, rtol=0, atol=ROUNDING)
    (folder / "id0/s1").mkdir(parents=True)
    (folder / "id0/s1/other.m4a").write_bytes(b"a file of its own")
    with pytest.raises(AudioError, match="FFmpeg"):
        read(folder / "id0/s1/other.m4a")


def test_damage_of_the_table_is_an_error(tmp_path: Path) -> None:
    folder = packed(plant_audio(tmp_path / "source", speakers=1), tmp_path / "packed")
    content = (folder / TABLE).read_bytes()
    (folder / TABLE).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"corpus\.npz: this table is damaged; pack the corpus again"):
        open_packed(folder)
    with np.load(shard_path(folder, 0).with_suffix(".npz")) as other:
        np.savez(folder / "corpus", format=np.array("99"), first=other["first"])
    with pytest.raises(DataError, match="packed in format 99, this program reads 1"):
        open_packed(folder)


def test_a_cut_shard_is_named_when_the_corpus_is_opened_and_when_it_is_read(tmp_path: Path) -> None:
    folder = packed(plant_audio(tmp_path / "source", speakers=1), tmp_path / "packed")
    corpus = scan(folder, manifest_dir=None)
    path = shard_path(folder, 0)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"{path}: this shard has 200 bytes"):
        scan(folder, manifest_dir=None)
    with pytest.raises(DataError, match=rf"{path}: this shard is cut short") as caught:
        corpus.read_crop(0, 300, 0.0)
    assert not isinstance(caught.value, AudioError)  # which would be replaced, crop after crop


def test_half_a_packing_is_no_corpus(tmp_path: Path) -> None:
    folder = packed(plant_audio(tmp_path / "source", speakers=1), tmp_path / "packed")
    (folder / TABLE).unlink()
    assert not is_packed(folder)
    with pytest.raises(DataError, match=r"packing it was interrupted; run scripts/pack_corpus\.py again"):
        scan(folder, manifest_dir=None)
