"""Two items heard at once, with the classes of both: mixup (Zhang et al., arXiv 1710.09412) of waveforms.

B batch, T samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrl.data.effects import Effect, Items, Signal


class MixupPlan(NamedTuple):
    partners: Tensor  # int64 [B] positions in the batch; the item itself where it is not mixed
    shares: Tensor  # [B] of the item itself; 1 where it is not mixed


class Mixup(Effect[MixupPlan]):
    """``share * item + (1 - share) * partner``, after everything else has been done to both.

    The share and whether there is one depend on the item alone; who its partner is depends on the batch. In a
    batch of one, nothing is mixed.
    """

    def plan(self, items: Items) -> MixupPlan | None:
        size, alpha = len(items), self._config.mixup_alpha
        generators = [items.generator(row, "mixup") for row in range(size)]
        draws = np.stack([generator.random(2) for generator in generators])
        rows = items.chosen(draws[:, 0], self._config.mixup_probability)
        if size == 1 or not len(rows):
            return None
        partners, shares = np.arange(size), np.ones(size, dtype=np.float32)
        steps = 1 + (draws[rows, 1] * (size - 1)).astype(int)  # to another item, never round to itself
        partners[rows] = (rows + steps) % size
        shares[rows] = [generators[row].beta(alpha, alpha) for row in rows]
        return MixupPlan(torch.from_numpy(partners), torch.from_numpy(shares))

    def apply(self, signal: Signal, plan: MixupPlan) -> Signal:
        shares = plan.shares[:, None]
        return signal._replace(mixed=shares * signal.mixed + (1.0 - shares) * signal.mixed[plan.partners])
