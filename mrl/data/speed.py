"""Speech played faster or slower: pitch and formants move with it, so that it is another voice.

Ko et al., "Audio augmentation for speech recognition" (2015); as speakers of their own: Yamamoto et al.,
"Speaker augmentation and bandwidth extension for deep speaker embedding" (2019).
B batch, T samples of a crop, N items of one speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from mrl.data.effects import Effect, Items, Signal

_LARGEST_DENOMINATOR = 1000
"""A factor is taken as the nearest fraction: exact for thousandths. The smaller it is (11/10), the faster."""


class SpeedPlan(NamedTuple):
    num_samples: int  # T, less than what was read
    rows: tuple[Tensor, ...]  # for each factor, [N] positions in the batch
    blocks: Tensor | None  # int64 [B]: 0 for the true speed, 1 + the factor's place; None: no new speakers


class Speed(Effect[SpeedPlan]):
    """The planned items at another speed, cut to T samples; the first T samples of the others."""

    def plan(self, items: Items) -> SpeedPlan:
        draws = items.draws("speed", ("whether", "choice"))
        blocks = np.zeros(len(items), dtype=np.int64)
        rows = items.chosen(draws["whether"], self._config.speed_probability)
        count = len(self._config.speed_factors)
        blocks[rows] = 1 + (draws["choice"][rows] * count).astype(np.int64)
        places = range(1, 1 + count)
        return SpeedPlan(
            num_samples=items.num_samples,
            rows=tuple(torch.from_numpy(np.flatnonzero(blocks == place)) for place in places),
            blocks=torch.from_numpy(blocks) if self._config.speed_classes else None,
        )

    def apply(self, signal: Signal, plan: SpeedPlan) -> Signal:
        cut = signal.dry[:, : plan.num_samples]
        for rows, factor in zip(plan.rows, self._config.speed_factors, strict=True):
            if len(rows):
                cut = cut.index_copy(0, rows, at_speed(signal.dry[rows], factor, plan.num_samples))
        return Signal.of(cut)


def source_samples(num_samples: int, factors: Sequence[float]) -> int:
    """How many samples must be read for ``num_samples`` at the true speed or any of ``factors``."""
    return math.ceil(num_samples * _longest(factors))


def crop_samples(num_read: int, factors: Sequence[float]) -> int:
    """The ``num_samples`` for which ``num_read`` are read: the inverse of `source_samples`."""
    return math.floor(num_read / _longest(factors))


def at_speed(waveforms: Tensor, factor: float, num_samples: int) -> Tensor:
    """The start of ``[N, T]`` played ``factor`` times as fast: ``[N, num_samples]``.

    T must be `source_samples` of ``num_samples`` at that factor, or more.
    """
    ratio = _ratio(factor)
    read = waveforms[:, : math.ceil(num_samples * ratio)]
    # TF32, the default for convolutions on recent GPUs, would leave ten bits of each product.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        resampled: Tensor = _resampler(ratio, waveforms.device)(read)
    return resampled[:, :num_samples]


def _ratio(factor: float) -> Fraction:
    """``factor`` as a fraction of small numbers: 1.1 is 11/10."""
    return Fraction(factor).limit_denominator(_LARGEST_DENOMINATOR)


def _longest(factors: Sequence[float]) -> Fraction:
    """Samples read for each sample of a crop: as many as the highest speed uses, at least 1."""
    return max([Fraction(1), *map(_ratio, factors)])


@lru_cache(maxsize=32)
def _resampler(ratio: Fraction, device: torch.device) -> Resample:
    """Held, because making its filter on a GPU would wait for it at each batch."""
    return Resample(ratio.numerator, ratio.denominator).to(device)
