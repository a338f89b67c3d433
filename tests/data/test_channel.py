from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from mrl.data.channel import clip, mu_law, telephone
from mrl.data.noise import power, white_noise

CPU = torch.device("cpu")


def tone(hz: float, num_samples: int = 8000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(num_samples) / 16000)[None]


def test_clip_by_hand() -> None:
    waveforms = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.1, 0.2, -0.4, 0.3]])
    clipped = clip(waveforms, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(clipped, torch.tensor([[0.5, -0.5, 0.5, 0.0], [0.1, 0.2, -0.2, 0.2]]))


def test_mu_law_by_hand() -> None:
    """In 14-bit units: segments begin at 31, 95, 223, ... and have steps of 2, 4, 8, ... up to 256."""
    units = torch.tensor([0.0, 1.0, 2.0, 30.0, 31.0, 100.0, 4063.0, 8191.0, -100.0, -8192.0])
    expected = torch.tensor([0.0, 2.0, 2.0, 30.0, 33.0, 99.0, 4191.0, 8031.0, -99.0, -8031.0])
    assert torch.equal(mu_law(units / 8192) * 8192, expected)


def test_mu_law_is_that_of_g711() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop")
    units = np.arange(-8191, 8192)
    pcm = (4 * units).astype(np.int16).tobytes()
    expected = np.frombuffer(audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2), np.int16) / 32768
    assert np.array_equal(mu_law(torch.from_numpy(units / 8192).float()).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("hz", [300.0, 440.0, 1000.0, 2000.0, 3400.0])
def test_a_telephone_passes_its_band_in_time_and_at_its_level(hz: float) -> None:
    heard = telephone(tone(hz))
    torch.testing.assert_close(heard[:, 200:-200], tone(hz)[:, 200:-200], atol=0.02, rtol=0)


@pytest.mark.parametrize("hz", [50.0, 90.0, 3650.0, 4500.0, 7000.0])
def test_a_telephone_stops_what_lies_outside(hz: float) -> None:
    inner = slice(200, -200)
    heard, before = power(telephone(tone(hz))[:, inner]), power(tone(hz)[:, inner])
    assert 10 * math.log10(float(heard / before)) < -40


def test_the_noise_of_a_telephone_is_that_of_eight_bits() -> None:
    """Steps are 1/16 to 1/32 of their value, so the error is uniform within that: 38 dB below speech (G.711)."""
    waveforms = telephone(white_noise([1, 2], 16000, CPU) * 0.1)
    error = mu_law(waveforms) - waveforms
    ratio_db = 10 * torch.log10(power(waveforms) / power(error))
    assert ((ratio_db > 35) & (ratio_db < 40)).all()


def test_a_telephone_neither_clips_a_loud_crop_nor_wakes_silence() -> None:
    loud = torch.cat([tone(1000.0), tone(1000.0) * 8])
    heard = telephone(loud)
    torch.testing.assert_close(heard[1, 200:-200] / 8, tone(1000.0)[0, 200:-200], atol=0.02, rtol=0)
    assert not telephone(torch.zeros(1, 500)).any()
    assert telephone(white_noise([1], 501, CPU)).shape == (1, 501)
