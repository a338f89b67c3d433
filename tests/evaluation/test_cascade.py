"""The cascade against decisions taken one by one, its two limits, and what the choosing half may see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.evaluation.bootstrap import TrialSpeakers
from mrl.evaluation.cascade import DetectionCost, cascade, cascade_places, speaker_halves
from mrl.evaluation.metrics import equal_error_rate, min_dcf, operating_points

COST = DetectionCost(0.05)


def trials_of(seed=0, speakers=30, own=12):
    """Scores at a small and at the full size, labels and speakers: all pairs of speakers, and target trials."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(speakers, 1)
    enrolment = np.concatenate([np.repeat(np.arange(speakers), own), first, second])
    test = np.concatenate([np.repeat(np.arange(speakers), own), second, first])
    labels = enrolment == test
    full = rng.normal(labels * 3.0)
    return full + rng.normal(size=len(labels)), full, labels, TrialSpeakers(enrolment, test, speakers)


@pytest.fixture(scope="module")
def trials():
    return trials_of()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(-2, 4), st.floats(0, 3))
def test_the_order_is_that_of_decisions_taken_one_by_one(seed, low, width):
    rng = np.random.default_rng(seed)
    small, full = np.round(rng.normal(size=(2, 40)) + 1, 1)
    places = cascade_places(small, full, low, low + width)
    inside = (small >= low) & (small < low + width)
    for threshold in np.unique(full[inside]):
        accepted = (small >= low + width) | (inside & (full >= threshold))
        lowest = places[inside & (full == threshold)]
        assert len(np.unique(lowest)) == 1
        np.testing.assert_array_equal(places >= lowest[0], accepted)


def test_the_order_by_hand():
    small, full = np.array([0.1, 0.4, 0.5, 0.6, 0.7]), np.array([0.9, 0.8, 0.8, 0.2, 0.1])
    places = cascade_places(
        small, full, 0.4, 0.7
    )  # rejected; escalated: tied best, tied best, worst; accepted
    assert np.unique(places, return_inverse=True)[1].tolist() == [0, 2, 2, 1, 3]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 5))
def test_a_band_of_everything_is_the_full_size_and_an_empty_one_the_small(seed, at):
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.5
    labels[:2] = True, False
    small, full = np.round(rng.normal(labels * 1.0, size=(2, 60)), 1)
    for band, scores in (((-np.inf, np.inf), full), ((at, at), small)):
        places, plain = (
            operating_points(values, labels) for values in (cascade_places(small, full, *band), scores)
        )
        np.testing.assert_array_equal(places.false_accepts, plain.false_accepts)
        np.testing.assert_array_equal(places.misses, plain.misses)


def test_points_are_measured_on_the_other_half(trials):
    small, full, labels, speakers = trials
    found = cascade(small, full, labels, speakers, dims=(64, 256), cost=COST, seed=1)
    choosing, reporting = speaker_halves(speakers, 1)
    assert (found.chosen_on, found.reported_on) == (choosing.sum(), reporting.sum())
    assert found.left_out == np.count_nonzero(~choosing & ~reporting)
    assert len(found.points) == 4
    for point, rate in zip(found.points, (0.05, 0.1, 0.2, 0.4), strict=True):
        inside = (small >= point.low) & (small < point.high)
        assert inside[choosing].mean() == pytest.approx(rate, abs=1 / choosing.sum())
        assert point.escalation_rate == inside[reporting].mean()
        places = cascade_places(small, full, point.low, point.high)[reporting]
        assert point.eer == equal_error_rate(places, labels[reporting]).rate
        assert point.min_dcf == min_dcf(places, labels[reporting], 0.05)
        assert point.full_eer == equal_error_rate(full[reporting], labels[reporting]).rate
        assert point.full_min_dcf == min_dcf(full[reporting], labels[reporting], 0.05)
        assert (point.small_dim, point.full_dim) == (64, 256)


def test_what_is_reported_does_not_touch_the_choice(trials):
    small, full, labels, speakers = trials
    reporting = speaker_halves(speakers, 1)[1]
    noisy = np.where(reporting, np.random.default_rng(0).permutation(small), small)
    bands = [
        [(point.low, point.high) for point in cascade(*scores, dims=(1, 2), cost=COST, seed=1).points]
        for scores in ((small, full, labels, speakers), (noisy, full, labels, speakers))
    ]
    assert bands[0] == bands[1]


def test_no_trial_shares_a_speaker_between_the_halves(trials):
    speakers = trials[3]
    choosing, reporting = (
        set(speakers.enrolment[half]) | set(speakers.test[half]) for half in speaker_halves(speakers, 3)
    )
    assert choosing.isdisjoint(reporting)
    assert len(choosing) == len(reporting) == 15
    other = set(speakers.enrolment[speaker_halves(speakers, 4)[0]])
    assert choosing != other


def test_more_escalation_comes_closer_to_the_full_size():
    small, full, labels, speakers = trials_of(speakers=80, own=60)
    points = cascade(small, full, labels, speakers, dims=(64, 256), cost=COST, seed=0).points
    reporting = speaker_halves(speakers, 0)[1]
    alone = equal_error_rate(small[reporting], labels[reporting]).rate
    assert points[0].eer < alone - 0.2 * (alone - points[0].full_eer)
    assert points[-1].eer == pytest.approx(points[-1].full_eer, abs=0.2 * (alone - points[-1].full_eer))
    eers = [point.eer for point in points]
    assert eers[-1] < eers[0]


def test_escalating_everything_is_the_full_size(trials):
    point = cascade(*trials, dims=(64, 256), cost=COST, seed=0, escalation_rates=[1.0]).points[0]
    assert (point.low, point.high, point.escalation_rate) == (-np.inf, np.inf, 1.0)
    assert (point.eer, point.min_dcf) == (point.full_eer, point.full_min_dcf)


def test_two_speakers_are_too_few():
    speakers = TrialSpeakers(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    found = cascade(
        [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [True, False, True], speakers, dims=(1, 2), cost=COST, seed=0
    )
    assert found == ((), 1, 1, 1)
    assert "more speakers are needed" in found.words


def test_words_say_what_was_left_out(trials):
    found = cascade(*trials, dims=(1, 2), cost=COST, seed=0)
    assert f"{found.left_out:,} between the halves are left out" in found.words
