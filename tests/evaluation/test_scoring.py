"""Prefix scores and the EER at every prefix against plain loops over trials and prefixes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from mrl.evaluation import scoring
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.scoring import eer_curve, prefix_scores, scores_by_prefix


def plain_scores(embeddings, enrolment, test, dims):
    scores = np.empty((len(dims), len(enrolment)))
    for k, dim in enumerate(dims):
        for n, (first, second) in enumerate(zip(enrolment, test, strict=True)):
            a, b = embeddings[first, :dim].astype(float), embeddings[second, :dim].astype(float)
            scores[k, n] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return scores


def random_trials(seed, utterances=12, dims=256, trials=50):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(utterances, dims)).astype(np.float32)
    enrolment, test = rng.integers(0, utterances, (2, trials)).astype(np.int32)
    labels = rng.random(trials) < 0.4
    labels[:2] = True, False
    return embeddings, enrolment, test, labels


@pytest.mark.parametrize("columns", [1, 7, 16, 300])
@pytest.mark.parametrize("dims", [[64, 128, 192, 256], [1, 2, 3], [256]])
def test_equals_the_plain_loop(dims, columns, monkeypatch):
    monkeypatch.setattr(scoring, "_COLUMNS", columns)
    embeddings, enrolment, test, _ = random_trials(0)
    scores = prefix_scores(embeddings, enrolment, test, dims)
    bound = (2 * dims[-1] + 1) * 2.0**-53  # of each of the two
    np.testing.assert_allclose(
        scores, plain_scores(embeddings, enrolment, test, dims), atol=2 * bound, rtol=0
    )


def test_by_hand():
    embeddings = np.array([[3.0, 4.0, 0.0], [4.0, 3.0, 5.0]], dtype=np.float32)
    first, second = np.array([0], dtype=np.int32), np.array([1], dtype=np.int32)
    scores = prefix_scores(embeddings, first, second, [1, 2, 3])
    np.testing.assert_allclose(scores[:, 0], [1.0, 24 / 25, 24 / (5 * np.sqrt(50))])


def test_a_zero_prefix_scores_zero():
    embeddings = np.array([[0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
    index = np.array([0], dtype=np.int32)
    assert prefix_scores(embeddings, index, index + 1, [1])[0, 0] == 0.0


def test_the_order_within_a_trial_does_not_matter_to_the_last_bit():
    embeddings, enrolment, test, _ = random_trials(1, utterances=40, trials=400)
    dims = [1, 17, 256]
    forwards, backwards = (
        prefix_scores(embeddings, *pair, dims) for pair in ((enrolment, test), (test, enrolment))
    )
    np.testing.assert_array_equal(forwards, backwards)


def test_one_number_and_an_embedding_with_itself_score_exactly_one():
    embeddings, enrolment, test, _ = random_trials(5, utterances=300, trials=3000)
    embeddings *= np.float32(10.0) ** np.random.default_rng(5).integers(-6, 6, (300, 1)).astype(np.float32)
    signs = np.sign(embeddings[enrolment, 0]) * np.sign(embeddings[test, 0])
    np.testing.assert_array_equal(prefix_scores(embeddings, enrolment, test, [1])[0], signs)
    assert (prefix_scores(embeddings, enrolment, enrolment, [2, 17, 256]) == 1.0).all()


@pytest.mark.parametrize("dims", [[0, 2], [2, 1], [4], [1, 1]])
def test_prefixes_must_ascend_and_fit(dims):
    index = np.array([0], dtype=np.int32)
    with pytest.raises(ValueError, match=r"must ascend within 1\.\.3"):
        prefix_scores(np.ones((2, 3), dtype=np.float32), index, index, dims)


def test_the_curve_is_the_eer_of_each_prefix_by_itself():
    embeddings, enrolment, test, labels = random_trials(2, utterances=60, dims=40, trials=700)
    curve = eer_curve(embeddings, enrolment, test, labels)
    rows = prefix_scores(embeddings, enrolment, test, range(1, 41))
    for dim, scores in enumerate(rows, start=1):
        direct = equal_error_rate(scores, labels)
        assert (curve.rates[dim - 1], curve.thresholds[dim - 1]) == direct
        hits_at, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
        expected = brentq(lambda x: 1 - x - interp1d(hits_at, hits)(x), 0, 1, xtol=1e-15)  # noqa: B023
        assert direct.rate == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.booleans()), min_size=2, max_size=40),
)
def test_the_curve_with_ties_zero_vectors_and_repeated_trials(rows, items):
    embeddings = np.array(rows, dtype=np.float32)
    enrolment, test = (np.array([item[k] % len(rows) for item in items], dtype=np.int32) for k in (0, 1))
    labels = np.array([item[2] for item in items])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="error rates are not defined"):
            eer_curve(embeddings, enrolment, test, labels)
        return
    curve = eer_curve(embeddings, enrolment, test, labels)
    for place, scores in enumerate(prefix_scores(embeddings, enrolment, test, [1, 2, 3])):
        assert (curve.rates[place], curve.thresholds[place]) == equal_error_rate(scores, labels)


def test_labels_decide_and_inputs_stay_as_they_were():
    embeddings, enrolment, test, labels = random_trials(3, dims=8)
    copies = [array.copy() for array in (embeddings, enrolment, test, labels)]
    curve, mirrored = (eer_curve(embeddings, enrolment, test, given) for given in (labels, ~labels))
    np.testing.assert_allclose(curve.rates, 1 - mirrored.rates, atol=1e-12)
    for array, copy in zip((embeddings, enrolment, test, labels), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_memory_does_not_grow_with_the_prefixes():
    embeddings, enrolment, test, labels = random_trials(4, utterances=2000, dims=256, trials=50_000)
    tracemalloc.start()
    eer_curve(embeddings, enrolment, test, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 8 * len(labels) + 20 * 8 * len(embeddings)  # all scores would be 102 MB
    rows = scores_by_prefix(embeddings, enrolment, test, [1, 2])
    assert next(rows) is next(rows)
