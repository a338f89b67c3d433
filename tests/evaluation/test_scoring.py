"""Prefix scores against a plain loop over trials and prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from mrl.evaluation import scoring
from mrl.evaluation.scoring import prefix_scores


def plain_scores(embeddings, enrolment, test, dims):
    scores = np.empty((len(dims), len(enrolment)))
    for k, dim in enumerate(dims):
        for n, (first, second) in enumerate(zip(enrolment, test, strict=True)):
            a, b = embeddings[first, :dim].astype(float), embeddings[second, :dim].astype(float)
            scores[k, n] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return scores


@pytest.mark.parametrize("dims", [[64, 128, 192, 256], [1, 2, 3], [256]])
def test_equals_the_plain_loop(dims, monkeypatch):
    monkeypatch.setattr(scoring, "_CHUNK_NUMBERS", 7 * dims[-1])  # several chunks, the last one short
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(12, 256)).astype(np.float32)
    enrolment, test = rng.integers(0, 12, (2, 50)).astype(np.int32)
    scores = prefix_scores(embeddings, enrolment, test, dims)
    np.testing.assert_allclose(scores, plain_scores(embeddings, enrolment, test, dims), atol=1e-12)


def test_by_hand():
    embeddings = np.array([[3.0, 4.0, 0.0], [4.0, 3.0, 5.0]], dtype=np.float32)
    first, second = np.array([0], dtype=np.int32), np.array([1], dtype=np.int32)
    scores = prefix_scores(embeddings, first, second, [1, 2, 3])
    np.testing.assert_allclose(scores[:, 0], [1.0, 24 / 25, 24 / (5 * np.sqrt(50))])


def test_a_zero_prefix_scores_zero():
    embeddings = np.array([[0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
    index = np.array([0], dtype=np.int32)
    assert prefix_scores(embeddings, index, index + 1, [1])[0, 0] == 0.0


@pytest.mark.parametrize("dims", [[0, 2], [2, 1], [4], [1, 1]])
def test_prefixes_must_ascend_and_fit(dims):
    index = np.array([0], dtype=np.int32)
    with pytest.raises(ValueError, match=r"must ascend within 1\.\.3"):
        prefix_scores(np.ones((2, 3), dtype=np.float32), index, index, dims)
