"""What plots of scores are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from mrl.evaluation.curves import MAX_POINTS, NUM_BINS, score_curves
from mrl.evaluation.metrics import operating_points
from tests.evaluation.sample_report import sample_scores


def test_a_short_curve_keeps_every_operating_point() -> None:
    curve = score_curves("vox1-o", 64, [0.1, 0.4, 0.4, 0.9], [False, True, False, True])
    assert (curve.list_name, curve.dim) == ("vox1-o", 64)
    assert curve.false_accepts == (0.0, 0.0, 0.5, 1.0)
    assert curve.misses == (1.0, 0.5, 0.0, 0.0)


def test_a_long_curve_is_thinned_to_points_of_its_own_that_lie_close() -> None:
    scores, labels = sample_scores(64, num_trials=40_000)
    curve = score_curves("vox1-o", 64, scores, labels)
    points = operating_points(scores, labels)
    assert 100 < len(curve.misses) <= MAX_POINTS
    whole = set(zip(points.false_accepts.tolist(), points.misses.tolist(), strict=True))
    assert set(zip(curve.false_accepts, curve.misses, strict=True)) <= whole
    assert (curve.false_accepts[0], curve.misses[0]) == (0.0, 1.0)
    assert (curve.false_accepts[-1], curve.misses[-1]) == (1.0, 0.0)
    # Where the curve is read, a straight line between kept points is off by a hair of the axes, 4 or 5 probits long.
    between = np.interp(points.false_accepts, curve.false_accepts, curve.misses)
    read = (points.false_accepts > 0.001) & (points.misses > 0.001)
    assert np.abs(ndtri(between[read]) - ndtri(points.misses[read])).max() < 0.15


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=300))
def test_every_trial_stands_in_one_bin_and_curves_are_monotone(trials: list[tuple[int, bool]]) -> None:
    scores, labels = [score / 5 for score, _ in trials], [label for _, label in trials]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="there is no"):
            score_curves("any", 8, scores, labels)
        return
    curve = score_curves("any", 8, scores, labels)
    assert sum(curve.targets) == sum(labels)
    assert sum(curve.nontargets) == len(labels) - sum(labels)
    assert len(curve.bin_edges) == NUM_BINS + 1
    assert curve.bin_edges[0] <= min(scores) <= max(scores) <= curve.bin_edges[-1]
    assert list(curve.false_accepts) == sorted(curve.false_accepts)
    assert list(curve.misses) == sorted(curve.misses, reverse=True)


def test_bins_count_each_class_by_hand() -> None:
    curve = score_curves("any", 8, [0.0, 0.0, 0.3, 0.6, 0.6, 0.6], [False, False, False, True, True, True])
    assert curve.nontargets[0] == 2
    assert curve.nontargets[30] == 1  # 0.3 is half-way
    assert curve.targets[-1] == 3
    assert curve.bin_edges[1] == pytest.approx(0.01)
