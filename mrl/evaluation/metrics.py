"""Detection metrics of verification scores: EER and minDCF, exact, with ties handled.

A trial is accepted when its score is at least the threshold. Both metrics read the same operating points:
one for each distinct score, and one that rejects everything.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class OperatingPoints(NamedTuple):
    """Error rates at each threshold, thresholds descending; the first, +inf, rejects every trial."""

    thresholds: NDArray[np.float64]
    false_accepts: NDArray[np.float64]  # share of non-target trials accepted, rising from 0 to 1
    misses: NDArray[np.float64]  # share of target trials rejected, falling from 1 to 0


class EqualErrorRate(NamedTuple):
    """``rate`` as a share in [0, 1]; ``threshold`` is the score at which the two error rates lie closest."""

    rate: float
    threshold: float


def operating_points(scores: ArrayLike, labels: ArrayLike) -> OperatingPoints:
    """Operating points of ``scores`` [N] with ``labels`` [N] (true: target).

    Raises ValueError for lengths that differ, a score that is not finite, or a class without trials.
    """
    values = np.asarray(scores, dtype=np.float64)
    targets = np.asarray(labels, dtype=bool)
    if values.shape != targets.shape or values.ndim != 1:
        raise ValueError(
            f"scores {values.shape} and labels {targets.shape} must be two vectors of one length"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} scores are not finite")
    num_targets = int(targets.sum())
    num_nontargets = len(targets) - num_targets
    if num_targets == 0 or num_nontargets == 0:
        missing = "target" if num_targets == 0 else "non-target"
        raise ValueError(f"there is no {missing} trial, so error rates are not defined")
    order = np.argsort(-values, kind="stable")
    values, targets = values[order], targets[order]
    accepted_targets = np.cumsum(targets)
    accepted_nontargets = np.cumsum(~targets)
    last_of_tie = np.append(np.diff(values) != 0, True)  # equal scores are accepted together
    return OperatingPoints(
        np.concatenate([[np.inf], values[last_of_tie]]),
        np.concatenate([[0.0], accepted_nontargets[last_of_tie] / num_nontargets]),
        np.concatenate([[1.0], 1.0 - accepted_targets[last_of_tie] / num_targets]),
    )


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> EqualErrorRate:
    """The rate at which false accepts and misses are equal, on straight lines between operating points."""
    points = operating_points(scores, labels)
    gap = points.false_accepts - points.misses  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = after - 1
    share = -gap[before] / (gap[after] - gap[before])
    rate = points.misses[before] + share * (points.misses[after] - points.misses[before])
    nearest = after if before == 0 or abs(gap[after]) <= abs(gap[before]) else before
    return EqualErrorRate(float(rate), float(points.thresholds[nearest]))


def min_dcf(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float,
    cost_miss: float = 1.0,
    cost_false_accept: float = 1.0,
) -> float:
    """Least detection cost over all thresholds, divided by that of the better of "accept all" and "reject all".

    NIST speaker recognition evaluation plan 2016, section 3.
    """
    points = operating_points(scores, labels)
    costs = cost_miss * p_target * points.misses + cost_false_accept * (1.0 - p_target) * points.false_accepts
    return float(costs.min() / min(cost_miss * p_target, cost_false_accept * (1.0 - p_target)))
