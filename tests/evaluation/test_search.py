"""The shortlist search on a few thousand vectors: what is made, what is found, against plain dot products."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mrl.errors import DataError, MRLError
from mrl.evaluation import search
from mrl.evaluation.search import (
    SpeakerModel,
    made_gallery,
    require_faiss,
    rerank,
    search_work,
    shortlist_search,
    speaker_model,
)

SPEAKERS = np.repeat(np.arange(40), 5)
WIDTH = 24


def real_vectors(within=0.5, seed=0):
    rng = np.random.default_rng(seed)
    loud = np.linspace(1.5, 0.5, WIDTH)
    rows = loud * rng.normal(size=(40, WIDTH))[SPEAKERS] + within * rng.normal(size=(len(SPEAKERS), WIDTH))
    return (7 * rows).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cosine_within(vectors, speakers):
    """The mean cosine of two recordings of one speaker."""
    cosines = unit(vectors) @ unit(vectors).T
    return cosines[(speakers[:, None] == speakers) & ~np.eye(len(speakers), dtype=bool)].mean()


def test_the_model_by_hand():
    # Speaker a: (0.6, 0) on average, 0.8 to either side in the second number. Speaker b: (0, 1), recorded once.
    model = speaker_model(np.float32([[3, 4], [3, -4], [0, 2]]), ["a", "a", "b"])
    np.testing.assert_allclose(model.within @ model.within.T, [[0, 0], [0, 2 * 0.8**2]], atol=1e-6)
    np.testing.assert_allclose(model.mean, [0.3, 0.5], atol=1e-6)
    # The noise left in the means, 1.28 (1/2 + 1) / 2, is more than the 0.34 that they differ by: nothing is B's.
    np.testing.assert_allclose(model.centres, [[0.3, 0.5]] * 2, atol=1e-6)
    np.testing.assert_allclose(model.between, 0, atol=1e-6)


def test_centres_are_drawn_together_by_the_noise_left_in_their_means():
    # Means (0.96, 0) and (0, 0.96), each recording 0.28 to the side: W has the trace 4 * 0.28^2 / 2, its half is left.
    rows = np.float32([[0.96, 0, 0.28], [0.96, 0, -0.28], [0, 0.96, 0.28], [0, 0.96, -0.28]])
    model = speaker_model(rows, [0, 0, 1, 1])
    spread, left = 0.48**2 * 2, 0.28**2
    shrunk = 0.48 * np.sqrt((spread - left) / spread)
    np.testing.assert_allclose(model.centres[0], [0.48 + shrunk, 0.48 - shrunk, 0], atol=1e-6)
    np.testing.assert_allclose(np.trace(model.between @ model.between.T), spread - left, atol=1e-6)


@pytest.mark.parametrize("speakers", [[0, 1, 2], [0, 0, 0]])
def test_too_few_speakers_or_recordings_are_refused(speakers):
    with pytest.raises(DataError, match="needs two speakers, and two recordings of one"):
        speaker_model(np.eye(3, dtype=np.float32), speakers)


@pytest.mark.parametrize("each", [2, 5, 20])
@pytest.mark.parametrize("within", [0.3, 0.7, 1.2])
def test_a_query_is_as_close_to_its_enrolled_vector_as_real_recordings_are(within, each):
    rng = np.random.default_rng(each)
    speakers, width = np.repeat(np.arange(60), each), 48
    centres = 0.3 + np.linspace(1.5, 0.5, width) * rng.normal(size=(60, width))
    vectors = centres[speakers] + within * np.linspace(0.5, 1.5, width) * rng.normal(
        size=(len(speakers), width)
    )
    enrolled, queries, own = made_gallery(speaker_model(vectors.astype(np.float32), speakers), 3000, 2000, 0)
    real = cosine_within(vectors, speakers)
    assert (queries * enrolled[own]).sum(1).mean() == pytest.approx(real, abs=0.03)
    strangers = (queries * enrolled[(own + 1) % 3000]).sum(1).mean()
    different = (unit(vectors) @ unit(vectors).T)[speakers[:, None] != speakers].mean()
    assert strangers == pytest.approx(different, abs=0.03)
    assert strangers < real - 0.2


def without_noise(model):
    return model._replace(within=np.zeros_like(model.within))


def test_made_speakers_are_the_real_ones_and_then_others(monkeypatch):
    model, told = speaker_model(real_vectors(), SPEAKERS), []
    monkeypatch.setattr(search, "_CHUNK", 30)  # the real speakers end within the second chunk
    enrolled, queries, own = made_gallery(without_noise(model), 100, 500, 0, told.append)
    np.testing.assert_allclose(enrolled[:40], unit(model.centres), atol=1e-6)
    assert told == [30, 30, 30, 10]
    cosines = enrolled @ enrolled.T - 2 * np.eye(100)
    assert cosines.max() < 0.95
    np.testing.assert_allclose(queries, enrolled[own], atol=1e-6)
    assert set(own) == set(range(100))


def test_made_speakers_and_recordings_have_the_measured_covariances():
    model = speaker_model(real_vectors(), SPEAKERS)
    far = np.float32([1000] + [0] * (WIDTH - 1))  # so far out that the length hardly changes
    found = SpeakerModel(np.empty((0, WIDTH), np.float32), far, model.between, model.within)
    enrolled, queries, own = (
        part * scale
        for part, scale in zip(made_gallery(found, 60_000, 60_000, 0), (1000, 1000, 1), strict=True)
    )
    between, within = (factor @ factor.T for factor in (model.between, model.within))
    np.testing.assert_allclose(np.cov(enrolled[:, 1:].T), (between + within)[1:, 1:], atol=0.003)
    differences = queries - enrolled[own]
    np.testing.assert_allclose(np.cov(differences[:, 1:].T), 2 * within[1:, 1:], atol=0.003)


def test_what_is_made_depends_on_the_seed():
    model = speaker_model(real_vectors(), SPEAKERS)
    one, same, other = (made_gallery(model, 50, 9, seed) for seed in (0, 0, 1))
    for part, again in zip(one, same, strict=True):
        np.testing.assert_array_equal(part, again)
    assert not np.allclose(one.enrolled, other.enrolled)
    assert not np.allclose(one.queries, other.queries)


def test_reranking_by_hand():
    everyone = np.float32([[1, 0], [0, 1], [0.6, 0.8], [0, 1]])
    queries = np.float32([[1, 0], [0, 1], [0, 1]])
    candidates = np.array(
        [[1, 2, 1], [0, 2, -1], [-1, 0, -1]]
    )  # -1 would be the last vector, which is the nearest
    assert rerank(everyone, queries, candidates).tolist() == [2, 2, 0]


def plain_recall(vectors, small_dim, enrolled, shortlist, queries):
    everyone, asked, _ = made_gallery(speaker_model(vectors, SPEAKERS), enrolled, queries, 3)
    short, asked_short = (unit(rows[:, :small_dim]) for rows in (everyone, asked))
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
