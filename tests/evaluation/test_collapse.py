"""Collapsed embeddings are said to be so; those of sound networks and of tiny lists are not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.trials import Trial, TrialList, read_trials
from mrl.evaluation.collapse import COLLAPSED_DEGREES, collapse_warnings, degrees_between
from mrl.evaluation.embedding import embed_utterances
from mrl.evaluation.verification import score_list
from mrl.models.pretrained import build_released, load_released
from tests.conftest import TINY

TRIALS = TrialList.from_trials(
    "made",
    Path(),
    [
        Trial(True, "a/1", "a/2"),
        Trial(True, "b/1", "b/2"),
        Trial(False, "a/1", "b/1"),
        Trial(False, "a/2", "b/2"),
    ],
)


def scored(embeddings, dims=(2, 4)):
    return score_list(np.asarray(embeddings, dtype=np.float32), TRIALS, dims)


@settings(max_examples=60, deadline=None)
@given(
    vector=st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4).filter(
        lambda v: abs(v[0]) > 1e-3
    ),
    lengths=st.lists(st.floats(0.125, 1e3, width=32), min_size=4, max_size=4),
)
def test_equal_directions_have_collapsed_whatever_their_lengths(vector, lengths):
    result = scored(np.outer(np.asarray(lengths), np.asarray(vector)))
    (warning,) = collapse_warnings([result])
    assert "COLLAPSED" in warning
    assert " at 2, " in warning
    assert " at 4 " in warning
    assert result.full_size.between_speakers == pytest.approx(1.0, abs=1e-6)


def test_equal_vectors_score_an_eer_of_a_half():
    result = scored(np.ones((4, 4)))
    assert [prefix.eer for prefix in result.prefixes] == [0.5, 0.5]


@pytest.mark.parametrize(("share", "collapsed"), [(0.98, True), (1.02, False)])
def test_the_threshold_is_an_angle_between_speakers(share, collapsed):
    angle = math.radians(share * COLLAPSED_DEGREES)
    one, other = [1.0, 0.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0, 0.0]
    result = scored([one, one, other, other])  # in the order of the list: a/1, a/2, b/1, b/2
    assert degrees_between(result.full_size.between_speakers) == pytest.approx(
        share * COLLAPSED_DEGREES, rel=1e-3
    )
    assert bool(collapse_warnings([result])) is collapsed


def test_one_collapsed_prefix_is_named_alone():
    embeddings = np.concatenate([np.ones((4, 2)), 5.0 * np.eye(4)[:, :2] + np.eye(4)[:, 2:]], axis=1)
    (warning,) = collapse_warnings([scored(embeddings)])
    assert " at 2 apart" in warning
    assert " at 4" not in warning


def test_a_prefix_of_one_number_has_no_direction_to_lose():
    assert not collapse_warnings([scored(np.abs(np.random.default_rng(0).normal(size=(4, 4))), dims=(1, 4))])


def test_embeddings_of_zeros_are_counted_and_score_0():
    embeddings = np.random.default_rng(0).normal(size=(4, 4))
    embeddings[1] = 0.0
    embeddings[2, :2] = 0.0
    result = scored(embeddings)
    assert [prefix.num_zero for prefix in result.prefixes] == [2, 1]
    (warning,) = collapse_warnings([result])
    assert "of 4 embeddings, some are ALL ZERO, which scores 0 with everything: 2 at 2, 1 at 4" in warning
    nothing = scored(np.zeros((4, 4)))
    assert nothing.full_size.eer == 0.5
    assert "ALL ZERO" in collapse_warnings([nothing])[0]


def test_no_false_alarm_on_real_speech(speech):
    """The demo's encoder, and random weights, whose embeddings all point nearly the same way."""
    trials = read_trials(speech / "trials/val_trials.txt", speech / "val")
    few = trials.utterances[:14]
    rows = {name: row for row, name in enumerate(few)}
    kept = [trial for trial in trials.trials() if trial.enrolment in rows and trial.test in rows]
    short = TrialList.from_trials("few", trials.root, kept)
    for model, dims in (
        (load_released("configs/demo_encoder.pt"), (4, 16, 64)),
        (build_released(TINY, seed=1).eval(), (2, 8, 24)),
    ):
        paths = [short.root / name for name in short.utterances]
        result = score_list(embed_utterances(model, paths, max_seconds=1.5), short, dims)
        assert not collapse_warnings([result])
        closest = min(degrees_between(prefix.between_speakers) for prefix in result.prefixes)
        assert closest > 3 * COLLAPSED_DEGREES
