from __future__ import annotations

import builtins
import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mrl.config import AugmentationConfig
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.codec import CodecPlan, round_trip
from mrl.errors import DataError


def speechlike(num_samples: int = 24000) -> np.ndarray:
    """A hundred harmonics of a gliding voice, with pauses."""
    seconds = np.arange(num_samples) / 16000
    phase = 2 * np.pi * (120 * seconds + 15 * np.sin(3 * seconds))
    harmonics = sum(np.sin(k * phase + k * k) / k for k in range(1, 30))
    loudness = np.clip(np.sin(2 * np.pi * 2 * seconds) + 0.3, 0, 1)
    return (0.1 * harmonics * loudness).astype(np.float32)


def delay_and_similarity(before: np.ndarray, after: np.ndarray) -> tuple[int, float]:
    size = 2 * len(before)
    products = np.fft.irfft(np.fft.rfft(before, size).conj() * np.fft.rfft(after, size))
    place = int(products.argmax())
    similarity = products[place] / np.linalg.norm(before) / np.linalg.norm(after)
    return (place if place < len(before) else place - size), float(similarity)


@pytest.fixture
def needs_ffmpeg() -> None:
    try:
        from torchcodec.encoders import AudioEncoder  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        pytest.skip("FFmpeg is not installed")


@pytest.mark.parametrize("name", ["opus", "mp3", "aac"])
@pytest.mark.parametrize("kbps", [8.0, 16.0, 32.0, 64.0])
def test_a_round_trip_keeps_length_and_time_and_loses_a_little(
    name: str, kbps: float, request: pytest.FixtureRequest
) -> None:
    if name == "aac":
        request.getfixturevalue("needs_ffmpeg")
    samples = speechlike()
    decoded = round_trip(samples, name, kbps)
    assert decoded.shape == samples.shape
    assert decoded.dtype == np.float32
    delay, similarity = delay_and_similarity(samples, decoded)
    assert abs(delay) <= 1
    assert (0.8 if kbps == 8 else 0.95) < similarity < 0.999999


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_fewer_bits_lose_more(name: str) -> None:
    samples = speechlike()
    errors = [np.square(round_trip(samples, name, kbps) - samples).sum() for kbps in (64.0, 24.0, 8.0)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("name", ["opus", "mp3"])
@pytest.mark.parametrize("num_samples", [1, 100, 1105, 1153])
def test_short_crops_keep_their_length(name: str, num_samples: int) -> None:
    assert round_trip(speechlike()[5000 : 5000 + num_samples], name, 8.0).shape == (num_samples,)


@pytest.mark.parametrize(("kbps", "coded_at"), [(6.0, 8), (19.0, 16), (21.0, 24), (33.0, 32), (500.0, 160)])
def test_mp3_takes_the_nearest_rate_that_it_has(
    kbps: float, coded_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = soundfile.write

    def watched(file: io.BytesIO, *args: Any, **options: Any) -> None:
        write(file, *args, **options)
        sizes.append(len(file.getvalue()))

    monkeypatch.setattr(soundfile, "write", watched)
    round_trip(speechlike(160000), "mp3", kbps)
    assert 8 * sizes[0] / 10 / 1000 == pytest.approx(coded_at, rel=0.03)


def test_only_the_planned_items_are_coded() -> None:
    waveforms = torch.from_numpy(np.stack([speechlike(), 2 * speechlike(), -speechlike()]))
    config = AugmentationConfig(codec_probability=1.0)
    augment = Augmenter(config, seed=1, banks=ClipBanks())
    plan = augment.plan([1, 2, 3], [0, 1, 2], epoch=1, num_samples=24000)
    plan = plan._replace(codec=CodecPlan([2, 0], ["opus", "mp3"], [20.0, 16.0]))
    before = waveforms.clone()
    prepared = augment.prepare(waveforms, plan)
    assert torch.equal(waveforms, before)
    assert torch.equal(prepared[1], waveforms[1])
    assert np.array_equal(prepared[2].numpy(), round_trip(waveforms[2].numpy(), "opus", 20.0))
    assert np.array_equal(prepared[0].numpy(), round_trip(waveforms[0].numpy(), "mp3", 16.0))
    assert torch.equal(augment.apply(prepared, plan), prepared)


def test_aac_without_ffmpeg_is_a_clear_error_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def failing(name: str, *args: Any, **keys: Any) -> Any:
        if name.startswith("torchcodec"):
            raise RuntimeError("libavutil.so.58: cannot open shared object file")
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", failing)
    config = AugmentationConfig(codec_probability=0.1, codecs=("mp3", "aac"))
    with pytest.raises(DataError, match=r"codecs: aac needs FFmpeg.*or leave aac out"):
        Augmenter(config, seed=1, banks=ClipBanks())
    Augmenter(config.model_copy(update={"codec_probability": 0.0}), seed=1, banks=ClipBanks())
