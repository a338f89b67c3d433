"""Which epoch is the best: never one that does harm at full size or to a guarded domain, where there is a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrl.config import CheckpointConfig, ValidationConfig
from mrl.evaluation.verification import VerificationResult

_ROUNDING = 1e-9


class Rank(NamedTuple):
    """Smaller is better; compared in this order."""

    excess: float  # EER beyond what is allowed, at full size or on a guard list; 0 if there is none
    criterion: float  # what checkpoints.select_by names


class Gain(NamedTuple):
    """What a trial list has gained since epoch 0."""

    name: str
    is_guard: bool
    points: dict[int, float]  # by prefix: EER percentage points below epoch 0's; negative where it rose


def choosing(results: Sequence[VerificationResult], config: ValidationConfig) -> list[VerificationResult]:
    """The results of the lists that choose best.pt: all but the guards."""
    guards = {entry.name for entry in config.lists if entry.guard}
    return [result for result in results if result.name not in guards]


def mean_eer(results: Sequence[VerificationResult]) -> float:
    """EER over prefixes and trial lists, each counting the same."""
    return float(np.mean([result.mean_eer for result in results]))


def eer_at(results: Sequence[VerificationResult], dim: int) -> float:
    """EER at one prefix, mean over the trial lists."""
    return float(np.mean([result.at(dim).eer for result in results]))


def full_size_eer(results: Sequence[VerificationResult]) -> float:
    """EER at the widest prefix, mean over the trial lists."""
    return eer_at(results, results[0].full_size.dim)


def guard_excess(
    results: Sequence[VerificationResult], start: Mapping[str, Any], config: ValidationConfig
) -> float:
    """How far the worst guard list lies beyond what is allowed: an EER share, 0 where none does or there is none.

    Allowed is its mean EER over the prefixes at the start and its ``tolerance``.

    Args:
        results: of all lists.
        start: epoch 0's values as :func:`mrl.evaluation.report.result_metrics` names them; others may be there.
        config: says which lists are guards.
    """
    tolerances = {entry.name: entry.tolerance / 100.0 for entry in config.lists if entry.guard}
    excesses = [
        result.mean_eer
        - float(np.mean(list(_eers_at_start(result, start).values())))
        - tolerances[result.name]
        for result in results
        if result.name in tolerances
    ]
    return max((excess for excess in excesses if excess > _ROUNDING), default=0.0)


def rank(
    results: Sequence[VerificationResult], config: CheckpointConfig, reference: float, guarded: float = 0.0
) -> Rank:
    """Rank of an epoch.

    Args:
        results: of the lists that choose, see :func:`choosing`.
        config: criterion and tolerance.
        reference: the pretrained model's full-size EER on these lists (a share).
        guarded: what :func:`guard_excess` says of the epoch.
    """
    allowed = reference + config.full_size_tolerance / 100.0
    excess = full_size_eer(results) - allowed
    if config.select_by == "mean_eer":
        criterion = mean_eer(results)
    else:
        criterion = eer_at(results, int(config.select_by.removeprefix("eer_")))
    return Rank(max(excess if excess > _ROUNDING else 0.0, guarded), criterion)


def gains(
    results: Sequence[VerificationResult], start: Mapping[str, Any], config: ValidationConfig
) -> list[Gain]:
    """What each list has gained since ``start`` (as in :func:`guard_excess`), in the order of ``results``."""
    guards = {entry.name for entry in config.lists if entry.guard}
    return [
        Gain(
            result.name,
            result.name in guards,
            {dim: 100.0 * (eer - result.at(dim).eer) for dim, eer in _eers_at_start(result, start).items()},
        )
        for result in results
    ]


def _eers_at_start(result: VerificationResult, start: Mapping[str, Any]) -> dict[int, float]:
    return {prefix.dim: float(start[f"eer/{result.name}/{prefix.dim}"]) for prefix in result.prefixes}
