"""Front ends: waveform [B, T] -> mean-normalised log-mel bands [B, F, frames]. 16 kHz, 25 ms Hamming windows.

Two exist because the released models were trained on two. `pt` is the usual one (power STFT, HTK mel
triangles); `tf` mirrors a mobile implementation and differs in window, padding, bin positions and floors.

Module and buffer names are those of the released files (`torchfbank.1.flipped_filter`, ...).
B batch, T samples, F mel bands.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mrl.audio import SAMPLE_RATE

FFT_SIZE = 512
WINDOW_SAMPLES = 400
LOWEST_HZ, HIGHEST_HZ = 20.0, 7600.0
PRE_EMPHASIS = 0.97

Array = NDArray[np.float64]


def hz_to_mel(hz: Array | float) -> Array:
    """HTK mel scale: 2595 log10(1 + hz / 700)."""
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0))


def mel_to_hz(mel: Array) -> Array:
    """Inverse of `hz_to_mel`."""
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


def triangles(positions: Array, edges: Array) -> Array:
    """Triangular filters [bins, bands]: band b rises from edges[b] to edges[b + 1], falls to edges[b + 2]."""
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (positions[:, None] - left) / (centre - left)
    falling = (right - positions[:, None]) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def mel_edges(bands: int) -> Array:
    """The bands + 2 corner points of the mel triangles, in mel."""
    return np.linspace(hz_to_mel(LOWEST_HZ), hz_to_mel(HIGHEST_HZ), bands + 2)


class SignalNormalisation(nn.Module):
    """Zero mean and unit population deviation per utterance: the level of a recording stops to matter."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, waveform: Tensor) -> Tensor:
        centred = waveform - waveform.mean(dim=-1, keepdim=True)
        return centred / (waveform.std(dim=-1, keepdim=True, correction=0) + self.eps)


class PreEmphasis(nn.Module):
    """y[t] = x[t] - 0.97 x[t - 1], with one reflected sample in front: y[0] = x[0] - 0.97 x[1]."""

    flipped_filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flipped_filter", torch.tensor([[[-PRE_EMPHASIS, 1.0]]]))

    def forward(self, waveform: Tensor) -> Tensor:
        # Not a conv1d: GPUs run convolutions in TF32 by default, whose 10 bits drown the quiet high bands.
        previous = torch.cat([waveform[:, 1:2], waveform[:, :-1]], dim=1)
        return self.flipped_filter[0, 0, 0] * previous + self.flipped_filter[0, 0, 1] * waveform


class PowerSpectrogram(nn.Module):
    """|STFT|^2 [B, 257, 1 + T // hop]: periodic Hamming window centred in 512 samples, reflected edges."""

    window: Tensor

    def __init__(self, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        self.register_buffer("window", torch.hamming_window(WINDOW_SAMPLES, periodic=True))

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform,
            n_fft=FFT_SIZE,
            hop_length=self.hop_samples,
            win_length=WINDOW_SAMPLES,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        return torch.view_as_real(spectrum).square().sum(dim=-1)


class MelScale(nn.Module):
    """Power [B, 257, frames] -> mel power [B, F, frames]; triangles linear in Hz, all with peak 1."""

    fb: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        bin_hz = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)
        filters = triangles(bin_hz, mel_to_hz(mel_edges(bands)))
        self.register_buffer("fb", torch.from_numpy(filters).float())

    def forward(self, power: Tensor) -> Tensor:
        return torch.matmul(self.fb.T, power)


class MobileMelPower(nn.Module):
    """Mel power of the `tf` front end [B, F, frames], floored to 1e-8 and capped at 1e8.

    The window is the symmetric Hamming one, left-aligned in the 512-point DFT; the Nyquist bin is dropped;
    bin k is placed at k * 8000 / 255 Hz. The files store the windowed DFT as two
    kernels; bin 0 of the real one is the window itself, and an FFT with that window gives the same numbers,
    faster and safe from TF32.
    """

    real_kernel_pt: Tensor
    image_kernel_pt: Tensor
    melbanks_pt: Tensor

    def __init__(self, bands: int, hop_samples: int, eps: float) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        self.eps = eps
        bins = FFT_SIZE // 2
        angle = 2.0 * np.pi / FFT_SIZE * np.outer(np.arange(bins), np.arange(WINDOW_SAMPLES))
        window = np.hamming(WINDOW_SAMPLES)
        bin_mel = hz_to_mel(np.linspace(0.0, SAMPLE_RATE / 2, bins))
        filters = triangles(bin_mel, mel_edges(bands))
        self.register_buffer("real_kernel_pt", torch.from_numpy(np.cos(angle) * window).float().unsqueeze(1))
        self.register_buffer("image_kernel_pt", torch.from_numpy(np.sin(angle) * window).float().unsqueeze(1))
        self.register_buffer("melbanks_pt", torch.from_numpy(filters.T.copy()).float().unsqueeze(-1))

    def forward(self, waveform: Tensor) -> Tensor:
        margin = self.hop_samples // 2
        frames = functional.pad(waveform, (margin, margin)).unfold(-1, WINDOW_SAMPLES, self.hop_samples)
        spectrum = torch.fft.rfft(frames * self.real_kernel_pt[0, 0], n=FFT_SIZE)[..., : FFT_SIZE // 2]
        power = torch.view_as_real(spectrum).square().sum(dim=-1).clamp(self.eps, 1.0 / self.eps)
        mel = torch.matmul(power, self.melbanks_pt[:, :, 0].T).transpose(1, 2)
        return mel.clamp(self.eps, 1.0 / self.eps)


class FrontEnd(nn.Module):
    """Waveform [B, T] -> log-mel [B, F, frames], float32, with each band's mean over time subtracted.

    Args:
        kind: "pt" or "tf".
        bands: F.
        hop_samples: samples from one frame to the next.
        pre_emphasis: apply `PreEmphasis`.
        normalise_signal: apply `SignalNormalisation` first.
    """

    def __init__(
        self,
        kind: str,
        bands: int,
        hop_samples: int,
        *,
        pre_emphasis: bool = True,
        normalise_signal: bool = False,
    ) -> None:
        super().__init__()
        assert kind in ("pt", "tf")
        self.kind = kind
        self.hop_samples = hop_samples
        self.floor = 1e-6 if kind == "pt" else 1e-8
        power: nn.Module
        if kind == "pt":
            steps = OrderedDict(spectrogram=PowerSpectrogram(hop_samples), mel_scale=MelScale(bands))
            power = nn.Sequential(steps)
        else:
            power = MobileMelPower(bands, hop_samples, self.floor)
        self.torchfbank = nn.Sequential(
            SignalNormalisation(self.floor) if normalise_signal else nn.Identity(),
            PreEmphasis() if pre_emphasis else nn.Identity(),
            power,
        )

    def min_samples(self, frames: int) -> int:
        """The shortest waveform that gives this many frames (and that the reflected edges allow)."""
        if self.kind == "pt":
            return max((frames - 1) * self.hop_samples, FFT_SIZE // 2 + 1)
        return (frames - 1) * self.hop_samples + WINDOW_SAMPLES - 2 * (self.hop_samples // 2)

    def forward(self, waveform: Tensor) -> Tensor:
        # Always float32, whatever the autocast: bfloat16 keeps 8 bits, which ruins the log-mel values and
        # the subtraction of their mean; float16 ends at 65504, which the power of speech exceeds.
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            log_mel = torch.log(self.torchfbank(waveform.float()) + self.floor)
            return log_mel - log_mel.mean(dim=-1, keepdim=True)
