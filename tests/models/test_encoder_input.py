"""Files in batches: no padding, no batch larger than asked for, the longest first, mistakes before the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.errors import AudioError
from mrl.models import encoder_input
from mrl.models.encoder_input import mel_batches, whole_frames
from mrl.models.pretrained import build_released
from mrl.models.released import Trunk


def write(folder: Path, lengths: list[int]) -> list[Path]:
    paths = []
    for number, length in enumerate(lengths):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], np.random.default_rng(number).uniform(-0.3, 0.3, length), 16_000)
    return paths


def places(trunk: Trunk, paths: list[Path], batch_size: int) -> list[list[int]]:
    return [batch for batch, _ in mel_batches(trunk, paths, batch_size, workers=2)]


def test_files_of_equally_many_frames_share_a_batch(released, tmp_path):
    # 1 + T // 160 frames: 26, 51, 26, 51, 27, 26
    paths = write(tmp_path, [4000, 8000, 4159, 8100, 4160, 4001])
    assert places(released, paths, 8) == [[3, 1], [4], [2, 5, 0]]
    assert places(released, paths, 2) == [[3, 1], [4], [2, 5], [0]]
    assert places(released, paths, 1) == [[3], [1], [4], [2], [5], [0]]


@torch.no_grad()
def test_each_image_is_that_of_its_file_alone(released, tmp_path):
    paths = write(tmp_path, [4000, 4100, 5000])
    for batch, mel in mel_batches(released, paths, 8, workers=1):
        for place, image in zip(batch, mel, strict=True):
            samples = torch.from_numpy(soundfile.read(paths[place], dtype="float32")[0])
            assert torch.equal(image, released.mel(samples[None])[0])


@torch.no_grad()
def test_frames_beyond_whole_strides_do_not_part_files(tmp_path):
    stages = [[[1, 4], 1, 1, [[3, 3]], 12]]
    config = {"F": 24, "C": 4, "stages_setup": stages, "causal": "none", "spec_params": {}}
    trunk = build_released(config).eval()
    paths = write(tmp_path, [4000, 4160, 4320, 4480])  # 26, 27, 28, 29 frames
    batches = list(mel_batches(trunk, paths, 8, workers=1))
    assert [batch for batch, _ in batches] == [[3, 2], [1, 0]]
    assert [mel.shape for _, mel in batches] == [(2, 24, 28), (2, 24, 24)]


def test_long_files_share_a_batch_with_fewer(released, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_input, "_USUAL_SECONDS", 0.25)  # 4 * 0.25 s is room for two files of 0.5 s
    paths = write(tmp_path, [8000] * 5 + [4000] * 5 + [32_000] * 2)
    assert [len(batch) for batch in places(released, paths, 4)] == [1, 1, 2, 2, 1, 4, 1]


def test_a_short_file_is_told_before_any_is_read(released, tmp_path, monkeypatch):
    paths = write(tmp_path, [8000, 200, 9000])
    monkeypatch.setattr(encoder_input, "read_ahead", lambda *_: pytest.fail("a file was read"))
    with pytest.raises(AudioError, match=r"1\.wav: a waveform of 200 samples is too short"):
        next(mel_batches(released, paths, 4, workers=2))


def test_a_file_that_became_short_meanwhile_is_named(released, tmp_path, monkeypatch):
    paths = write(tmp_path, [8000, 200])
    monkeypatch.setattr(encoder_input, "num_samples", lambda path: 8000)
    with pytest.raises(AudioError, match=r"1\.wav: a waveform of 200 samples is too short"):
        list(mel_batches(released, paths, 4, workers=1))


def test_waveforms_held_are_few(released, tmp_path, monkeypatch):
    paths = write(tmp_path, [4000] * 40)
    asked = []
    original = encoder_input.read_ahead

    def counting(files, workers, max_samples):
        return original((asked.append(path) or path for path in files), workers, max_samples)

    monkeypatch.setattr(encoder_input, "read_ahead", counting)
    batches = mel_batches(released, paths, 4, workers=2)
    next(batches)
    assert len(asked) <= 4 + 1 + 2 * 2  # a batch, the file after it, and those read ahead
    batches.close()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pt", "tf"])
@pytest.mark.parametrize("hop", [160, 240])
def test_frames_are_foretold_from_the_length(tiny_config, kind, hop):
    trunk = build_released({**tiny_config, "feat_type": kind, "hop_length": hop}).eval()
    for length in (trunk.min_samples, 719, 720, 721, 4159, 4160, 4161, *range(8000, 8000 + 2 * hop, 37)):
        assert whole_frames(trunk, length) == trunk.mel(torch.ones(1, length)).shape[2], length


def test_a_file_that_became_longer_meanwhile_is_embedded_alone(released, tmp_path, monkeypatch):
    paths = write(tmp_path, [8000, 9000, 8000])
    monkeypatch.setattr(encoder_input, "num_samples", lambda path: 8000)
    batches = list(mel_batches(released, paths, 4, workers=1))
    assert [batch for batch, _ in batches] == [[0], [1], [2]]
    assert [mel.shape[2] for _, mel in batches] == [51, 57, 51]


def test_files_cut_to_one_length_share_a_batch(released, tmp_path):
    paths = write(tmp_path, [4000, 8000, 12_000, 9000])
    batches = list(mel_batches(released, paths, 8, workers=2, max_samples=8000))
    assert [batch for batch, _ in batches] == [[1, 2, 3], [0]]
    assert batches[0][1].shape == (3, 24, 51)


def test_processes_get_each_file_once_and_as_much_audio_as_the_others(released, tmp_path):
    lengths = [4000] * 13 + [8000] * 9 + [16_000] * 3 + [5000 + 200 * number for number in range(10)]
    paths = write(tmp_path, lengths)
    shares = [
        [place for batch, _ in mel_batches(released, paths, 8, 2, rank=rank, world_size=4) for place in batch]
        for rank in range(4)
    ]
    assert sorted(place for share in shares for place in share) == list(range(len(paths)))
    audio = [sum(lengths[place] for place in share) for share in shares]
    assert max(audio) - min(audio) <= 64_000  # no more than a batch apart


def test_few_files_are_spread_over_all_processes(released, tmp_path):
    paths = write(tmp_path, [4000] * 8)
    sizes = [len(next(mel_batches(released, paths, 32, 1, rank=rank, world_size=4))[0]) for rank in range(4)]
    assert sizes == [2, 2, 2, 2]
