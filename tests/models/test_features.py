"""Front ends: against sums written out by hand, and against the constants of the authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.models.features import (
    FrontEnd,
    PreEmphasis,
    SignalNormalisation,
    hz_to_mel,
    mel_to_hz,
    triangles,
)


def test_mel_scale_is_the_htk_one():
    assert hz_to_mel(1000.0) == pytest.approx(2595 * math.log10(1 + 1000 / 700))
    frequencies = np.array([20.0, 440.0, 7600.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(frequencies)), frequencies)


def test_triangles_by_hand():
    filters = triangles(np.array([0.0, 1.0, 2.0, 3.0, 5.0, 9.0]), np.array([0.0, 2.0, 4.0, 6.0]))
    expected = [[0, 0], [0.5, 0], [1, 0], [0.5, 0.5], [0, 0.5], [0, 0]]
    np.testing.assert_allclose(filters, expected)


def test_pre_emphasis_reflects_one_sample():
    out = PreEmphasis()(torch.tensor([[1.0, 2.0, 4.0]]))
    torch.testing.assert_close(out, torch.tensor([[1 - 0.97 * 2, 2 - 0.97 * 1, 4 - 0.97 * 2]]))


def test_signal_normalisation_uses_the_population_deviation():
    out = SignalNormalisation(1e-6)(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(out, torch.tensor([[-1.0, 1.0]]))


def mel_power_by_hand(samples: np.ndarray, frame: int, bands: int, hop: int, kind: str) -> np.ndarray:
    """One frame of mel power, from the definition of the DFT."""
    emphasised = samples - 0.97 * np.concatenate([samples[1:2], samples[:-1]])
    index = np.arange(400)
    points = mel_to_hz(np.linspace(hz_to_mel(20), hz_to_mel(7600), bands + 2))
    if kind == "pt":
        # Frame t is centred at t * hop; the 400-sample window sits in the middle of the 512.
        padded = np.pad(emphasised, 256, mode="reflect")
        piece = padded[frame * hop + 56 : frame * hop + 456]
        window = 0.54 - 0.46 * np.cos(2 * np.pi * index / 400)
        bins, hz = 257, np.arange(257) * 31.25
        filters = triangles(hz, points)
    else:
        padded = np.pad(emphasised, hop // 2)
        piece = padded[frame * hop : frame * hop + 400]
        window = 0.54 - 0.46 * np.cos(2 * np.pi * index / 399)
        bins, hz = 256, np.arange(256) * 8000 / 255
        filters = triangles(hz_to_mel(hz), hz_to_mel(points))
    kernel = np.exp(-2j * np.pi * np.outer(np.arange(bins), index) / 512)
    return np.abs(kernel @ (piece * window)) ** 2 @ filters


@pytest.mark.parametrize("kind", ["pt", "tf"])
@pytest.mark.parametrize("hop", [160, 240])
def test_log_mel_matches_the_definition(kind, hop, waveforms):
    front_end = FrontEnd(kind, 20, hop)
    log_mel = front_end(waveforms)
    frames = log_mel.shape[-1]
    floor = 1e-6 if kind == "pt" else 1e-8
    samples = waveforms[1].double().numpy()
    power = np.stack([mel_power_by_hand(samples, t, 20, hop, kind) for t in range(frames)], axis=1)
    expected = np.log(np.maximum(power, floor if kind == "tf" else 0) + floor)
    expected -= expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(log_mel[1].numpy(), expected, atol=5e-4)


def test_frame_counts():
    waveform = torch.randn(1, 16_000)
    assert FrontEnd("pt", 20, 160)(waveform).shape == (1, 20, 101)
    assert FrontEnd("pt", 20, 240)(waveform).shape == (1, 20, 67)
    assert FrontEnd("tf", 20, 160)(waveform).shape == (1, 20, 98 + 1)


@settings(deadline=None)
@given(
    st.sampled_from(["pt", "tf"]),
    st.sampled_from([80, 160, 161, 240, 400]),
    st.integers(min_value=2, max_value=6),
)
def test_min_samples_is_the_least_that_gives_the_frames(kind, hop, frames):
    front_end = FrontEnd(kind, 8, hop)
    least = front_end.min_samples(frames)
    assert front_end(torch.ones(1, least)).shape[-1] >= frames
    shorter = torch.ones(1, least - 1)
    if kind == "pt" and least == 257:
        with pytest.raises(RuntimeError):
            front_end(shorter)
    else:
        assert front_end(shorter).shape[-1] == frames - 1


@pytest.mark.parametrize("kind", ["pt", "tf"])
def test_the_mean_over_time_is_zero_and_silence_is_finite(kind, waveforms):
    front_end = FrontEnd(kind, 20, 160)
    assert front_end(waveforms).mean(dim=-1).abs().max() < 1e-5
    assert front_end(torch.zeros(1, 4000)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["pt", "tf"])
def test_signal_normalisation_removes_the_level(kind, waveforms):
    front_end = FrontEnd(kind, 20, 160, normalise_signal=True)
    torch.testing.assert_close(front_end(0.1 * waveforms), front_end(waveforms), atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["pt", "tf"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(kind, dtype, waveforms):
    front_end = FrontEnd(kind, 20, 160)
    with torch.autocast("cpu", dtype=dtype):
        under_autocast = front_end(waveforms)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, front_end(waveforms))


def test_slots_keep_their_numbers_when_steps_are_off():
    keys = list(FrontEnd("pt", 8, 160, pre_emphasis=False).state_dict())
    assert keys == ["torchfbank.2.spectrogram.window", "torchfbank.2.mel_scale.fb"]


def test_dft_kernels_equal_those_of_the_authors(parity):
    stored = torch.load(parity / "tf_frontend_buffers.pt", weights_only=True)
    ours = FrontEnd("tf", 8, 160).state_dict()
    for key, tensor in stored.items():
        torch.testing.assert_close(ours[key.removeprefix("spec.")], tensor, atol=1e-6, rtol=0)
