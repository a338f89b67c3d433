"""Scores as log-likelihood ratios: how good they are (Cllr), and the affine map that makes them so.

A log-likelihood ratio is natural: log of p(score | same speaker) / p(score | different speakers). Accepting where it
is at least log(cost_false_accept (1 - p_target) / (cost_miss p_target)) is then the decision of least expected cost.

Cllr and its minimum: Bruemmer and du Preez, "Application-independent evaluation of speaker detection", Computer Speech
& Language 20(2-3), 2006. V distinct scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit, xlogy

from mrl.evaluation.metrics import AcceptedTrials
from mrl.evaluation.results import Calibration

_LEAST_SLOPE = 1e-6  # per standard deviation of the scores: where they tell nothing, or the wrong
_CLOSE = 1e-12  # squared Newton decrement, as a share of the loss, from which one more step is the answer
_MOST_STEPS = 200
_DECREASE = 1e-4  # share of the decrease that a step promises, which it must keep

Values = NDArray[np.float64]


def cllr(targets: Values, nontargets: Values) -> float:
    """Cost of the log-likelihood ratios of target and non-target trials, in bits: 0 is perfect, 1 tells nothing.

    The mean of log2(1 + exp(-r)) over the target trials and of log2(1 + exp(r)) over the others, averaged.
    """
    cost = np.logaddexp(0.0, -targets).mean() + np.logaddexp(0.0, nontargets).mean()
    return float(cost / (2.0 * np.log(2.0)))


def min_cllr(accepted: AcceptedTrials) -> float:
    """Least `cllr`, in bits, over all maps of the scores that keep their order (and so their ties).

    The pool-adjacent-violators algorithm finds that map: it cuts the scores into blocks, whose ratio is that of the
    shares of the classes in them.
    """
    targets = np.diff(accepted.targets, prepend=0)[::-1]
    nontargets = np.diff(accepted.nontargets, prepend=0)[::-1]
    trials = targets + nontargets
    blocks = isotonic_regression(targets / trials, weights=trials).blocks[:-1]
    target_shares = np.add.reduceat(targets, blocks) / targets.sum()
    nontarget_shares = np.add.reduceat(nontargets, blocks) / nontargets.sum()
    both = target_shares + nontarget_shares
    # log(1 + exp(-r)) of a block is -log(target share / both), and 0 where there is none to count it.
    cost = xlogy(target_shares, target_shares / both) + xlogy(nontarget_shares, nontarget_shares / both)
    return float(max(0.0, -cost.sum() / (2.0 * np.log(2.0))))


def log_likelihood_ratios(scores: Values, calibration: Calibration) -> Values:
    """Calibrated ``scores`` [N]."""
    return calibration.scale * scores + calibration.offset


def fit_calibration(targets: Values, nontargets: Values) -> Calibration:
    """The scale, above 0, and the offset that make log-likelihood ratios of scores, by logistic regression.

    Both classes weigh the same whatever their numbers, so that what is minimised is Cllr. Scores that one threshold
    separates would ask for an infinite scale; so a class of n trials counts as if a share 1 / (n + 2) of each of them
    belonged to the other (Platt, "Probabilistic outputs for support vector machines", 1999), which many trials do not
    notice and which a few keep modest. Where higher scores do not speak for the same speaker, the scale is next to
    nothing and all ratios are about 0.
    """
    scores = np.concatenate([targets, nontargets])
    signs = np.repeat([1.0, -1.0], [len(targets), len(nontargets)])
    weights = np.repeat([0.5 / len(targets), 0.5 / len(nontargets)], [len(targets), len(nontargets)])
    doubts = np.repeat(
        [1.0 / (len(targets) + 2), 1.0 / (len(nontargets) + 2)], [len(targets), len(nontargets)]
    )
    centre = float(weights @ scores)
    spread = float(np.sqrt(weights @ np.square(scores - centre))) if np.ptp(scores) else 0.0
    if spread == 0.0:
        return Calibration(_LEAST_SLOPE, -_LEAST_SLOPE * centre)
    slope, offset = _logistic_regression((scores - centre) / spread, signs, weights, doubts)
    if slope < _LEAST_SLOPE:
        slope, offset = _LEAST_SLOPE, 0.0
    return Calibration(slope / spread, offset - slope / spread * centre)


def _logistic_regression(
    inputs: Values, signs: Values, weights: Values, doubts: Values
) -> tuple[float, float]:
    """Slope and offset that minimise the weighted cross-entropy of the classes that ``signs`` tell, all [N].

    ``doubts``, above 0, are the shares of each trial that belong to the other class. With them and with two distinct
    inputs the loss is strictly convex and grows in every direction, so Newton's method with backtracking converges
    from anywhere (Boyd and Vandenberghe, Convex Optimization, section 9.5.3; Lin, Lin and Weng, "A note on Platt's
    probabilistic outputs for support vector machines", 2007).
    """
    design = signs * np.stack([inputs, np.ones_like(inputs)])  # so that a logit above 0 is on the right side
    place = np.zeros(2)

    def loss(place: Values) -> float:
        logits = place @ design
        return float(weights @ (np.logaddexp(0.0, -logits) + doubts * logits))

    value = loss(place)
    for _ in range(_MOST_STEPS):
        logits = place @ design
        wrong, right = expit(-logits), expit(logits)
        gradient = design @ (weights * (doubts - wrong))
        curvature = (design * (weights * right * wrong)) @ design.T
        step = -np.linalg.solve(curvature, gradient)
        squared_decrement = -float(gradient @ step)
        if squared_decrement < _CLOSE * value:
            slope, offset = place + step
            return float(slope), float(offset)
        length = 1.0
        while loss(place + length * step) > value - _DECREASE * length * squared_decrement:
            length /= 2.0
        place = place + length * step
        value = loss(place)
    raise AssertionError(f"logistic regression of {len(inputs)} scores did not converge")
