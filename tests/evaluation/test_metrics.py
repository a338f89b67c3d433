"""EER and minDCF by hand, with ties and degenerate input, and against scikit-learn's ROC."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from mrl.errors import MRLError
from mrl.evaluation.metrics import (
    detection_costs,
    equal_error_rate,
    equal_error_rate_of_sorted,
    least_cost,
    min_dcf,
    operating_points,
    points_of,
    ranked,
)


def test_one_of_three_wrong_on_each_side():
    # Targets 0.9, 0.8, 0.3; non-targets 0.6, 0.2, 0.1. At threshold 0.6 one target is missed and one non-target
    # accepted: 1/3 and 1/3.
    scores, labels = [0.9, 0.8, 0.3, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0]
    rate, threshold = equal_error_rate(scores, labels)
    assert rate == pytest.approx(1 / 3)
    assert threshold == 0.6


def test_separated_scores_have_no_errors():
    rate, threshold = equal_error_rate([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0])
    assert rate == 0.0
    assert threshold == 2.0
    assert min_dcf([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0], 0.01) == 0.0


def test_all_equal_scores_are_a_coin_toss():
    assert equal_error_rate([0.5] * 4, [1, 0, 1, 0]).rate == pytest.approx(0.5)
    assert min_dcf([0.5] * 4, [1, 0, 1, 0], 0.05) == pytest.approx(1.0)


def test_ties_are_accepted_together():
    # The tie at 0.5 holds one of two targets and one of three non-targets: the ROC goes from (0, 1/2) straight to
    # (1/3, 0), where misses equal false accepts at 1/5.
    rate, _ = equal_error_rate([0.9, 0.5, 0.5, 0.1, 0.0], [1, 1, 0, 0, 0])
    assert rate == pytest.approx(0.2)


def test_min_dcf_by_hand():
    # Operating points (false accepts, misses): (0,1) (0,1/2) (1/2,1/2) (1/2,0) (1,0). At p = 0.05 the costs are
    # 0.05, 0.025, ...: the least is 0.025, normalised by 0.05.
    assert min_dcf([4, 3, 2, 1], [1, 0, 1, 0], 0.05) == pytest.approx(0.5)
    # With a false accept a hundredth as dear: 0.95 * 0.01 * 1/2 = 0.00475, normalised by 0.0095.
    assert min_dcf([4, 3, 2, 1], [1, 0, 1, 0], 0.05, cost_false_accept=0.01) == pytest.approx(0.5)
    assert min_dcf([3, 4, 2, 1], [1, 0, 1, 0], 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(("labels", "missing"), [([1, 1], "non-target"), ([0, 0], "target")])
def test_one_class_only_is_an_error(labels, missing):
    with pytest.raises(ValueError, match=f"no {missing} trial"):
        equal_error_rate([0.1, 0.2], labels)


def test_scores_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        equal_error_rate([0.1, float("nan")], [0, 1])
    with pytest.raises(ValueError, match="one length"):
        equal_error_rate([0.1, 0.2, 0.3], [0, 1])


@pytest.mark.parametrize("decimals", [1, 2, 9])  # few decimals: many ties
def test_parity_with_scikit_learn(decimals):
    rng = np.random.default_rng(decimals)
    for _ in range(20):
        labels = rng.random(300) < 0.3
        scores = np.round(rng.normal(labels * 1.5), decimals)
        false_accepts, hits, thresholds = roc_curve(labels, scores, drop_intermediate=False)
        points = operating_points(scores, labels)
        np.testing.assert_allclose(points.false_accepts, false_accepts)
        np.testing.assert_allclose(points.misses, 1 - hits, atol=1e-12)
        np.testing.assert_array_equal(points.thresholds[1:], thresholds[1:])
        expected = brentq(lambda x: 1 - x - interp1d(false_accepts, hits)(x), 0, 1, xtol=1e-14)  # noqa: B023
        assert equal_error_rate(scores, labels).rate == pytest.approx(expected, abs=1e-9)


trials = st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=2, max_size=60).filter(
    lambda items: len({label for _, label in items}) == 2
)


@settings(max_examples=150, deadline=None)
@given(trials)
def test_monotone_maps_change_nothing_and_mirroring_mirrors(items):
    scores = np.array([score for score, _ in items], dtype=float)
    labels = np.array([label for _, label in items])
    rate = equal_error_rate(scores, labels).rate
    assert 0.0 <= rate <= 1.0
    assert equal_error_rate(np.arctan(scores / 7), labels).rate == pytest.approx(rate)
    assert min_dcf(3 * scores - 5, labels, 0.01) == pytest.approx(min_dcf(scores, labels, 0.01))
    assert equal_error_rate(-scores, ~labels).rate == pytest.approx(rate)


@settings(max_examples=100, deadline=None)
@given(trials)
def test_the_threshold_gives_error_rates_around_the_eer(items):
    scores = np.array([score for score, _ in items], dtype=float)
    labels = np.array([label for _, label in items])
    rate, threshold = equal_error_rate(scores, labels)
    misses = np.mean(scores[labels] < threshold)
    false_accepts = np.mean(scores[~labels] >= threshold)
    assert min(misses, false_accepts) - 1e-12 <= rate <= max(misses, false_accepts) + 1e-12


def eer_in_fractions(scores, labels):
    """The definition, in exact arithmetic: every threshold in turn, then the crossing of the two straight lines."""
    targets, nontargets = (
        [score for score, label in zip(scores, labels, strict=True) if label == of] for of in (1, 0)
    )
    previous, higher = (Fraction(0), Fraction(1)), None
    for threshold in sorted(set(scores), reverse=True):
        accepted = Fraction(sum(score >= threshold for score in nontargets), len(nontargets))
        missed = Fraction(sum(score < threshold for score in targets), len(targets))
        if accepted >= missed:
            gap, before = accepted - missed, previous[1] - previous[0]
            rate = previous[1] + before / (gap + before) * (missed - previous[1])
            return rate, threshold if higher is None or gap <= before else higher
        previous, higher = (accepted, missed), threshold
    raise AssertionError("the lowest threshold accepts everything")


@settings(max_examples=300, deadline=None)
@given(trials)
def test_equals_the_definition_in_fractions_ties_and_thresholds_included(items):
    scores = [score / 7 for score, _ in items]
    labels = [label for _, label in items]
    rate, threshold = eer_in_fractions(scores, labels)
    found = equal_error_rate(scores, labels)
    assert found.rate == pytest.approx(float(rate), abs=1e-12)
    assert found.threshold == threshold


@pytest.mark.parametrize(
    ("targets", "nontargets", "rate", "threshold"),
    [
        ([1.0], [0.0], 0.0, 1.0),
        ([0.0], [1.0], 1.0, 1.0),  # everything the wrong way round
        ([0.5], [0.5], 0.5, 0.5),
        ([0.5, 0.5, 0.5], [0.5], 0.5, 0.5),
        ([0.1, 0.9], [0.2], 0.5, 0.2),  # between 0.9 (0, 1/2) and 0.2 (1, 1/2): equally near, the lower one
    ],
)
def test_sorted_classes_by_hand(targets, nontargets, rate, threshold):
    found = equal_error_rate_of_sorted(np.array(targets), np.array(nontargets))
    assert found == (pytest.approx(rate), threshold)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sorted_scores_that_are_not_finite_are_an_error(bad):
    spoiled = np.sort([0.1, bad, 0.3])
    for pair in ((spoiled, np.zeros(2)), (np.zeros(2), spoiled)):
        with pytest.raises(ValueError, match="not finite"):
            equal_error_rate_of_sorted(*pair)
    with pytest.raises(ValueError, match="no non-target trial"):
        equal_error_rate_of_sorted(np.zeros(2), np.zeros(0))


def test_many_trials_need_no_more_than_whole_numbers_hold():
    rng = np.random.default_rng(0)
    labels = rng.random(580_000) < 0.5
    scores = np.round(rng.normal(labels * 2.0), 3)
    points = operating_points(scores, labels)
    rate, threshold = equal_error_rate(scores, labels)
    place = int(np.argmin(np.abs(points.false_accepts - points.misses)))
    assert threshold == points.thresholds[place]
    assert rate == pytest.approx((points.false_accepts[place] + points.misses[place]) / 2, abs=1e-3)
    assert least_cost(points, 0.01) == min_dcf(scores, labels, 0.01)


def test_ranked_trials_by_hand():
    trials = ranked([0.1, 0.5, 0.9, 0.5], [0, 1, 1, 0])
    targets, nontargets = trials.ascending()
    assert (targets.tolist(), nontargets.tolist()) == ([0.5, 0.9], [0.1, 0.5])
    accepted = trials.accepted()
    assert accepted.thresholds.tolist() == [0.9, 0.5, 0.1]
    assert (accepted.targets.tolist(), accepted.nontargets.tolist()) == ([1, 2, 2], [0, 1, 2])
    points = points_of(accepted)
    assert points.thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert (points.false_accepts.tolist(), points.misses.tolist()) == ([0, 0, 0.5, 1], [1, 0.5, 0, 0])


@settings(max_examples=150, deadline=None)
@given(trials, st.floats(0.001, 0.999), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_of_mirrored_trials_has_the_costs_and_the_prior_swapped(items, p_target, miss, false_accept):
    scores = np.array([score for score, _ in items], dtype=float)
    labels = np.array([label for _, label in items])
    cost = min_dcf(scores, labels, p_target, miss, false_accept)
    assert 0.0 <= cost <= 1.0 + 1e-12
    assert min_dcf(-scores, ~labels, 1 - p_target, false_accept, miss) == pytest.approx(cost)
    assert min_dcf(np.exp(scores / 9), labels, p_target, miss, false_accept) == cost


@settings(max_examples=100, deadline=None)
@given(trials, st.floats(0.001, 0.999), st.floats(0.1, 10), st.floats(0.1, 10))
def test_costs_equal_the_definition_at_every_threshold(items, p_target, miss, false_accept):
    scores = np.array([score for score, _ in items], dtype=float)
    labels = np.array([label for _, label in items])
    points = operating_points(scores, labels)
    default = min(miss * p_target, false_accept * (1 - p_target))
    expected = [
        (
            miss * p_target * np.mean(scores[labels] < threshold)
            + false_accept * (1 - p_target) * np.mean(scores[~labels] >= threshold)
        )
        / default
        for threshold in points.thresholds
    ]
    np.testing.assert_allclose(
        detection_costs(points, p_target, miss, false_accept), expected, rtol=1e-12, atol=1e-15
    )


def test_min_dcf_equals_that_of_scikit_learns_roc():
    rng = np.random.default_rng(11)
    for p_target in (0.01, 0.05, 0.7):
        labels = rng.random(500) < 0.3
        scores = np.round(rng.normal(labels * 2.0), 2)
        false_accepts, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
        costs = p_target * (1 - hits) + (1 - p_target) * false_accepts
        assert min_dcf(scores, labels, p_target) == pytest.approx(costs.min() / min(p_target, 1 - p_target))


@pytest.mark.parametrize("score", [0.0, 1.0, -0.3])
def test_scores_that_all_tie_have_an_eer_of_a_half(score):
    for num_targets, num_others in ((1, 1), (3, 50)):
        labels = [True] * num_targets + [False] * num_others
        assert equal_error_rate([score] * len(labels), labels).rate == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error_for_the_user(value):
    with pytest.raises(MRLError, match="1 of 3 scores are not finite"):
        equal_error_rate([0.1, value, 0.3], [True, False, False])
