"""What is reported of a prefix: thresholds by hand and by definition, ties, rates that a list cannot resolve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.config import EvaluationConfig
from mrl.evaluation import detection
from mrl.evaluation.detection import report_prefix, threshold_at_rate, unresolved_rates
from mrl.evaluation.metrics import equal_error_rate, min_dcf, operating_points
from mrl.evaluation.results import Interval, Threshold

CONFIG = EvaluationConfig(p_targets=(0.01, 0.5), false_accept_rates=(0.25, 0.5), cost_miss=2.0)

trials = st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=2, max_size=50).filter(
    lambda items: len({label for _, label in items}) == 2
)


def test_a_report_by_hand():
    # Targets 0.9, 0.8, 0.4, 0.2; non-targets 0.5, 0.3, 0.1, 0.0.
    scores = np.array([0.9, 0.8, 0.4, 0.2, 0.5, 0.3, 0.1, 0.0])
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    report = report_prefix(scores, labels, 64, CONFIG, Interval(0.1, 0.4))
    assert (report.dim, report.interval) == (64, (0.1, 0.4))
    assert report.eer == pytest.approx(0.25)
    # At p = 0.01 the costs are 0.02 misses + 0.99 false accepts, over 0.02: least where half is missed, nothing
    # accepted. At p = 0.5 they are 2 misses + false accepts, over 1: 2/4 + 1/4 at 0.4 and 0 + 2/4 at 0.2.
    assert report.min_dcf == {0.01: pytest.approx(0.5), 0.5: pytest.approx(0.5)}
    assert report.thresholds == {
        "eer": Threshold(0.4, 0.25, 0.25),
        "min_dcf_0.01": Threshold(0.8, 0.0, 0.5),
        "min_dcf_0.5": Threshold(0.2, 0.5, 0.0),
        "far_0.25": Threshold(0.4, 0.25, 0.25),
        "far_0.5": Threshold(0.2, 0.5, 0.0),
    }
    assert report.statistics == pytest.approx(
        (
            0.575,
            np.sqrt(np.mean(np.square([0.325, 0.225, 0.175, 0.375]))),
            0.225,
            np.std([0.5, 0.3, 0.1, 0.0]),
        )
    )
    assert 0.0 < report.min_cllr < report.cllr < 1.0


def test_ties_at_a_rate_are_accepted_together_or_not_at_all():
    # Of ten non-targets two score 0.5: 0.1 would take one of them, so the threshold goes above both.
    scores = [0.9, 0.6, 0.5, 0.5, 0.5, *[0.1] * 8]
    labels = [1, 1, 1, 0, 0, *[0] * 8]
    points = operating_points(scores, labels)
    assert threshold_at_rate(points, 0.1) == pytest.approx((0.6, 0.0, 1 / 3))
    assert threshold_at_rate(points, 0.2) == pytest.approx((0.5, 0.2, 0.0))
    assert threshold_at_rate(points, 0.999) == pytest.approx((0.5, 0.2, 0.0))


def test_a_list_too_short_for_a_rate_gets_a_threshold_above_all_non_targets_and_says_so():
    rng = np.random.default_rng(0)
    labels = np.arange(300) < 100
    scores = np.round(rng.normal(labels * 2.0), 4)
    found = threshold_at_rate(operating_points(scores, labels), 0.001)
    assert found.false_accepts == 0.0
    assert found.value == scores[labels & (scores > scores[~labels].max())].min()
    assert unresolved_rates([0.01, 0.005, 0.001], 200) == (0.001,)
    assert unresolved_rates([0.01, 0.001], 1000) == ()


def test_where_nothing_is_to_be_accepted_the_threshold_is_the_next_number_above_all_scores():
    points = operating_points([0.5, 1.0], [1, 0])
    found = threshold_at_rate(points, 0.1)
    assert found == (np.nextafter(1.0, 2.0), 0.0, 1.0)
    assert found.value > 1.0
    report = report_prefix([0.5, 1.0], [1, 0], 8, EvaluationConfig())
    assert report.thresholds["min_dcf_0.01"] == found
    assert all(np.isfinite(threshold.value) for threshold in report.thresholds.values())


@pytest.mark.parametrize("count", [7, 29, 100, 1000, 3000])
def test_a_rate_of_so_many_trials_in_so_many_is_met_exactly(count):
    scores = np.append(np.arange(count, dtype=float), -1.0)
    labels = np.append(np.zeros(count), 1)
    points = operating_points(scores, labels)
    for accepted in range(1, count, max(1, count // 50)):
        found = threshold_at_rate(points, accepted / count)
        assert round(found.false_accepts * count) == accepted, accepted


@settings(max_examples=200, deadline=None)
@given(trials, st.floats(0.001, 0.999))
def test_the_threshold_at_a_rate_is_the_lowest_that_keeps_it(items, rate):
    scores = np.array([score for score, _ in items], dtype=float)
    labels = np.array([label for _, label in items])
    found = threshold_at_rate(operating_points(scores, labels), rate)
    assert found.false_accepts == np.mean(scores[~labels] >= found.value) <= rate
    assert found.misses == np.mean(scores[labels] < found.value)
    lower = [score for score in scores if score < found.value]
    assert not lower or np.mean(scores[~labels] >= max(lower)) > rate


@settings(max_examples=60, deadline=None)
@given(trials)
def test_every_figure_is_that_of_the_function_for_it_alone(items):
    scores = np.array([score for score, _ in items]) / 20
    labels = np.array([label for _, label in items])
    report = report_prefix(scores, labels, 8, CONFIG)
    assert (report.eer, report.thresholds["eer"].value) == equal_error_rate(scores, labels)
    for p_target, cost in report.min_dcf.items():
        assert cost == min_dcf(scores, labels, p_target, 2.0)
        _, false_accepts, misses = report.thresholds[f"min_dcf_{p_target:g}"]
        default = min(2.0 * p_target, 1 - p_target)
        assert (2 * p_target * misses + (1 - p_target) * false_accepts) / default == pytest.approx(cost)
    for value, false_accepts, misses in report.thresholds.values():
        assert false_accepts == np.mean(scores[~labels] >= value)
        assert misses == np.mean(scores[labels] < value)


@settings(max_examples=60, deadline=None)
@given(trials, st.integers(-3, 3), st.sampled_from([0.25, 1.0, 8.0]))
def test_affine_maps_move_thresholds_and_calibration_along_and_leave_the_rates(items, shift, scale):
    # Powers of two and whole numbers, so that ties stay ties.
    scores = np.array([score for score, _ in items], dtype=float)
    labels = np.array([label for _, label in items])
    before = report_prefix(scores, labels, 8, CONFIG)
    after = report_prefix(scale * scores + shift, labels, 8, CONFIG)
    assert (after.eer, after.min_dcf, after.min_cllr) == (before.eer, before.min_dcf, before.min_cllr)
    assert after.cllr == pytest.approx(before.cllr, abs=1e-6)
    for key, threshold in before.thresholds.items():
        moved = after.thresholds[key]
        assert moved[1:] == threshold[1:]
        assert moved.value == pytest.approx(scale * threshold.value + shift, rel=1e-9, abs=1e-9)
    assert after.calibration.scale == pytest.approx(before.calibration.scale / scale, rel=1e-4, abs=1e-5)


def test_trials_are_sorted_once(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.random(1000) < 0.5
    calls = []
    monkeypatch.setattr(detection, "ranked", lambda *given: calls.append(1) or RANKED(*given))
    for name in ("sort", "argsort", "unique"):
        original = getattr(np, name)
        monkeypatch.setattr(np, name, lambda *a, _o=original, **k: calls.append(1) or _o(*a, **k))
    report_prefix(rng.normal(labels * 1.0), labels, 8, EvaluationConfig())
    assert len(calls) == 2  # `ranked`, and the argsort in it


RANKED = detection.ranked


@pytest.mark.parametrize(
    ("scores", "labels", "complaint"),
    [
        ([0.1, np.nan], [0, 1], "1 of 2 scores are not finite"),
        ([0.1, 0.2], [1, 1], "no non-target trial"),
        ([0.1], [1, 0], "one length"),
    ],
)
def test_what_has_no_error_rates_is_refused(scores, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        report_prefix(scores, labels, 8, EvaluationConfig())
