"""What lies between the microphone and the file: a telephone, an overdriven input, another level.

N items, B batch, T samples at 16 kHz.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from scipy.signal import firwin
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.data.effects import Effect, Items, Signal, between
from mrl.data.rooms import convolve

_TAPS = 255  # the filter's edges are then 210 Hz wide
_CUTOFFS_HZ = (195.0, 3505.0)  # half the edge outside 300 to 3400 Hz, which pass unchanged
_FULL_SCALE, _LARGEST, _BIAS = 8192.0, 8158.0, 33.0  # of mu-law, in its units of 14 bits


class TelephonePlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch


class ClippingPlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    levels: Tensor  # [N] shares of the peak


class GainPlan(NamedTuple):
    factors: Tensor  # [B]


class Telephone(Effect[TelephonePlan]):
    """Speech as a telephone passes it on."""

    def plan(self, items: Items) -> TelephonePlan | None:
        draws = items.draws("telephone", ("whether",))
        rows = items.chosen(draws["whether"], self._config.telephone_probability)
        return TelephonePlan(torch.from_numpy(rows)) if len(rows) else None

    def apply(self, signal: Signal, plan: TelephonePlan) -> Signal:
        heard = telephone(signal.mixed[plan.rows])
        return signal._replace(mixed=signal.mixed.index_copy(0, plan.rows, heard))


class Clipping(Effect[ClippingPlan]):
    """Samples beyond a share of the crop's peak are cut off."""

    def plan(self, items: Items) -> ClippingPlan | None:
        draws = items.draws("clipping", ("whether", "level"))
        rows = items.chosen(draws["whether"], self._config.clipping_probability)
        if not len(rows):
            return None
        return ClippingPlan(
            torch.from_numpy(rows), between(self._config.clipping_level, draws["level"][rows])
        )

    def apply(self, signal: Signal, plan: ClippingPlan) -> Signal:
        clipped = clip(signal.mixed[plan.rows], plan.levels)
        return signal._replace(mixed=signal.mixed.index_copy(0, plan.rows, clipped))


class Gain(Effect[GainPlan]):
    """Another level; nothing is clipped by it."""

    def plan(self, items: Items) -> GainPlan | None:
        draws = items.shared_draws
        rows = items.chosen(draws["gain"], self._config.gain_probability)
        if not len(rows):
            return None
        changed = torch.zeros(len(items), dtype=torch.bool)
        changed[rows] = True
        factors = 10.0 ** (between(self._config.gain_db, draws["gain_db"]) / 20.0)
        return GainPlan(torch.where(changed, factors, 1.0))

    def apply(self, signal: Signal, plan: GainPlan) -> Signal:
        return signal._replace(mixed=signal.mixed * plan.factors[:, None])


def telephone(waveforms: Tensor) -> Tensor:
    """``[N, T]`` through a telephone: 300 to 3400 Hz, 8 kHz, 8 bits of mu-law (ITU-T G.711), 16 kHz again.

    The result is aligned with its input. A crop that leaves [-1, 1] is coded at its peak, without clipping.
    """
    band_pass = _band_pass(waveforms.device)
    narrow = convolve(waveforms, band_pass, delay=_TAPS // 2)
    coded = narrow[:, ::2]  # the filter ends below 4 kHz: nothing folds back
    peak = coded.abs().amax(dim=1, keepdim=True).clamp_min(1.0)
    decoded = torch.zeros_like(narrow)
    decoded[:, ::2] = 2.0 * mu_law(coded / peak) * peak
    return convolve(decoded, band_pass, delay=_TAPS // 2)


def mu_law(waveforms: Tensor) -> Tensor:
    """Coded by ITU-T G.711 mu-law and decoded again: eight segments, each of steps twice as wide as the last.

    ``waveforms`` of any shape, in [-1, 1]; 0 stays 0.
    """
    biased = (waveforms.abs() * _FULL_SCALE).clamp_max(_LARGEST) + _BIAS  # 33 to 8191
    fraction, _ = torch.frexp(biased)
    step = biased / fraction / 32.0  # biased is fraction times a power of two, so this is exact
    decoded = ((biased / step).floor() + 0.5) * step - _BIAS
    return decoded.copysign(waveforms) / _FULL_SCALE


def clip(waveforms: Tensor, levels: Tensor) -> Tensor:
    """``[N, T]`` limited to ``levels`` ``[N]`` of the largest magnitude of each row."""
    limit = levels[:, None] * waveforms.abs().amax(dim=1, keepdim=True)
    return waveforms.clamp(-limit, limit)


@lru_cache(maxsize=8)
def _band_pass(device: torch.device) -> Tensor:
    """The filter ``[1, taps]``, with linear phase; held, because a copy to a GPU would wait for it at each batch."""
    taps = firwin(_TAPS, _CUTOFFS_HZ, pass_zero=False, fs=SAMPLE_RATE)
    return torch.from_numpy(taps).float()[None].to(device)
