"""What is reported of the scores of one prefix: error rates, thresholds, score statistics and calibration.

Thresholds are scores of the list, so each is exact on it: trials that score the threshold or more are accepted. Where
nothing on the list is to be accepted, the threshold is the next number above its highest score.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.config import EvaluationConfig
from mrl.evaluation.calibration import cllr, fit_calibration, log_likelihood_ratios, min_cllr
from mrl.evaluation.metrics import (
    OperatingPoints,
    detection_costs,
    equal_error_rate_of_sorted,
    points_of,
    ranked,
)
from mrl.evaluation.results import Interval, PrefixReport, ScoreStatistics, Threshold

EER_KEY = "eer"


def cost_key(p_target: float) -> str:
    """The name of the threshold at minDCF among a report's thresholds."""
    return f"min_dcf_{p_target:g}"


def rate_key(false_accept_rate: float) -> str:
    """The name of the threshold at a false-accept rate among a report's thresholds."""
    return f"far_{false_accept_rate:g}"


def report_prefix(
    scores: ArrayLike,
    labels: ArrayLike,
    dim: int,
    config: EvaluationConfig,
    interval: Interval | None = None,
) -> PrefixReport:
    """All that is reported of ``scores`` [N] with ``labels`` [N] (true: target); they are sorted once.

    Args:
        scores: cosines, or normalised scores; higher speaks for the same speaker.
        labels: one for each score.
        dim: the prefix that they are from.
        config: target priors, costs and false-accept rates.
        interval: of the EER, from a bootstrap.

    Raises ValueError for lengths that differ, a score that is not finite, or a class without trials.
    """
    trials = ranked(scores, labels)
    accepted = trials.accepted()
    points = points_of(accepted)
    targets, nontargets = trials.ascending()
    eer = equal_error_rate_of_sorted(targets, nontargets)
    thresholds = {EER_KEY: _threshold_at(points, int(np.flatnonzero(points.thresholds == eer.threshold)[0]))}
    min_dcf = {}
    for p_target in config.p_targets:
        costs = detection_costs(points, p_target, config.cost_miss, config.cost_false_accept)
        place = int(costs.argmin())
        min_dcf[p_target] = float(costs[place])
        thresholds[cost_key(p_target)] = _threshold_at(points, place)
    for rate in config.false_accept_rates:
        thresholds[rate_key(rate)] = threshold_at_rate(points, rate)
    calibration = fit_calibration(targets, nontargets)
    return PrefixReport(
        dim=dim,
        eer=eer.rate,
        interval=interval,
        min_dcf=min_dcf,
        thresholds=thresholds,
        statistics=score_statistics(targets, nontargets),
        calibration=calibration,
        cllr=cllr(
            log_likelihood_ratios(targets, calibration), log_likelihood_ratios(nontargets, calibration)
        ),
        min_cllr=min_cllr(accepted),
    )


def threshold_at_rate(points: OperatingPoints, false_accept_rate: float) -> Threshold:
    """The lowest threshold that accepts no more than a share ``false_accept_rate`` of the non-target trials.

    Where the list cannot resolve the rate (see `unresolved_rates`), it lies above all non-targets.
    """
    # Both sides are quotients rounded once, so 1 of 100 trials is a rate of 0.01 exactly.
    return _threshold_at(points, int(points.false_accepts.searchsorted(false_accept_rate, side="right")) - 1)


def unresolved_rates(false_accept_rates: Iterable[float], num_nontargets: int) -> tuple[float, ...]:
    """Those of ``false_accept_rates`` that are less than one trial of ``num_nontargets``.

    A threshold at such a rate is above all non-targets of the list, whatever the rate, and tells nothing about it.
    """
    return tuple(rate for rate in false_accept_rates if rate < 1 / num_nontargets)


def score_statistics(targets: NDArray[np.float64], nontargets: NDArray[np.float64]) -> ScoreStatistics:
    """Mean and deviation of each class, the deviation that of the trials themselves (divided by N, not N - 1)."""
    return ScoreStatistics(
        float(targets.mean()), float(targets.std()), float(nontargets.mean()), float(nontargets.std())
    )


def _threshold_at(points: OperatingPoints, place: int) -> Threshold:
    value = points.thresholds[place] if place else np.nextafter(points.thresholds[1], np.inf)
    return Threshold(float(value), float(points.false_accepts[place]), float(points.misses[place]))
