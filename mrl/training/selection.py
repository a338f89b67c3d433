"""Which epoch is the best: never one that does harm at full size, as far as there is a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl.config import CheckpointConfig
from mrl.evaluation.verification import VerificationResult

_ROUNDING = 1e-9


class Rank(NamedTuple):
    """Smaller is better; compared in this order."""

    excess: float  # full-size EER beyond the pretrained model's plus the tolerance; 0 if there is none
    criterion: float  # what checkpoints.select_by names


def mean_eer(results: Sequence[VerificationResult]) -> float:
    """EER over prefixes and trial lists, each counting the same."""
    return float(np.mean([result.mean_eer for result in results]))


def eer_at(results: Sequence[VerificationResult], dim: int) -> float:
    """EER at one prefix, mean over the trial lists."""
    return float(np.mean([result.at(dim).eer for result in results]))


def full_size_eer(results: Sequence[VerificationResult]) -> float:
    """EER at the widest prefix, mean over the trial lists."""
    return eer_at(results, results[0].full_size.dim)


def rank(results: Sequence[VerificationResult], config: CheckpointConfig, reference: float) -> Rank:
    """Rank of an epoch with ``results``; ``reference`` is the pretrained model's full-size EER (a share)."""
    allowed = reference + config.full_size_tolerance / 100.0
    excess = full_size_eer(results) - allowed
    if config.select_by == "mean_eer":
        criterion = mean_eer(results)
    else:
        criterion = eer_at(results, int(config.select_by.removeprefix("eer_")))
    return Rank(excess if excess > _ROUNDING else 0.0, criterion)
