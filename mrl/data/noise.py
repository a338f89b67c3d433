"""What is added to speech: coloured noise, babble, and the level at which either is added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mrl.randomness import torch_generator

LOWEST_HZ = 20.0
"""Synthetic noise has nothing below: inaudible rumble would otherwise hold most of a brown noise's power."""

SILENT_POWER = 1e-12
"""-120 dB re full scale, below anything 16-bit audio can hold: what is weaker is never amplified."""


def power(waveforms: Tensor) -> Tensor:
    """Mean square of each row: ``[N, T]`` to ``[N, 1]``."""
    return waveforms.square().mean(dim=1, keepdim=True)


def gain_to(target_power: Tensor | float, waveforms: Tensor) -> Tensor:
    """The factor ``[N, 1]`` that brings each row of ``[N, T]`` to ``target_power``; 0 for a silent row."""
    present = power(waveforms)
    gain = (target_power / present.clamp_min(SILENT_POWER)).sqrt()
    return torch.where(present > SILENT_POWER, gain, torch.zeros_like(gain))


def at_snr(noise: Tensor, speech: Tensor, snr_db: Tensor) -> Tensor:
    """``noise`` ``[N, T]`` scaled so that 10 log10(power of speech / power of noise) is ``snr_db`` ``[N]``.

    Powers are means over all T samples. Silent noise stays silent, and nothing is added to silent speech.
    """
    return noise * gain_to(power(speech) * 10.0 ** (-snr_db[:, None] / 10.0), noise)


def white_noise(seeds: Sequence[int], num_samples: int, device: torch.device) -> Tensor:
    """Gaussian noise ``[N, num_samples]`` on ``device``, each row a function of its seed alone.

    Made on the device, a generator per row, so that no noise crosses to the GPU and a row does not depend on
    its neighbours. A CPU and a GPU draw different numbers from one seed.
    """
    noise = torch.empty(len(seeds), num_samples, device=device)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch_generator(seed, device=device))
    return noise


def coloured_noise(white: Tensor, exponents: Tensor, *, sample_rate: int) -> Tensor:
    """White noise ``[N, T]`` shaped to a power spectrum of 1 / f^exponent, with nothing below 20 Hz.

    ``exponents`` ``[N]``: 0 is white, 1 pink, 2 brown. The level of the result means nothing; see `at_snr`.
    """
    num_samples = white.shape[1]
    frequencies = torch.fft.rfftfreq(num_samples, 1.0 / sample_rate, device=white.device)
    relative = (frequencies / LOWEST_HZ).clamp_min(1.0)
    shape = torch.where(frequencies >= LOWEST_HZ, relative ** (-exponents[:, None] / 2.0), 0.0)
    return torch.fft.irfft(torch.fft.rfft(white) * shape, n=num_samples)


def choose_talkers(
    priorities: np.ndarray, rows: np.ndarray, counts: np.ndarray, speakers: np.ndarray
) -> np.ndarray:
    """Which items of a batch of B talk over each of N of its items.

    Never the item itself; of its own speaker only where the batch has no other speaker. Fewer than asked,
    down to none in a batch of one, where the batch does not hold so many.

    Args:
        priorities: ``[N, B]`` in [0, 1); the lowest are chosen.
        rows: ``[N]`` positions of the N items in the batch.
        counts: ``[N]`` talkers asked for.
        speakers: ``[B]``.

    Returns:
        float32 ``[N, B]``, 1 for the chosen.
    """
    same_speaker = speakers[rows, None] == speakers[None, :]
    itself = np.arange(len(speakers))[None, :] == rows[:, None]
    allowed = np.where(same_speaker.all(axis=1, keepdims=True), ~itself, ~same_speaker)
    ranks = np.where(allowed, priorities, np.inf).argsort(axis=1).argsort(axis=1)
    return (allowed & (ranks < counts[:, None])).astype(np.float32)


def babble(waveforms: Tensor, chosen: Tensor) -> Tensor:
    """The sum of the chosen talkers, all equally loud: ``[B, T]`` and ``[N, B]`` (0 or 1) to ``[N, T]``."""
    return (chosen * gain_to(1.0, waveforms).T) @ waveforms
