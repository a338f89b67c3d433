"""Detection metrics of verification scores: EER and minDCF, exact, with ties handled.

A trial is accepted when its score is at least the threshold. Both metrics read the same operating points:
one for each distinct score, and one that rejects everything. The EER needs the two around the crossing alone, and
finds them by bisection in the sorted scores of each class.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.errors import MRLError


class ScoreError(MRLError, ValueError):
    """Scores that are NaN or infinite, which no error rate is defined for."""


class OperatingPoints(NamedTuple):
    """Error rates at each threshold, thresholds descending; the first, +inf, rejects every trial."""

    thresholds: NDArray[np.float64]
    false_accepts: NDArray[np.float64]  # share of non-target trials accepted, rising from 0 to 1
    misses: NDArray[np.float64]  # share of target trials rejected, falling from 1 to 0


class EqualErrorRate(NamedTuple):
    """``rate`` as a share in [0, 1]; ``threshold`` is the score at which the two error rates lie closest."""

    rate: float
    threshold: float


class AcceptedTrials(NamedTuple):
    """How many trials of each class score so much or more, at each distinct score, descending."""

    thresholds: NDArray[np.float64]  # [V]
    targets: NDArray[np.int64]  # [V], rising to the number of target trials
    nontargets: NDArray[np.int64]  # [V], rising to the number of non-target trials


class RankedTrials(NamedTuple):
    """Trials by descending score: sorted once, for every metric."""

    scores: NDArray[np.float64]  # [N]
    targets: NDArray[np.bool_]  # [N]

    def ascending(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Target and non-target scores, each ascending."""
        return self.scores[self.targets][::-1], self.scores[~self.targets][::-1]

    def accepted(self) -> AcceptedTrials:
        """Equal scores are accepted together."""
        last_of_tie = np.append(np.diff(self.scores) != 0, True)
        counts = (np.cumsum(those)[last_of_tie] for those in (self.targets, ~self.targets))
        return AcceptedTrials(self.scores[last_of_tie], *counts)


def ranked(scores: ArrayLike, labels: ArrayLike) -> RankedTrials:
    """``scores`` [N] with ``labels`` [N] (true: target), sorted.

    Raises ValueError for lengths that differ or a class without trials, and ScoreError, which is one too, for a score
    that is not finite.
    """
    values, targets = _checked(scores, labels)
    order = np.argsort(-values, kind="stable")
    return RankedTrials(values[order], targets[order])


def operating_points(scores: ArrayLike, labels: ArrayLike) -> OperatingPoints:
    """Operating points of ``scores`` [N] with ``labels`` [N]; arguments and errors are those of `ranked`."""
    return points_of(ranked(scores, labels).accepted())


def points_of(accepted: AcceptedTrials) -> OperatingPoints:
    """Counts as rates, after the point that rejects everything."""
    thresholds, targets, nontargets = accepted
    return OperatingPoints(
        np.concatenate([[np.inf], thresholds]),
        np.concatenate([[0.0], nontargets / nontargets[-1]]),
        np.concatenate([[1.0], (targets[-1] - targets) / targets[-1]]),
    )


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> EqualErrorRate:
    """The rate at which false accepts and misses are equal, on straight lines between operating points.

    Arguments and errors are those of `ranked`.
    """
    values, targets = _checked(scores, labels)
    return equal_error_rate_of_sorted(np.sort(values[targets]), np.sort(values[~targets]))


def equal_error_rate_of_sorted(
    targets: NDArray[np.float64],
    nontargets: NDArray[np.float64],
    target_weights: NDArray[np.int64] | None = None,
    nontarget_weights: NDArray[np.int64] | None = None,
) -> EqualErrorRate:
    """`equal_error_rate` of target and non-target scores that are each sorted, ascending.

    With weights, whole numbers from 0 on, a score counts as if it stood there so many times. Error rates are compared
    as products of integers, so that no rounding decides which threshold is the nearest.
    Raises ValueError for a class without scores (or weight), and ScoreError for scores that are not finite.
    """
    _require_both(len(targets), len(nontargets))
    ends = [targets[0], targets[-1], nontargets[0], nontargets[-1]]
    if not np.isfinite(ends).all():  # sorting puts infinities and NaN at the ends
        raise ScoreError("some scores are not finite")
    targets_below = _weight_below(target_weights)
    nontargets_below = _weight_below(nontarget_weights)
    num_targets, num_nontargets = targets_below(len(targets)), nontargets_below(len(nontargets))
    _require_both(num_targets, num_nontargets)

    def errors(threshold: float) -> tuple[int, int]:
        """Non-targets accepted and targets missed, each times the trials of the other class."""
        accepted = num_nontargets - nontargets_below(nontargets.searchsorted(threshold))
        return accepted * num_targets, targets_below(targets.searchsorted(threshold)) * num_nontargets

    def misses_prevail(threshold: float) -> bool:
        accepted, missed = errors(threshold)
        return accepted < missed

    # Over rising thresholds misses take over once: in each class, the first score at which they have.
    after, before = -np.inf, np.inf
    for scores in (targets, nontargets):
        first = bisect_left(scores, True, key=misses_prevail)
        after = max(after, scores[first - 1] if first else -np.inf)
        before = min(before, scores[first] if first < len(scores) else np.inf)
    return _on_the_line(errors(after), errors(before), after, before, num_targets * num_nontargets)


def _weight_below(weights: NDArray[np.signedinteger] | None) -> Callable[[np.intp | int], int]:
    """How much weight the first so many scores have; without weights, each has 1."""
    if weights is None:
        return int
    sums = np.zeros(len(weights) + 1, dtype=np.int64)
    np.cumsum(weights, out=sums[1:])
    return lambda place: int(sums[place])


def _on_the_line(
    after: tuple[int, int], before: tuple[int, int], threshold: float, higher: float, whole: int
) -> EqualErrorRate:
    """Where false accepts equal misses between the operating points of ``threshold`` and the next ``higher`` one.

    ``after`` and ``before`` are their false accepts and misses in parts of ``whole``.
    """
    gap, gap_before = after[0] - after[1], before[1] - before[0]  # the first at least 0, the second above 0
    rate = (before[1] + gap_before / (gap + gap_before) * (after[1] - before[1])) / whole
    nearest = threshold if gap <= gap_before or higher == np.inf else higher
    return EqualErrorRate(float(rate), float(nearest))


def min_dcf(
    scores: ArrayLike,
    labels: ArrayLike,
    p_target: float,
    cost_miss: float = 1.0,
    cost_false_accept: float = 1.0,
) -> float:
    """`least_cost` of the operating points of ``scores`` [N] with ``labels`` [N]."""
    return least_cost(operating_points(scores, labels), p_target, cost_miss, cost_false_accept)


def least_cost(
    points: OperatingPoints, p_target: float, cost_miss: float = 1.0, cost_false_accept: float = 1.0
) -> float:
    """Least detection cost over all thresholds, divided by that of the better of "accept all" and "reject all".

    NIST speaker recognition evaluation plan 2016, section 3.
    """
    return float(detection_costs(points, p_target, cost_miss, cost_false_accept).min())


def detection_costs(
    points: OperatingPoints, p_target: float, cost_miss: float = 1.0, cost_false_accept: float = 1.0
) -> NDArray[np.float64]:
    """Detection cost at each operating point, divided as in `least_cost`."""
    miss, false_accept = cost_miss * p_target, cost_false_accept * (1.0 - p_target)
    costs = miss * points.misses + false_accept * points.false_accepts
    return np.asarray(costs / min(miss, false_accept))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = np.asarray(scores, dtype=np.float64)
    targets = np.asarray(labels, dtype=bool)
    if values.shape != targets.shape or values.ndim != 1:
        raise ValueError(
            f"scores {values.shape} and labels {targets.shape} must be two vectors of one length"
        )
    if not np.isfinite(values).all():
        raise ScoreError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} scores are not finite")
    _require_both(int(targets.sum()), int((~targets).sum()))
    return values, targets


def _require_both(num_targets: int, num_nontargets: int) -> None:
    if num_targets == 0 or num_nontargets == 0:
        missing = "target" if num_targets == 0 else "non-target"
        raise ValueError(f"there is no {missing} trial, so error rates are not defined")
