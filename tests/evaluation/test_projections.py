"""Maps to short embeddings: exactness at full size, directions known by hand, LDA against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mrl.errors import DataError
from mrl.evaluation import projections
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.projections import (
    centred_pca,
    fit_projections,
    lda,
    pca,
    random_projection,
    truncation,
)
from mrl.evaluation.scoring import prefix_scores


def embeddings_of(seed=0, speakers=20, each=8, width=12, offset=0.0):
    """Raw embeddings [C, E] and their speakers [C]; a few coordinates tell speakers apart, others are loud."""
    rng = np.random.default_rng(seed)
    between, within = np.full(width, 0.1), np.full(width, 0.2)
    between[5:8], within[:3] = 2.0, 3.0
    numbers = np.repeat(np.arange(speakers), each)
    rows = between * rng.normal(size=(speakers, width))[numbers] + within * rng.normal(
        size=(len(numbers), width)
    )
    return (rows + offset).astype(np.float32), numbers


def all_pairs(count):
    first, second = np.triu_indices(count, 1)
    return first.astype(np.int32), second.astype(np.int32)


def scores_at(vectors, dim):
    return prefix_scores(vectors, *all_pairs(len(vectors)), [dim])[0]


def test_truncation_is_the_embedding_itself():
    sample, _ = embeddings_of()
    np.testing.assert_array_equal(truncation(12).apply(sample), sample)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 16))
def test_rotations_leave_the_scores_at_full_size(seed, width):
    sample, _ = embeddings_of(seed, width=max(width, 8), offset=1.0)
    width = sample.shape[1]
    for projection in (random_projection(width, seed), pca(sample)):
        np.testing.assert_allclose(projection.basis.T @ projection.basis, np.eye(width), atol=1e-12)
        np.testing.assert_allclose(
            scores_at(projection.apply(sample), width), scores_at(sample, width), atol=1e-6
        )


def test_the_random_projection_depends_on_the_seed_alone():
    np.testing.assert_array_equal(random_projection(9, 4).basis, random_projection(9, 4).basis)
    assert not np.allclose(random_projection(9, 4).basis, random_projection(9, 5).basis)


def test_pca_by_hand():
    # Of length 1: (0.6, 0.8), (0.6, -0.8), (1, 0). Second moments: 1.72 and 1.28; about the mean: 0.107 and 1.28.
    sample = np.array([[3.0, 4.0], [6.0, -8.0], [7.0, 0.0]])
    np.testing.assert_allclose(pca(sample).basis, np.eye(2), atol=1e-12)
    assert pca(sample).mean is None
    centred = centred_pca(sample)
    np.testing.assert_allclose(centred.basis, [[0, 1], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(centred.mean, [2.2 / 3, 0.0], atol=1e-12)
    np.testing.assert_allclose(centred.apply(np.float32([[0.0, 5.0]])), [[1.0, -2.2 / 3]], atol=1e-6)


def test_lda_has_the_directions_of_scikit_learn():
    sample, speakers = embeddings_of(speakers=60, each=60)
    found = lda(sample, speakers)
    unit = sample / np.linalg.norm(sample, axis=1, keepdims=True)
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(unit, speakers).scalings_
    for ours, theirs in zip(found.basis.T[:3], reference.T[:3], strict=True):
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert abs(cosine) > 0.999


def test_lda_makes_each_speaker_vary_by_one():
    sample, speakers = embeddings_of(speakers=40, each=200)
    rows = lda(sample, speakers).apply(sample)
    means = np.stack([rows[speakers == number].mean(0) for number in range(40)])
    within = (rows - means[speakers]).T @ (rows - means[speakers]) / (len(rows) - 40)
    np.testing.assert_allclose(within, np.eye(rows.shape[1]), atol=0.05)


def test_lda_is_better_than_pca_where_loud_directions_say_nothing():
    sample, speakers = embeddings_of()
    unseen, who = embeddings_of(1)
    first, second = all_pairs(len(unseen))
    eers = [
        equal_error_rate(scores_at(projection.apply(unseen), 3), who[first] == who[second]).rate
        for projection in (lda(sample, speakers), pca(sample))
    ]
    assert eers[0] < 0.6 * eers[1]


def test_lda_has_one_direction_less_than_speakers():
    sample, speakers = embeddings_of(speakers=5)
    assert lda(sample, speakers).width == 4
    assert lda(*embeddings_of(speakers=40)).width == 12


def test_lda_of_fewer_embeddings_than_numbers_can_still_be_inverted():
    sample, speakers = embeddings_of(speakers=3, each=2)
    projection = lda(sample, speakers)
    assert projection.width == 2
    assert np.isfinite(projection.apply(sample)).all()


@pytest.mark.parametrize("speakers", [[0, 1, 2, 3], [7, 7, 7, 7]])
def test_lda_without_two_speakers_and_two_embeddings_of_one_is_refused(speakers):
    sample = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(DataError, match="LDA needs two training speakers or more"):
        lda(sample, speakers)
    assert "LDA" not in [projection.name for projection in fit_projections(sample, speakers, 0)]


def test_every_map_is_fitted_and_its_directions_do_not_hang_on_the_order_of_the_sample():
    sample, speakers = embeddings_of()
    order = np.random.default_rng(0).permutation(len(sample))
    there, shuffled = fit_projections(sample, speakers, 3), fit_projections(sample[order], speakers[order], 3)
    names = ["truncation", "random projection", "PCA", "centred PCA", "LDA"]
    assert [projection.name for projection in there] == names
    for one, other in zip(there, shuffled, strict=True):
        np.testing.assert_allclose(one.basis, other.basis, atol=1e-8)


def test_rows_are_projected_a_chunk_at_a_time_to_the_same_numbers(monkeypatch):
    sample, speakers = embeddings_of()
    whole = [projection.apply(sample) for projection in fit_projections(sample, speakers, 0)]
    monkeypatch.setattr(projections, "_ROWS", 7)
    for projection, expected in zip(fit_projections(sample, speakers, 0), whole, strict=True):
        np.testing.assert_allclose(projection.apply(sample), expected, atol=1e-6)


def test_an_embedding_of_zeros_stays_finite():
    sample, speakers = embeddings_of()
    for projection in fit_projections(sample, speakers, 0):
        assert np.isfinite(projection.apply(np.zeros((1, 12), dtype=np.float32))).all()
