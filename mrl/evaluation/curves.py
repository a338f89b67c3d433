"""From the scores of a list to what its plots need: a thinned DET curve and a histogram of each class.

Shapes: N trials, P points of the curve, B bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from mrl.evaluation.metrics import OperatingPoints, operating_points
from mrl.evaluation.results import ScoreCurves

MAX_POINTS = 200
NUM_BINS = 60


def score_curves(list_name: str, dim: int, scores: ArrayLike, labels: ArrayLike) -> ScoreCurves:
    """The DET curve (at most :data:`MAX_POINTS` of its points) and the histograms of ``scores`` [N] at prefix ``dim``.

    ``labels`` [N] are true for targets. Both classes share the bins, which span all scores. Raises ValueError as
    `operating_points` does.
    """
    values, targets = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    points = operating_points(values, targets)
    kept = _spread(points, int(targets.sum()), int((~targets).sum()))
    edges = np.histogram_bin_edges(values, bins=NUM_BINS)
    of_targets, of_nontargets = (np.histogram(values[kind], bins=edges)[0] for kind in (targets, ~targets))
    return ScoreCurves(
        list_name,
        dim,
        tuple(points.false_accepts[kept].tolist()),
        tuple(points.misses[kept].tolist()),
        tuple(edges.tolist()),
        tuple(of_targets.tolist()),
        tuple(of_nontargets.tolist()),
    )


def _spread(points: OperatingPoints, num_targets: int, num_nontargets: int) -> NDArray[np.int64]:
    """Places of points that lie about as far apart as each other along the curve, on probit axes; both ends too.

    Axes are those of Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
    A rate of 0 or 1, infinitely far out, stands half a trial from the end.
    """
    across = _probit(points.false_accepts, num_nontargets)
    up = _probit(points.misses, num_targets)
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(across), np.diff(up)))])
    if len(lengths) <= MAX_POINTS:
        return np.arange(len(lengths))
    places = np.searchsorted(lengths, np.linspace(0.0, lengths[-1], MAX_POINTS))
    places[-1] = len(lengths) - 1
    return np.unique(places)


def _probit(rates: NDArray[np.float64], num_trials: int) -> NDArray[np.float64]:
    edge = 0.5 / num_trials
    return np.asarray(ndtri(np.clip(rates, edge, 1.0 - edge)))
