"""Baselines: what each is scored at, and that its numbers are those of a direct evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from mrl.evaluation import baselines as module
from mrl.evaluation.baselines import FULL_SIZE, Resampling, baselines
from mrl.evaluation.bootstrap import TrialSpeakers, bootstrap_eers, interval
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.projections import fit_projections
from mrl.evaluation.scoring import prefix_scores

WIDTH = 10
SPEAKERS = np.repeat(np.arange(12), 4)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(12, WIDTH))[SPEAKERS] + rng.normal(size=(48, WIDTH))).astype(np.float32)


@pytest.fixture(scope="module")
def trials():
    enrolment, test = np.triu_indices(len(SPEAKERS), 1)
    return enrolment, test, SPEAKERS[enrolment] == SPEAKERS[test]


def test_each_is_scored_at_the_prefixes_that_it_has(vectors, trials):
    found = baselines(
        vectors,
        *trials,
        [2, 4, 10, 16],
        projections=fit_projections(
            vectors[:12], SPEAKERS[:12], 0
        ),  # of three speakers: LDA has 2 directions
        others={"warm start": np.hstack([vectors, np.zeros((48, 6), np.float32)]), "short": vectors[:, :3]},
    )
    assert {baseline.name: baseline.dims for baseline in found} == {
        FULL_SIZE: (10,),
        "truncation": (2, 4, 10),
        "random projection": (2, 4, 10),
        "PCA": (2, 4, 10),
        "centred PCA": (2, 4, 10),
        "LDA": (2,),
        "warm start": (2, 4, 10, 16),
        "short": (2,),
    }
    assert all(baseline.intervals == (None,) * len(baseline.dims) for baseline in found)


def test_what_keeps_cosines_has_the_released_eer_at_full_size(vectors, trials):
    found = baselines(vectors, *trials, [10], projections=fit_projections(vectors, SPEAKERS, 0))
    eers = {baseline.name: baseline.eers[-1] for baseline in found}
    released = equal_error_rate(prefix_scores(vectors, *trials[:2], [10])[0], trials[2]).rate
    for name in (FULL_SIZE, "truncation", "random projection", "PCA"):
        assert eers[name] == pytest.approx(released, abs=1e-9)


def test_truncation_is_a_prefix_of_the_released_embedding(vectors, trials):
    projection = fit_projections(vectors, SPEAKERS, 0)[:1]
    found = baselines(vectors, *trials, [3, 5], projections=projection)[1]
    rows = prefix_scores(vectors, *trials[:2], [3, 5])
    assert found.eers == tuple(equal_error_rate(row, trials[2]).rate for row in rows)


def test_one_left_with_no_prefix_is_left_out(vectors, trials):
    found = baselines(
        vectors, *trials, [16], projections=fit_projections(vectors, SPEAKERS, 0), others={"x": vectors}
    )
    assert [baseline.name for baseline in found] == [FULL_SIZE]


def test_intervals_are_of_the_resamples_of_any_other_system(vectors, trials):
    enrolment, test, labels = trials
    speakers = TrialSpeakers(SPEAKERS[enrolment], SPEAKERS[test], 12)
    found = baselines(
        vectors,
        *trials,
        [4],
        others={"itself": vectors},
        resampling=Resampling(speakers, seed=5, resamples=40, confidence=0.9),
    )
    rows = bootstrap_eers(
        prefix_scores(vectors, enrolment, test, [4, 10]), labels, speakers, seed=5, resamples=40
    )
    assert found[1].intervals == (interval(rows[0], 0.9),)
    assert found[0].intervals == (interval(rows[1], 0.9),)


@pytest.mark.parametrize(
    ("limit", "calls"), [({}, [9]), ({"_MOST_SYSTEMS": 4}, [4, 4, 1]), ({"_MOST_BYTES": 1}, [1] * 9)]
)
def test_all_are_resampled_together_as_far_as_memory_allows(vectors, trials, monkeypatch, limit, calls):
    enrolment, test, labels = trials
    for name, value in limit.items():
        monkeypatch.setattr(module, name, value)
    asked = []

    def counted(scores, *args, **kwargs):
        asked.append(len(scores))
        return bootstrap_eers(scores, *args, **kwargs)

    monkeypatch.setattr(module, "bootstrap_eers", counted)
    others = {"a": vectors, "short": vectors[:, :4], "b": vectors[:, ::-1]}
    speakers = TrialSpeakers(SPEAKERS[enrolment], SPEAKERS[test], 12)
    found = baselines(
        vectors, *trials, [2, 4, 10], others=others, resampling=Resampling(speakers, 5, 20, 0.9)
    )
    assert asked == calls
    for baseline, of_vectors in zip(found, [vectors, *others.values()], strict=True):
        rows = prefix_scores(of_vectors, enrolment, test, baseline.dims)
        alone = [bootstrap_eers(row, labels, speakers, seed=5, resamples=20)[0] for row in rows]
        assert baseline.intervals == tuple(interval(rates, 0.9) for rates in alone)
