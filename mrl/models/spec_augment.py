"""Masks over bands and frames of the log-mel image (SpecAugment, Park et al., arXiv 1904.08779)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Settings(NamedTuple):
    time_masks: int
    max_time_frames: int
    band_masks: int
    max_bands: int


class SpecAugment(nn.Module):
    """Log-mel [B, F, frames] -> the same, in training mode with masks on some of its items.

    It does nothing until `configure` switches it on, and nothing in eval mode. Its own mode counts, not that of
    the network around it: a frozen backbone in eval mode still takes masked images where ``mask.train()`` was
    called. Masked cells are 0, the mean of each band, which the front end has subtracted.

    Widths are drawn evenly from 0 to the widest, places evenly from all that fit, by torch's default generator
    of the device, for the whole batch at once. It has no parameters, and nothing in the ``state_dict``.
    """

    _probability: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._settings: _Settings | None = None
        # A tensor, so that a compiled network is not compiled again at each epoch in which it rises.
        self.register_buffer("_probability", torch.zeros(()), persistent=False)

    def configure(
        self, probability: float, time_masks: int, max_time_frames: int, band_masks: int, max_bands: int
    ) -> None:
        """Switch it on; with a ``probability`` of 0, off.

        Args:
            probability: share of items that get masks.
            time_masks: masks over frames for each of them; they may overlap.
            max_time_frames: the longest, in frames.
            band_masks: masks over mel bands for each.
            max_bands: the widest, in bands.
        """
        on = _Settings(time_masks, max_time_frames, band_masks, max_bands)
        self._settings = on if probability else None
        self._probability.fill_(probability)

    def off(self) -> None:
        """Switch it off."""
        self._settings = None

    def forward(self, mel: Tensor) -> Tensor:
        settings = self._settings
        if settings is None or not self.training:
            return mel
        size, bands, frames = mel.shape
        over_frames = _masks(size, settings.time_masks, settings.max_time_frames, frames, mel.device)
        over_bands = _masks(size, settings.band_masks, settings.max_bands, bands, mel.device)
        chosen = torch.rand(size, 1, 1, device=mel.device) < self._probability
        return mel.masked_fill(chosen & (over_frames[:, None, :] | over_bands[:, :, None]), 0.0)


def _masks(size: int, count: int, widest: int, length: int, device: torch.device) -> Tensor:
    """Bool [size, length]: the union of ``count`` masks of 0 to ``widest`` places in each row."""
    widths, starts = torch.rand(2, size, count, 1, device=device)
    widths = (widths * (min(widest, length) + 1)).floor()
    starts = (starts * (length - widths + 1)).floor()
    places = torch.arange(length, device=device)
    return ((places >= starts) & (places < starts + widths)).any(dim=1)
