"""What is added to speech: noise, music, and others talking, each at a ratio to the speech in its room.

Noise and babble as in Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition" (2018).
N items, B batch, T samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.data.clips import ClipBank
from mrl.data.effects import Effect, Items, Setup, Signal, between
from mrl.data.noise import at_snr, babble, choose_talkers, coloured_noise, white_noise

NOISE_EXPONENTS = (0.0, 2.0)
"""Spectral slopes of synthetic noise: from white to brown."""


class NoisePlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    snr_db: Tensor  # [N]
    recorded: Tensor | None  # [N, T] clips; without them, coloured noise from what follows
    exponents: Tensor  # [N]
    seeds: list[int]


class MusicPlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    snr_db: Tensor  # [N]
    recorded: Tensor  # [N, T]


class BabblePlan(NamedTuple):
    rows: Tensor  # [N] positions in the batch
    snr_db: Tensor  # [N]
    recorded: Tensor | None  # [N, T] sums of clips; without them, items of the batch
    chosen: Tensor | None  # [N, B] 1 for each talker


class Noise(Effect[NoisePlan]):
    """Noise clips, or coloured noise between white and brown where there are none."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._bank = setup.banks.noise

    def plan(self, items: Items) -> NoisePlan | None:
        draws = items.shared_draws
        rows = items.chosen(draws["noise"], self._config.noise_probability)
        if not len(rows):
            return None
        choices, positions = draws["noise_choice"][rows], draws["noise_position"][rows]
        return NoisePlan(
            rows=torch.from_numpy(rows),
            snr_db=between(self._config.noise_snr_db, draws["noise_snr"][rows]),
            recorded=None
            if self._bank is None
            else _crops(self._bank, choices, positions, items.num_samples),
            exponents=between(NOISE_EXPONENTS, draws["noise_colour"][rows]),
            seeds=items.seeds(rows, "noise"),
        )

    def apply(self, signal: Signal, plan: NoisePlan) -> Signal:
        noise = plan.recorded
        if noise is None:
            white = white_noise(plan.seeds, signal.dry.shape[1], signal.dry.device)
            noise = coloured_noise(white, plan.exponents, sample_rate=SAMPLE_RATE)
        return _add(noise, signal, plan)


class Music(Effect[MusicPlan]):
    """Clips of music."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        assert setup.banks.music is not None  # held by the configuration
        self._bank = setup.banks.music

    def plan(self, items: Items) -> MusicPlan | None:
        draws = items.draws("music", ("whether", "choice", "position", "snr"))
        rows = items.chosen(draws["whether"], self._config.music_probability)
        if not len(rows):
            return None
        return MusicPlan(
            rows=torch.from_numpy(rows),
            snr_db=between(self._config.music_snr_db, draws["snr"][rows]),
            recorded=_crops(self._bank, draws["choice"][rows], draws["position"][rows], items.num_samples),
        )

    def apply(self, signal: Signal, plan: MusicPlan) -> Signal:
        return _add(plan.recorded, signal, plan)


class Babble(Effect[BabblePlan]):
    """Several talkers, equally loud: speech clips, or other items of the batch where there are none."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._bank = setup.banks.babble

    def plan(self, items: Items) -> BabblePlan | None:
        draws = items.shared_draws
        rows = items.chosen(draws["babble"], self._config.babble_probability)
        if not len(rows):
            return None
        fewest, most = self._config.babble_speakers
        counts = fewest + (draws["babble_talkers"][rows] * (most - fewest + 1)).astype(int)
        recorded, chosen = None, None
        if self._bank is None:
            chosen = torch.from_numpy(choose_talkers(items.rankings[rows], rows, counts, items.speakers))
        else:
            talkers = zip(rows.tolist(), counts.tolist(), strict=True)
            recorded = torch.cat([_talkers(self._bank, items, row, count) for row, count in talkers])
        snr_db = between(self._config.babble_snr_db, draws["babble_snr"][rows])
        return BabblePlan(torch.from_numpy(rows), snr_db, recorded, chosen)

    def apply(self, signal: Signal, plan: BabblePlan) -> Signal:
        talkers = plan.recorded
        if talkers is None:
            assert plan.chosen is not None
            talkers = babble(signal.dry, plan.chosen)
        return _add(talkers, signal, plan)


def _crops(bank: ClipBank, choices: np.ndarray, positions: np.ndarray, num_samples: int) -> Tensor:
    """A crop ``[N, T]`` of the clip that each of ``choices`` ``[N]`` in [0, 1) falls on."""
    indices = (choices * len(bank)).astype(int)
    pairs = zip(indices.tolist(), positions.tolist(), strict=True)
    return torch.from_numpy(np.stack([bank.crop(index, num_samples, start) for index, start in pairs]))


def _talkers(bank: ClipBank, items: Items, row: int, count: int) -> Tensor:
    """The sum ``[1, T]`` of ``count`` clips, no clip twice; of all of them where there are no more."""
    generator = items.generator(row, "babble clips")
    count = min(count, len(bank))
    indices = generator.choice(len(bank), size=count, replace=False)
    pairs = zip(indices.tolist(), generator.random(count).tolist(), strict=True)
    clips = np.stack([bank.crop(index, items.num_samples, start) for index, start in pairs])
    return babble(torch.from_numpy(clips), torch.ones(1, count))


def _add(added: Tensor, signal: Signal, plan: NoisePlan | MusicPlan | BabblePlan) -> Signal:
    scaled = at_snr(added, signal.speech[plan.rows], plan.snr_db)
    mixed = signal.mixed  # index_add is six times slower than index_copy on CPUs
    return signal._replace(mixed=mixed.index_copy(0, plan.rows, mixed[plan.rows] + scaled))
