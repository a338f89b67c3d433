"""Cllr by hand and by definition, its minimum against other maps, and logistic calibration against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mrl.evaluation.calibration import cllr, fit_calibration, log_likelihood_ratios, min_cllr
from mrl.evaluation.metrics import ranked
from mrl.evaluation.results import Calibration

trials = st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=50).filter(
    lambda items: len({label for _, label in items}) == 2
)


def classes(items) -> tuple[np.ndarray, np.ndarray]:
    """Target and non-target scores."""
    return tuple(np.array([score for score, label in items if label == of]) / 10 for of in (True, False))


def min_cllr_of(targets, nontargets) -> float:
    labels = np.arange(len(targets) + len(nontargets)) < len(targets)
    return min_cllr(ranked(np.concatenate([targets, nontargets]), labels).accepted())


def normal_scores(seed: int, count: int = 400, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(apart, 1.0, count), rng.normal(0.0, 1.0, 3 * count)


def test_cllr_by_hand():
    assert cllr(np.zeros(3), np.zeros(2)) == pytest.approx(1.0)  # ratios of 1 to 1 tell nothing
    assert cllr(np.array([800.0]), np.array([-800.0])) == 0.0
    # A target at 3 to 1 costs log2(4/3), a non-target at 1 to 7 log2(8/7), one at 1 to 1 a bit.
    expected = (np.log2(4 / 3) + (np.log2(8 / 7) + 1.0) / 2) / 2
    assert cllr(np.log([3.0]), np.log([1 / 7, 1.0])) == pytest.approx(expected)
    assert cllr(np.array([-1000.0]), np.array([0.0])) == pytest.approx(
        (1000 / np.log(2) + 1) / 2
    )  # no overflow


def test_min_cllr_by_hand():
    assert min_cllr_of(np.array([3.0, 2.0]), np.array([1.0, 0.0])) == 0.0
    assert min_cllr_of(np.array([1.0]), np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert min_cllr_of(np.array([0.0, 0.1]), np.array([0.9, 1.0, 1.1])) == pytest.approx(
        1.0
    )  # wrong way round
    # 0.9 is a target alone; 0.6 (non-target) over 0.5 (target) pool to one of two targets and one of two others, a
    # ratio of 1; 0.1 is a non-target alone. So half of each class costs a bit.
    assert min_cllr_of(np.array([0.9, 0.5]), np.array([0.6, 0.1])) == pytest.approx(0.5)


@pytest.mark.parametrize("decimals", [1, 9])
def test_min_cllr_is_that_of_scikit_learns_isotonic_posteriors(decimals):
    targets, nontargets = (np.round(scores, decimals) for scores in normal_scores(decimals))
    scores = np.concatenate([targets, nontargets])
    labels = np.arange(len(scores)) < len(targets)
    posteriors = IsotonicRegression().fit(scores, labels).predict(scores).clip(1e-12, 1 - 1e-12)
    ratios = np.log(posteriors / (1 - posteriors)) - np.log(len(targets) / len(nontargets))
    assert min_cllr_of(targets, nontargets) == pytest.approx(cllr(ratios[labels], ratios[~labels]), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(trials)
def test_min_cllr_is_below_every_monotone_map_and_ignores_them(items):
    targets, nontargets = classes(items)
    least = min_cllr_of(targets, nontargets)
    assert 0.0 <= least <= 1.0 + 1e-12
    for monotone in (np.arctan, np.exp, lambda scores: 20 * scores - 3):
        assert least <= cllr(monotone(targets), monotone(nontargets)) + 1e-12
        assert min_cllr_of(monotone(targets), monotone(nontargets)) == pytest.approx(least, abs=1e-12)
    calibration = fit_calibration(targets, nontargets)
    calibrated = [log_likelihood_ratios(scores, calibration) for scores in (targets, nontargets)]
    assert least <= cllr(*calibrated) + 1e-12


@settings(max_examples=100, deadline=None)
@given(trials)
def test_swapped_labels_and_negated_scores_mirror_everything(items):
    targets, nontargets = classes(items)
    assert cllr(-nontargets, -targets) == pytest.approx(cllr(targets, nontargets))
    assert min_cllr_of(-nontargets, -targets) == pytest.approx(min_cllr_of(targets, nontargets), abs=1e-12)
    calibration, mirrored = fit_calibration(targets, nontargets), fit_calibration(-nontargets, -targets)
    assert mirrored == pytest.approx((calibration.scale, -calibration.offset), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("apart", "count"), [(2.0, 400), (0.3, 50), (6.0, 30)])
def test_calibration_equals_scikit_learns_logistic_regression(apart, count):
    """Platt's soft labels are two trials each, of weights that add up to one."""
    targets, nontargets = normal_scores(3, count, apart)
    scores = np.concatenate([targets, nontargets, targets, nontargets])[:, None]
    is_target = np.arange(len(targets) + len(nontargets)) < len(targets)
    doubts = np.where(is_target, 1 / (len(targets) + 2), 1 / (len(nontargets) + 2))
    each = np.where(is_target, 0.5 / len(targets), 0.5 / len(nontargets))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(
        scores,
        np.concatenate([is_target, ~is_target]),
        np.concatenate([each * (1 - doubts), each * doubts]),
    )
    found = fit_calibration(targets, nontargets)
    assert found == pytest.approx((model.coef_[0, 0], model.intercept_[0]), rel=1e-4)


def test_calibration_of_many_trials_finds_the_true_log_likelihood_ratio():
    # Two normal classes of one deviation: the ratio is (m1 - m0) / v * score - (m1^2 - m0^2) / 2 v.
    rng = np.random.default_rng(4)
    targets, nontargets = rng.normal(0.6, 0.2, 60_000), rng.normal(0.1, 0.2, 200_000)
    found = fit_calibration(targets, nontargets)
    assert found == pytest.approx((0.5 / 0.04, -0.35 / 0.08), rel=0.02)
    by_search = minimize(lambda place: cllr(*(place[0] * s + place[1] for s in (targets, nontargets))), found)
    ours = cllr(*(log_likelihood_ratios(scores, found) for scores in (targets, nontargets)))
    assert ours == pytest.approx(by_search.fun, abs=1e-4)
    assert ours == pytest.approx(min_cllr_of(targets, nontargets), abs=2e-3)


def test_the_number_of_trials_of_a_class_does_not_shift_the_ratio():
    targets, nontargets = normal_scores(5, 2000)
    once, often = fit_calibration(targets, nontargets), fit_calibration(targets, np.tile(nontargets, 9))
    assert often == pytest.approx(once, rel=0.02)


@pytest.mark.parametrize("count", [1, 3, 1000, 100_000])
@pytest.mark.parametrize("gap", [1e-3, 0.5, 1.0])
def test_separable_scores_do_not_diverge(count, gap):
    rng = np.random.default_rng(count)
    nontargets, targets = rng.random(count) * 0.5, 0.5 + gap + rng.random(count) * 0.5
    found = fit_calibration(targets, nontargets)
    assert np.isfinite(found).all()
    assert found.scale > 0
    ratios = [log_likelihood_ratios(scores, found) for scores in (targets, nontargets)]
    assert min(ratios[0]) > max(ratios[1])
    # So many trials without an error speak for odds of about as many to one, next to the border.
    assert min(ratios[0]) < np.log(count + 1) + 0.1
    if count == 1:
        assert ratios[0][0] == pytest.approx(np.log(2.0))
        assert ratios[1][0] == pytest.approx(-np.log(2.0))


@pytest.mark.parametrize(
    ("targets", "nontargets"),
    [([0.3, 0.3], [0.3]), ([0.1, 0.2], [0.3, 0.4]), ([0.0], [0.0, 0.0]), ([0.1, 0.9], [0.5])],
)
def test_scores_that_do_not_speak_for_the_target_give_ratios_of_one(targets, nontargets):
    found = fit_calibration(np.array(targets), np.array(nontargets))
    assert 0 < found.scale < 1e-4
    ratios = [log_likelihood_ratios(np.array(scores), found) for scores in (targets, nontargets)]
    assert np.abs(np.concatenate(ratios)).max() < 1e-3
    assert cllr(*ratios) == pytest.approx(1.0, abs=1e-3)


def test_outliers_and_units_do_not_hinder_convergence():
    targets, nontargets = normal_scores(6)
    plain = fit_calibration(targets, nontargets)
    for unit in (1e-6, 1e6):
        found = fit_calibration(targets * unit + 5 * unit, nontargets * unit + 5 * unit)
        assert found.scale * unit == pytest.approx(plain.scale, rel=1e-5)
    spoiled = fit_calibration(np.append(targets, [-1e5, 1e5]), np.append(nontargets, 1e4))
    assert np.isfinite(spoiled).all()
    assert isinstance(spoiled, Calibration)
