from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.noise import at_snr, babble, choose_talkers, coloured_noise, gain_to, power, white_noise

CPU = torch.device("cpu")
SEEDS = [3, 5, 8]


def test_power_is_the_mean_square() -> None:
    assert power(torch.tensor([[1.0, -1.0, 3.0, 1.0], [0.0, 0.0, 0.0, 2.0]])).tolist() == [[3.0], [1.0]]


@given(snr_db=st.floats(-30.0, 60.0), speech_level=st.floats(1e-3, 10.0), noise_level=st.floats(1e-4, 10.0))
@settings(max_examples=30, deadline=None)
def test_at_snr_means_what_it_says(snr_db: float, speech_level: float, noise_level: float) -> None:
    speech, noise = white_noise([1, 2], 4000, CPU).split(1)
    speech, noise = speech * speech_level, noise * noise_level
    added = at_snr(noise, speech, torch.tensor([snr_db]))
    measured = 10.0 * np.log10(float(speech.double().square().mean() / added.double().square().mean()))
    assert measured == pytest.approx(snr_db, abs=1e-3)


@pytest.mark.parametrize(("speech_level", "noise_level"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1e-9)])
def test_at_snr_adds_nothing_where_either_is_silent(speech_level: float, noise_level: float) -> None:
    speech, noise = white_noise([1, 2], 100, CPU).split(1)
    added = at_snr(noise * noise_level, speech * speech_level, torch.tensor([0.0]))
    assert not added.any()


def test_gain_to_is_the_ratio_of_levels() -> None:
    assert gain_to(9.0, torch.tensor([[2.0, -2.0], [0.0, 0.0]])).tolist() == [[1.5], [0.0]]


def test_white_noise_is_a_function_of_its_seed_alone() -> None:
    together = white_noise(SEEDS, 1000, CPU)
    for seed, row in zip(SEEDS, together, strict=True):
        assert torch.equal(white_noise([seed], 1000, CPU)[0], row)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_the_slope_asked_for_and_no_rumble(exponent: float) -> None:
    white = white_noise(SEEDS, 48000, CPU)
    noise = coloured_noise(white, torch.full((3,), exponent), sample_rate=16000)
    assert noise.shape == white.shape
    spectrum = torch.fft.rfft(noise.double()).abs().square().mean(dim=0).numpy()
    frequencies = np.fft.rfftfreq(48000, 1 / 16000)
    band = (frequencies >= 40) & (frequencies <= 7000)
    slope = np.polyfit(np.log(frequencies[band]), np.log(spectrum[band]), 1, w=frequencies[band] ** -0.5)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)
    assert spectrum[frequencies < 20].max() < 1e-6 * spectrum[band].max()


def test_each_row_of_coloured_noise_has_its_own_exponent() -> None:
    white = white_noise(SEEDS, 4800, CPU)
    exponents = torch.tensor([0.0, 1.3, 2.0])
    together = coloured_noise(white, exponents, sample_rate=16000)
    for row in range(3):
        alone = coloured_noise(white[[row]], exponents[[row]], sample_rate=16000)[0]
        torch.testing.assert_close(together[row], alone)


def naive_talkers(priorities: list[float], row: int, count: int, speakers: list[int]) -> set[int]:
    others = [item for item in range(len(speakers)) if item != row]
    strangers = [item for item in others if speakers[item] != speakers[row]]
    return set(sorted(strangers or others, key=lambda item: priorities[item])[:count])


@given(
    speakers=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    count=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_choose_talkers_equals_a_loop(speakers: list[int], count: int, seed: int) -> None:
    size = len(speakers)
    priorities = np.random.default_rng(seed).random((size, size))
    chosen = choose_talkers(priorities, np.arange(size), np.full(size, count), np.array(speakers))
    for row in range(size):
        talkers = set(np.flatnonzero(chosen[row]).tolist())
        assert talkers == naive_talkers(priorities[row].tolist(), row, count, speakers)


def test_choose_talkers_serves_some_rows_of_a_batch() -> None:
    priorities = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    chosen = choose_talkers(priorities, np.array([1, 3]), np.array([1, 2]), np.array([7, 7, 8, 9]))
    assert chosen.tolist() == [[0, 0, 1, 0], [0, 1, 1, 0]]  # item 0 shares the speaker of item 1


def test_babble_is_the_sum_of_equally_loud_talkers() -> None:
    batch = torch.tensor([[2.0, -2.0], [0.5, 0.5], [0.0, 0.0], [3.0, 3.0]])
    chosen = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert babble(batch, chosen).tolist() == [[2.0, 0.0], [0.0, 0.0]]
