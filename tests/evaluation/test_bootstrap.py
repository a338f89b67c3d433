"""Intervals over speakers: weights against repeated trials, pairing, coverage, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.trials import Trial, TrialList, read_trials
from mrl.errors import DataError
from mrl.evaluation import bootstrap
from mrl.evaluation.bootstrap import TrialSpeakers, bootstrap_eers, interval, trial_speakers
from mrl.evaluation.metrics import equal_error_rate, equal_error_rate_of_sorted
from mrl.randomness import numpy_generator

SPEAKERS = 6


def trials_of(seed: int, count: int = 60, speakers: int = SPEAKERS) -> tuple[np.ndarray, TrialSpeakers]:
    """Labels [N] and speakers of random trials, about half of them target trials."""
    rng = np.random.default_rng(seed)
    enrolment = rng.integers(0, speakers, count)
    shift = np.where(rng.random(count) < 0.5, 0, rng.integers(1, speakers, count))
    test = (enrolment + shift) % speakers
    return shift == 0, TrialSpeakers(enrolment, test, speakers)


weighted = st.lists(
    st.tuples(st.integers(-9, 9), st.booleans(), st.integers(0, 4)), min_size=2, max_size=40
).filter(lambda items: {label for _, label, weight in items if weight} == {True, False})


@settings(max_examples=150, deadline=None)
@given(weighted)
def test_a_weight_is_as_many_trials(items):
    values, labels, weights = (np.array(column) for column in zip(*items, strict=True))
    values = values / 3
    repeated = equal_error_rate(np.repeat(values, weights), np.repeat(labels, weights))
    order = np.argsort(values)
    targets, nontargets = order[labels[order]], order[~labels[order]]
    rate, _ = equal_error_rate_of_sorted(
        values[targets], values[nontargets], weights[targets], weights[nontargets]
    )
    assert rate == pytest.approx(repeated.rate, abs=1e-12)


def test_resamples_are_trials_repeated_by_their_speakers():
    labels, speakers = trials_of(0)
    scores = np.round(np.random.default_rng(1).normal(labels * 1.0), 1)
    found = bootstrap_eers(scores, labels, speakers, seed=3, resamples=20)
    for number in range(20):
        drawn = numpy_generator(3, "bootstrap", number).integers(SPEAKERS, size=SPEAKERS).tolist()
        kept = [
            place
            for place, (label, first, second) in enumerate(zip(labels, *speakers[:2], strict=True))
            for _ in range(drawn.count(first) * (1 if label else drawn.count(second)))
        ]
        assert found[0, number] == pytest.approx(equal_error_rate(scores[kept], labels[kept]).rate, abs=1e-12)


def test_systems_are_compared_on_the_same_resamples():
    labels, speakers = trials_of(2, 400)
    scores = np.random.default_rng(2).normal(labels * 1.0)
    first, same, other = bootstrap_eers(
        [scores, 2 * scores + 1, -scores], labels, speakers, seed=0, resamples=50
    )
    np.testing.assert_array_equal(first, same)
    assert interval(first - same) == (0.0, 0.0)
    np.testing.assert_allclose(other, 1 - first, atol=1e-12)
    np.testing.assert_array_equal(bootstrap_eers(scores, labels, speakers, seed=0, resamples=50)[0], first)
    assert not np.array_equal(bootstrap_eers(scores, labels, speakers, seed=1, resamples=50)[0], first)


def plain_rates(scores, labels, speakers, seed, resamples):
    """One resample after the other, with a weight of 8 bytes for each trial, as given."""
    order = np.argsort(scores, kind="stable")
    targets, nontargets = order[labels[order]], order[~labels[order]]
    for number in range(resamples):
        generator = numpy_generator(seed, "bootstrap", number)
        while True:
            drawn = generator.integers(speakers.num_speakers, size=speakers.num_speakers)
            times = np.bincount(drawn, minlength=speakers.num_speakers)
            first, second = times[speakers.enrolment], times[speakers.test]
            weights = np.where(labels, first, first * second)
            if weights[targets].any() and weights[nontargets].any():
                break
        yield equal_error_rate_of_sorted(
            scores[targets], scores[nontargets], weights[targets], weights[nontargets]
        ).rate


@pytest.mark.parametrize("num_speakers", [2, 6, 300])
def test_rates_are_exactly_the_plain_ones(num_speakers):
    labels, speakers = trials_of(4, 3000, num_speakers)
    scores = np.round(np.random.default_rng(1).normal(labels * 1.0, size=(3, 3000)), 2)
    found = bootstrap_eers(scores, labels, speakers, seed=8, resamples=25)
    for row, rates in zip(scores, found, strict=True):
        assert rates.tolist() == list(plain_rates(row, labels, speakers, 8, 25))


def test_weights_of_one_speaker_drawn_often_do_not_overflow(monkeypatch):
    # Each number of draws fits into a byte, the product of two does not.
    drawn = np.repeat([0, 1, 2], [60, 50, 5])
    labels = np.array([True, True, True, False, False, False])
    enrolment, test = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 1, 2, 0])

    class Drawing:
        def integers(self, num_speakers, size):
            return drawn

    monkeypatch.setattr(bootstrap, "numpy_generator", lambda *keys: Drawing())
    scores = np.array([0.0, 2.0, 4.0, 1.0, 3.0, -1.0])
    weights = [60, 50, 5, 60 * 50, 50 * 5, 5 * 60]
    expected = equal_error_rate(np.repeat(scores, weights), np.repeat(labels, weights)).rate
    rates = bootstrap_eers(scores, labels, TrialSpeakers(enrolment, test, 115), seed=0, resamples=1)
    assert rates[0, 0] == pytest.approx(expected, abs=1e-12)


def test_each_resample_is_told():
    labels, speakers = trials_of(2)
    told = []
    bootstrap_eers(np.zeros((3, len(labels))), labels, speakers, seed=0, resamples=7, advance=told.append)
    assert told == [1] * 7


def test_interval_by_hand():
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval(np.arange(101.0), coverage=0.5) == pytest.approx((25.0, 75.0))


def test_the_spread_is_that_of_other_speakers():
    """Speakers differ far more than their trials do, which a bootstrap over trials would not see."""
    count, own, rng = 24, 12, np.random.default_rng(7)
    first, second = (grid.ravel() for grid in np.meshgrid(range(count), range(count)))
    enrolment = np.concatenate([np.repeat(range(count), own), first[first < second]])
    test = np.concatenate([np.repeat(range(count), own), second[first < second]])
    labels = enrolment == test
    speakers = TrialSpeakers(enrolment, test, count)
    rates, spreads = [], []
    for _ in range(40):
        level = rng.normal(size=count)
        scores = labels * 2.0 + level[enrolment] + 0.3 * rng.normal(size=len(labels))
        rates.append(equal_error_rate(scores, labels).rate)
        spreads.append(bootstrap_eers(scores, labels, speakers, seed=0, resamples=40).std())
    trials_alone = np.sqrt(np.mean(rates) * (1 - np.mean(rates)) / (count * own))
    assert np.std(rates) > 1.8 * trials_alone
    assert 0.75 < np.mean(spreads) / np.std(rates) < 1.6


def test_speakers_are_the_folders_in_which_paths_differ():
    trials = TrialList.from_trials(
        "x",
        Path(),
        [Trial(True, "wav/b/0/1.wav", "wav/b/1/1.wav"), Trial(False, "wav/b/0/1.wav", "wav/a/0/1.wav")],
    )
    speakers = trial_speakers(trials)
    assert (speakers.enrolment.tolist(), speakers.test.tolist(), speakers.num_speakers) == ([1, 1], [1, 0], 2)


@pytest.mark.parametrize(
    ("trial", "kind"),
    [(Trial(True, "a/1.wav", "b/1.wav"), "target"), (Trial(False, "a/1.wav", "a/2.wav"), "non-target")],
)
def test_folders_that_contradict_the_labels_are_refused(trial, kind):
    trials = TrialList.from_trials(
        "x", Path(), [Trial(True, "a/1.wav", "a/3.wav"), trial, Trial(False, "b/1.wav", "a/1.wav")]
    )
    with pytest.raises(DataError, match=rf"^x: a/1\.wav and \S+ are a {kind} trial"):
        trial_speakers(trials)


def test_resamples_without_both_classes_are_drawn_anew():
    # Of two speakers half of the resamples hold one alone, and so no non-target trial.
    labels, speakers = trials_of(5, 40, speakers=2)
    rates = bootstrap_eers(
        np.random.default_rng(0).normal(labels * 1.0), labels, speakers, seed=0, resamples=30
    )
    assert np.isfinite(rates).all()


def test_what_has_no_eer_is_refused():
    labels, speakers = trials_of(6)
    with pytest.raises(ValueError, match="no non-target trial"):
        bootstrap_eers(np.zeros(len(labels)), np.ones(len(labels)), speakers, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_eers(np.full(len(labels), np.nan), labels, speakers, seed=0)


def test_a_list_of_voxceleb1_o_size_takes_a_thousand_resamples(speech):
    trials = read_trials(speech / "trials" / "voxceleb1_o_cleaned.txt", speech)
    speakers = trial_speakers(trials)
    assert speakers.num_speakers == 40
    scores = np.random.default_rng(0).normal(trials.labels * 2.0)
    rates = bootstrap_eers(scores, trials.labels, speakers, seed=0)[0]
    low, high = interval(rates)
    assert low < equal_error_rate(scores, trials.labels).rate < high
    assert high - low < 0.02
