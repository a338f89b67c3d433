"""Each kind of bad file, in one corpus: what is usable is read right, the rest is named, counted and replaced."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.audio import SAMPLE_RATE, num_samples, read, read_crop
from mrl.console import Console, silent_console
from mrl.data.corpus import Corpus, scan
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset
from mrl.data.packing import PackOptions, pack_corpus
from mrl.data.unreadable import count_kinds, kind_of, path_of
from mrl.errors import AudioError, DataError
from mrl.line_file import LineFile
from tests.data.bad_corpus import (
    ALL_BAD,
    NOT_UTF8,
    THREE_HOURS,
    Planted,
    plant_bad_corpus,
    tone,
    write_three_hours,
)

CROP = 4_000  # samples


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    root = tmp_path_factory.mktemp("bad")
    return root, plant_bad_corpus(root)


@pytest.fixture(scope="module")
def corpus(planted: tuple[Path, Planted]) -> Corpus:
    return scan(planted[0], manifest_dir=None)


def paths_of(corpus: Corpus) -> list[str]:
    return [corpus.relative_path(item) for item in range(len(corpus))]


def item_of(corpus: Corpus, ending: str) -> int:
    (item,) = [item for item, path in enumerate(paths_of(corpus)) if path.endswith(ending)]
    return item


def test_the_scan_lists_every_file_and_enters_no_loop(planted: tuple[Path, Planted], corpus: Corpus) -> None:
    _, made = planted
    assert sorted(paths_of(corpus)) == sorted([*made.usable, *made.unusable])
    assert corpus.speakers[-1] == ALL_BAD


def test_names_survive_the_manifest(planted: tuple[Path, Planted], corpus: Corpus, tmp_path: Path) -> None:
    past = time.time() - 60  # for a folder that changed just now no manifest is kept
    for folder, _, _ in os.walk(planted[0]):
        os.utime(folder, (past, past))
    scanned = scan(planted[0], manifest_dir=tmp_path)
    assert list(tmp_path.glob("*.npz"))
    kept = scan(planted[0], manifest_dir=tmp_path)
    assert paths_of(scanned) == paths_of(kept) == paths_of(corpus)
    assert scanned.fingerprint() == kept.fingerprint() == corpus.fingerprint()
    assert any(NOT_UTF8 in path for path in paths_of(kept))


def test_usable_files_are_read_right(planted: tuple[Path, Planted]) -> None:
    root, made = planted
    for path in made.usable:
        if path.endswith("three_hours.wav"):
            continue
        samples = read(root / path)
        assert num_samples(root / path) == len(samples)
        if path.endswith("partly_silent.wav"):
            samples = samples[1600:-1600]
        expected = tone()[: len(samples)]
        inner = slice(50, -50)  # the ends of what is resampled meet the silence around it
        assert len(samples) == (800 if path.endswith("short.wav") else len(tone()))
        np.testing.assert_allclose(samples[inner], expected[inner], atol=0.01, err_msg=path)


def test_a_short_file_is_repeated(planted: tuple[Path, Planted], corpus: Corpus) -> None:
    crop = read_crop(corpus.path(item_of(corpus, "short.wav")), CROP, 0.0)
    np.testing.assert_array_equal(crop, np.tile(crop[:800], 5))
    np.testing.assert_allclose(crop[:800], tone()[:800], atol=1e-4)


def test_what_is_unusable_is_named_with_its_reason(planted: tuple[Path, Planted]) -> None:
    root, made = planted
    for path, kind in made.unusable.items():
        for attempt in (lambda path: read(path), lambda path: read_crop(path, CROP, 0.37)):
            with pytest.raises(AudioError) as caught:
                attempt(root / path)
            message = str(caught.value)
            assert kind_of(message) == kind, message
            assert message.encode().decode() == message  # what any file can hold
            assert message.isprintable()
            if path.isprintable():
                assert path_of(message) == f"{root}/{path}"


def test_no_two_files_share_a_name_in_messages(planted: tuple[Path, Planted]) -> None:
    root, made = planted
    names = set()
    for path in made.unusable:
        with pytest.raises(AudioError) as caught:
            read(root / path)
        names.add(path_of(str(caught.value)))
    assert len(names) == len(made.unusable)


def test_nothing_unusable_takes_memory(planted: tuple[Path, Planted]) -> None:
    root, made = planted
    for path in made.unusable:
        tracemalloc.start()
        with pytest.raises(AudioError):
            read_crop(root / path, CROP, 0.37)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000, path


@pytest.mark.parametrize("workers", [0, 2])
def test_every_unusable_file_is_replaced_by_its_speaker(
    planted: tuple[Path, Planted], corpus: Corpus, workers: int
) -> None:
    _, made = planted
    keys = [[(1, item)] for item in range(len(corpus))]
    batches = list(make_loader(CropDataset(corpus, CROP, seed=3), keys, workers, pin_memory=False))
    replaced: dict[str, str] = {}
    for (key,), batch in zip(keys, batches, strict=True):
        path = corpus.relative_path(key[1])
        assert batch.waveforms.isfinite().all()
        assert batch.waveforms.any()
        if path in made.usable:
            assert (batch.utterances.tolist(), batch.replaced) == ([key[1]], [])
            continue
        (replaced[path],) = batch.replaced
        assert corpus.relative_path(int(batch.utterances)) in made.usable
        assert (batch.speakers == int(corpus.speaker_ids[key[1]])) == (not path.startswith(ALL_BAD))
    assert {path: kind_of(message) for path, message in replaced.items()} == made.unusable


def test_a_silent_crop_gives_way_to_another_of_the_same_utterance(corpus: Corpus) -> None:
    item = item_of(corpus, "partly_silent.wav")
    dataset = CropDataset(corpus, 800, seed=3)
    found = 0
    for epoch in range(40):
        crop, again = dataset[(epoch, item)], dataset[(epoch, item)]
        assert (crop.utterance, crop.replaced) == (item, None)
        assert crop.waveform.any()
        assert torch.equal(crop.waveform, again.waveform)
        found += 1
    assert found == 40


def test_silence_of_a_part_is_not_said_of_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.eye(1, 1000)[0] * 0.5, SAMPLE_RATE)
    soundfile.write(tmp_path / "b.wav", np.eye(1, 1000, 999)[0] * 0.5, SAMPLE_RATE)
    with pytest.raises(AudioError, match="silent: every sample of this part is zero"):
        read(tmp_path / "b.wav", max_samples=999)
    with pytest.raises(AudioError, match="silent: every sample of this part is zero"):
        read_crop(tmp_path / "a.wav", 100, 0.5)
    (tmp_path / "x").mkdir()
    soundfile.write(tmp_path / "x" / "0.wav", np.zeros(1000), SAMPLE_RATE)
    soundfile.write(tmp_path / "x" / "1.wav", tone(), SAMPLE_RATE)
    crop = CropDataset(scan(tmp_path, manifest_dir=None), 100, seed=3)[(0, 0)]
    assert crop.utterance == 1
    assert str(crop.replaced).endswith("every sample of this part is zero, here and at 8 other places")


def test_three_hours_are_read_by_seeking(tmp_path: Path) -> None:
    long, short = tmp_path / "long.wav", tmp_path / "short.wav"
    write_three_hours(long)
    soundfile.write(short, tone(8_000, 1.0), 8_000, subtype="PCM_U8")
    assert num_samples(long) == THREE_HOURS * SAMPLE_RATE
    first, last = read_crop(long, SAMPLE_RATE, 0.0), read_crop(long, SAMPLE_RATE, 1 - 1e-12)
    inner = slice(200, -200)
    np.testing.assert_allclose(first[inner], tone(seconds=1.0)[inner], atol=0.02)
    np.testing.assert_allclose(last[inner], tone(seconds=1.0)[inner], atol=0.02)
    seconds: dict[Path, list[float]] = {long: [], short: []}
    peaks = {}
    for path in seconds:
        tracemalloc.start()
        read_crop(path, 10_000, 0.9)
        peaks[path] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[long] < 1.5 * peaks[short]
    for position in np.linspace(0, 0.99, 200):
        for path in seconds:
            started = time.perf_counter()
            read_crop(path, 10_000, float(position))
            seconds[path].append(time.perf_counter() - started)
    assert np.median(seconds[long]) < 3 * np.median(seconds[short])


@pytest.mark.slow
def test_three_hours_of_flac_are_read_by_seeking(tmp_path: Path) -> None:
    long, short = tmp_path / "long.flac", tmp_path / "short.flac"
    noise = np.random.default_rng(1).integers(-100, 100, 60 * 8_000).astype(np.int16)
    soundfile.write(short, noise, 8_000)
    with soundfile.SoundFile(long, "w", 8_000, 1) as file:
        for _ in range(THREE_HOURS // 60):
            file.write(noise)
    seconds: dict[Path, list[float]] = {long: [], short: []}
    for position in np.linspace(0, 0.99, 100):
        for path in seconds:
            started = time.perf_counter()
            read_crop(path, 3 * SAMPLE_RATE, float(position))
            seconds[path].append(time.perf_counter() - started)
    assert np.median(seconds[long]) < 4 * np.median(seconds[short])


def test_what_vanishes_after_the_scan_is_replaced(tmp_path: Path) -> None:
    for path in ("a/s1/1.wav", "a/s1/2.wav", "a/s2/3.wav", "b/1.wav"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, tone(), SAMPLE_RATE)
    corpus = scan(tmp_path, manifest_dir=None)
    dataset = CropDataset(corpus, CROP, seed=3)
    for path in ("a/s1/1.wav", "a/s1/2.wav"):
        (tmp_path / path).unlink()
    (tmp_path / "a/s1").rmdir()
    crops = [dataset[(1, item)] for item in range(4)]
    assert [crop.utterance for crop in crops] == [2, 2, 2, 3]
    assert [crop.replaced and kind_of(crop.replaced) for crop in crops] == ["missing", "missing", None, None]


def test_a_folder_that_vanishes_or_may_not_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/closed").mkdir(parents=True)
    listed = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"a/closed: this folder cannot be listed: Permission denied$"):
        scan(tmp_path, manifest_dir=None)
    with pytest.raises(DataError, match=r"gone: no such folder"):
        scan(tmp_path / "gone", manifest_dir=None)


def test_a_file_without_permission_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), SAMPLE_RATE)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        with pytest.raises(AudioError, match="no permission to read it") as caught:
            read(path)
    assert kind_of(str(caught.value)) == "without permission"
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    with pytest.raises(AudioError, match="no permission to read it"):
        read(path)


def test_messages_can_be_kept_everywhere(corpus: Corpus, tmp_path: Path) -> None:
    item = item_of(corpus, f"s2/{NOT_UTF8}.wav")
    message = str(CropDataset(corpus, CROP, seed=3)[(1, item)].replaced)
    assert r"s2/\udcff\udcfe.wav: empty" in message
    console = Console(LineFile(tmp_path / "log"), stream=(tmp_path / "out").open("w", encoding="ascii"))
    console.say(f"replaced: {message}")
    console.close()
    assert message in (tmp_path / "log").read_text(encoding="utf-8")
    torch.save({"unreadable": {path_of(message): message}}, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"unreadable": {path_of(message): message}}
    assert json.loads(json.dumps(message, ensure_ascii=False).encode()) == message
    # The path itself, where no message is made of it.
    torch.save({"path": corpus.relative_path(item)}, tmp_path / "path.pt")
    assert torch.load(tmp_path / "path.pt", weights_only=True)["path"] == corpus.relative_path(item)


def test_kinds_of_the_whole_corpus_are_counted(planted: tuple[Path, Planted]) -> None:
    root, made = planted
    messages = []
    for path in made.unusable:
        with pytest.raises(AudioError) as caught:
            read(root / path)
        messages.append(str(caught.value))
    kinds = list(made.unusable.values())
    assert count_kinds(messages) == {kind: kinds.count(kind) for kind in kinds}


def test_a_hundred_thousand_files_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "s1"
    folder.mkdir(parents=True)
    for number in range(100_000):
        os.close(os.open(folder / f"{number:06d}.wav", os.O_CREAT))
    started = time.perf_counter()
    corpus = scan(tmp_path, manifest_dir=None)
    assert time.perf_counter() - started < 60
    assert len(corpus) == 100_000
    assert corpus.relative_path(99_999) == "a/s1/099999.wav"
    assert corpus.path_bytes.nbytes + corpus.path_offsets.nbytes + corpus.speaker_ids.nbytes < 3_000_000


def test_a_packed_corpus_keeps_the_places_of_bad_files(tmp_path: Path) -> None:
    made = plant_bad_corpus(tmp_path / "bad")
    (long,) = (path for path in made.usable if path.endswith("three_hours.wav"))
    (tmp_path / "bad" / long).unlink()  # packing holds whole utterances
    options = PackOptions(workers=2, max_unreadable_share=0.7)
    corpus = pack_corpus(tmp_path / "bad", tmp_path / "packed", options, silent_console())
    packed = scan(tmp_path / "packed", manifest_dir=None)
    assert paths_of(packed) == paths_of(corpus)
    named = (tmp_path / "packed" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert Counter(map(kind_of, named)) == Counter(made.unusable.values())
    dataset = CropDataset(packed, CROP, seed=3)
    for item, path in enumerate(paths_of(packed)):
        crop = dataset[(1, item)]
        assert (crop.replaced is None) == (path in made.usable)
        assert crop.replaced is None or kind_of(crop.replaced) == "unreadable when packed"
