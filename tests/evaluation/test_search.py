"""The shortlist search on a few thousand vectors: what is made, what is found, against plain dot products."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mrl.errors import DataError, MRLError
from mrl.evaluation import search
from mrl.evaluation.search import (
    enrolled_vectors,
    query_vectors,
    require_faiss,
    rerank,
    search_work,
    shortlist_search,
    within_speaker_noise,
)

SPEAKERS = np.repeat(np.arange(40), 5)
WIDTH = 24


def real_vectors(within=0.5, seed=0):
    rng = np.random.default_rng(seed)
    loud = np.linspace(1.5, 0.5, WIDTH)
    rows = loud * rng.normal(size=(40, WIDTH))[SPEAKERS] + within * rng.normal(size=(len(SPEAKERS), WIDTH))
    return (7 * rows).astype(np.float32)


def test_noise_by_hand():
    # About each speaker's mean (0.6, 0) and (0, 1): 0.8 to either side in the second number; three vectors of two.
    vectors = np.float32([[3, 4], [3, -4], [0, 2]])
    factor = within_speaker_noise(vectors, ["a", "a", "b"])
    np.testing.assert_allclose(factor @ factor.T, [[0, 0], [0, 2 * 0.8**2]], atol=1e-6)


def test_one_recording_of_each_speaker_says_nothing_of_noise():
    with pytest.raises(DataError, match="needs two recordings of one speaker"):
        within_speaker_noise(np.eye(3, dtype=np.float32), [0, 1, 2])


def test_enrolled_vectors_lie_around_the_real_ones(monkeypatch):
    vectors, told = real_vectors(), []
    monkeypatch.setattr(search, "_CHUNK", 300)
    nowhere = enrolled_vectors(vectors, np.zeros((WIDTH, WIDTH), np.float32), 450, 0, told.append)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(nowhere, unit[np.arange(450) % 200], atol=1e-6)
    assert told == [300, 150]
    moved = enrolled_vectors(vectors, within_speaker_noise(vectors, SPEAKERS), 450, 0)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    assert 0.5 < np.mean((moved * nowhere).sum(1)) < 0.98
    assert len(np.unique(moved[:, 0])) == 450


def test_noise_has_the_measured_covariance():
    factor = within_speaker_noise(real_vectors(), SPEAKERS)
    centre = np.float32([[1000] + [0] * (WIDTH - 1)])  # so far out that the length hardly changes
    moved = query_vectors(np.repeat(centre, 4, 0), factor, 60_000, 0) * 1000
    np.testing.assert_allclose(np.cov(moved[:, 1:].T), (factor @ factor.T)[1:, 1:], atol=0.002)


def test_what_is_made_depends_on_the_seed():
    vectors = real_vectors()
    factor = within_speaker_noise(vectors, SPEAKERS)
    one, same, other = (enrolled_vectors(vectors, factor, 50, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert not np.allclose(query_vectors(one, factor, 9, 0), query_vectors(one, factor, 9, 1))


def test_reranking_by_hand():
    everyone = np.float32([[1, 0], [0, 1], [0.6, 0.8], [0, 1]])
    queries = np.float32([[1, 0], [0, 1], [0, 1]])
    candidates = np.array(
        [[1, 2, 1], [0, 2, -1], [-1, 0, -1]]
    )  # -1 would be the last vector, which is the nearest
    assert rerank(everyone, queries, candidates).tolist() == [2, 2, 0]


def plain_recall(vectors, small_dim, enrolled, shortlist, queries):
    everyone = enrolled_vectors(vectors, within_speaker_noise(vectors, SPEAKERS), enrolled, 3)
    asked = query_vectors(everyone, within_speaker_noise(vectors, SPEAKERS), queries, 3)
    short, asked_short = (
        rows[:, :small_dim] / np.linalg.norm(rows[:, :small_dim], axis=1)[:, None]
        for rows in (everyone, asked)
    )
    listed = np.argsort(-asked_short @ short.T, axis=1)[:, :shortlist]
    nearest = (asked @ everyone.T).argmax(1)
    return np.mean((listed == nearest[:, None]).any(1))


@pytest.mark.parametrize(("small_dim", "shortlist"), [(4, 5), (8, 20), (12, 100)])
def test_recall_is_that_of_plain_dot_products(small_dim, shortlist):
    pytest.importorskip("faiss")
    found = shortlist_search(
        real_vectors(), SPEAKERS, small_dim, enrolled=3000, shortlist=shortlist, seed=3, queries=250
    )
    recall = {point.method: point.recall for point in found}
    expected = plain_recall(real_vectors(), small_dim, 3000, shortlist, 250)
    assert recall["exact"] == 1.0
    assert recall["float32"] == pytest.approx(expected, abs=0.005)
    assert recall["int8"] == pytest.approx(expected, abs=0.03)
    assert recall["int8, 1 of 55 cells"] <= recall["int8"] + 0.01


def test_points_say_what_was_searched_and_with_how_much_memory():
    pytest.importorskip("faiss")
    told = []
    found = shortlist_search(
        real_vectors(), SPEAKERS, 8, enrolled=2000, shortlist=10, seed=0, queries=120, advance=told.append
    )
    assert sum(told) == search_work(2000, 120)
    exact, flat, int8, inverted = found
    assert (exact.enrolled, exact.small_dim, exact.full_dim, exact.shortlist) == (2000, 8, WIDTH, 0)
    assert flat.shortlist == 10
    assert exact.megabytes == pytest.approx(2000 * 24 * 4 / 1e6)
    assert flat.megabytes == pytest.approx(2000 * (24 + 8) * 4 / 1e6)
    assert int8.megabytes == pytest.approx(2000 * (24 * 4 + 8) / 1e6)
    assert inverted.megabytes == pytest.approx((2000 * (24 * 4 + 8 + 8) + 45 * 8 * 4) / 1e6)
    assert all(point.queries_per_second > 0 for point in found)


def test_a_shortlist_of_everybody_misses_nobody():
    pytest.importorskip("faiss")
    found = shortlist_search(real_vectors(), SPEAKERS, 2, enrolled=150, shortlist=1000, seed=0, queries=60)
    assert [point.recall for point in found[:3]] == [1.0, 1.0, 1.0]
    assert found[1].shortlist == 150


def test_a_missing_library_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (
        require_faiss,
        lambda: shortlist_search(real_vectors(), SPEAKERS, 8, enrolled=9, shortlist=3, seed=0),
    ):
        with pytest.raises(MRLError, match=r"needs the library faiss.*uv sync --extra search"):
            call()
