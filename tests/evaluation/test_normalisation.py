"""AS-norm and S-norm by hand, against a slow direct version, and what a cohort must have; the cohort's mean."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mrl.errors import DataError
from mrl.evaluation import normalisation
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.normalisation import centred, cohort_statistics, normalised_by_prefix
from mrl.evaluation.scoring import prefix_scores

DIMS = (4, 8, 16)


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def material(seed: int = 0, vectors: int = 30, cohort: int = 40, trials: int = 200):
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.1, 10, (vectors, 1))
    return (
        (rng.normal(size=(vectors, 16)) * scales).astype(np.float32),
        rng.normal(size=(cohort, 16)).astype(np.float32) + np.float32(0.3),
        rng.integers(vectors, size=trials).astype(np.int32),
        rng.integers(vectors, size=trials).astype(np.int32),
    )


def direct(vectors, cohort, enrolment, test, dim, top) -> np.ndarray:
    """The formula, trial by trial, in float64."""
    scores = []
    for first, second in zip(enrolment, test, strict=True):
        e, t = (unit(vectors[place, :dim]) for place in (first, second))
        terms = []
        for side in (e, t):
            highest = sorted((float(side @ unit(other[:dim])) for other in cohort), reverse=True)[:top]
            terms.append((e @ t - np.mean(highest)) / np.std(highest))
        scores.append(sum(terms) / 2)
    return np.array(scores)


def test_as_norm_by_hand():
    # In the plane: e = (1, 0), t = (0, 1), s = 0. Cosines of the cohort with e are 0.6, 0.8, -1, with t 0.8, 0.6, 0.
    vectors = np.array([[2.0, 0.0], [0.0, 5.0]], dtype=np.float32)
    cohort = np.array([[0.6, 0.8], [8.0, 6.0], [-1.0, 0.0]], dtype=np.float32)
    trial = np.array([0]), np.array([1])
    # The highest two: mean 0.7 and deviation 0.1 on both sides, so (0 - 0.7) / 0.1 twice.
    adaptive = next(normalised_by_prefix(vectors, *trial, cohort_statistics(vectors, cohort, (2,), 2)))
    assert adaptive == pytest.approx([-7.0], rel=1e-5)
    # S-norm, all three: e has mean 0.4 / 3 and t 1.4 / 3.
    e, t = np.array([0.6, 0.8, -1.0]), np.array([0.8, 0.6, 0.0])
    expected = (-e.mean() / e.std() - t.mean() / t.std()) / 2
    for top in (3, 300):
        whole = next(normalised_by_prefix(vectors, *trial, cohort_statistics(vectors, cohort, (2,), top)))
        assert whole == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("top", [2, 7, 40])
def test_equals_the_formula_trial_by_trial_at_every_prefix(top, monkeypatch):
    vectors, cohort, enrolment, test = material()
    monkeypatch.setattr(
        normalisation, "_SCORES_AT_ONCE", 11 * len(cohort)
    )  # chunks that do not divide the vectors
    statistics = cohort_statistics(vectors, cohort, DIMS, top)
    found = list(normalised_by_prefix(vectors, enrolment, test, statistics))
    assert len(found) == len(DIMS)
    for dim, scores in zip(DIMS, found, strict=True):
        expected = direct(vectors, cohort, enrolment, test, dim, top)
        np.testing.assert_allclose(scores, expected, rtol=2e-3 if top == 2 else 1e-4, atol=1e-4)


def test_statistics_serve_any_list_over_the_same_vectors():
    vectors, cohort, enrolment, test = material(1)
    statistics = cohort_statistics(vectors, cohort, DIMS, 10)
    scores = prefix_scores(vectors, enrolment[:5], test[:5], DIMS)
    alone = statistics.normalised(scores[1], enrolment[:5], test[:5], 8)
    together = list(normalised_by_prefix(vectors, enrolment, test, statistics))[1][:5]
    np.testing.assert_allclose(alone, together, rtol=1e-12)
    np.testing.assert_array_equal(alone, statistics.normalised(scores[1], test[:5], enrolment[:5], 8))


def test_lengths_change_nothing_and_a_vector_of_zeros_scores_zero():
    vectors, cohort, _, _ = material(2)
    plain = cohort_statistics(vectors, cohort, DIMS, 10)
    scaled = cohort_statistics(4 * vectors, cohort / 8, DIMS, 10)
    np.testing.assert_allclose(scaled.means, plain.means, atol=1e-6)
    np.testing.assert_allclose(scaled.deviations, plain.deviations, atol=1e-6)
    zero = cohort_statistics(np.zeros((1, 16), dtype=np.float32), cohort, DIMS, 10)
    assert not zero.means.any()
    assert np.isfinite(zero.deviations).all()
    assert (zero.deviations > 0).all()


def test_it_helps_where_speakers_differ_in_how_near_they_lie_to_others():
    rng = np.random.default_rng(5)
    common = rng.normal(size=16)
    speakers = rng.normal(size=(40, 16)) + rng.uniform(0, 3, (40, 1)) * common
    of = np.repeat(np.arange(40), 5)
    vectors = (speakers[of] + 0.7 * rng.normal(size=(200, 16))).astype(np.float32)
    cohort = (rng.normal(size=(300, 16)) + rng.uniform(0, 3, (300, 1)) * common).astype(np.float32)
    enrolment, test = np.triu_indices(200, 1)
    labels = of[enrolment] == of[test]
    plain = equal_error_rate(prefix_scores(vectors, enrolment, test, [16])[0], labels).rate
    statistics = cohort_statistics(vectors, cohort, [16], 50)
    normalised = equal_error_rate(next(normalised_by_prefix(vectors, enrolment, test, statistics)), labels)
    assert normalised.rate < 0.8 * plain


@pytest.mark.parametrize(("speakers", "top"), [(1, 300), (40, 1)])
def test_a_cohort_without_a_deviation_is_refused(speakers, top):
    vectors, cohort, _, _ = material(3, cohort=speakers)
    with pytest.raises(DataError, match="at least two cohort scores, and there would be 1"):
        cohort_statistics(vectors, cohort, DIMS, top)


def test_centred_vectors_by_hand_and_per_prefix():
    vectors = np.array([[3.0, 4.0], [0.0, 0.5]], dtype=np.float32)  # of unit length (0.6, 0.8) and (0, 1)
    cohort = np.array([[0.0, 0.2], [0.2, 0.4]], dtype=np.float32)  # mean (0.1, 0.3)
    np.testing.assert_allclose(centred(vectors, cohort), [[0.5, 0.5], [-0.1, 0.7]], atol=1e-7)
    assert centred(vectors, cohort).dtype == np.float32
    vectors, cohort, enrolment, test = material(4)
    scores = prefix_scores(centred(vectors, cohort), enrolment, test, DIMS)
    for dim, row in zip(DIMS, scores, strict=True):
        less = unit(unit(vectors)[:, :dim] - cohort[:, :dim].mean(axis=0, dtype=np.float64))
        np.testing.assert_allclose(row, (less[enrolment] * less[test]).sum(axis=1), atol=1e-5)


def test_centring_takes_out_what_all_speakers_share():
    rng = np.random.default_rng(6)
    shared = 3 * rng.normal(size=16)
    of = np.repeat(np.arange(30), 4)
    embeddings = (rng.normal(size=(30, 16))[of] + shared + 0.3 * rng.normal(size=(120, 16))) * rng.uniform(
        5, 50, (120, 1)
    )
    others = unit(rng.normal(size=(400, 16)) + shared).astype(np.float32)
    enrolment, test = np.triu_indices(120, 1)
    nontargets = of[enrolment] != of[test]
    plain, less = (
        prefix_scores(vectors, enrolment, test, [16])[0][nontargets].mean()
        for vectors in (embeddings.astype(np.float32), centred(embeddings.astype(np.float32), others))
    )
    assert plain > 0.8
    assert abs(less) < 0.1


def test_memory_does_not_grow_with_the_number_of_vectors(monkeypatch):
    monkeypatch.setattr(normalisation, "_SCORES_AT_ONCE", 100_000)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6000, 16)).astype(np.float32)
    cohort = rng.normal(size=(500, 16)).astype(np.float32)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            cohort_statistics(vectors[:count], cohort, DIMS, 400)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    results = (6000 - 1000) * len(DIMS) * 8 * 3  # means, deviations and their maximum
    assert peak(6000) - peak(1000) < 1.1 * results
    assert peak(6000) < 6000 * 500 * 4  # all scores of one prefix
