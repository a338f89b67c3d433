"""Grids of precision and duration: what is stored, by hand, and EERs against the plain path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.evaluation import grids
from mrl.evaluation.grids import (
    duration_grid,
    precision_grid,
    stored_binary,
    stored_float16,
    stored_int8,
)
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.scoring import prefix_scores

SPEAKERS = np.repeat(np.arange(20), 5)
WIDTH = 24


def vectors_of(seed=0, noise=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(20, WIDTH))[SPEAKERS] + noise * rng.normal(size=(len(SPEAKERS), WIDTH))
    return (rows + offset).astype(np.float32)


def all_trials():
    enrolment, test = np.triu_indices(len(SPEAKERS), 1)
    return enrolment.astype(np.int32), test.astype(np.int32), SPEAKERS[enrolment] == SPEAKERS[test]


def test_stored_numbers_by_hand():
    unit = np.float32([[0.6, -0.8, 0.0], [0.1, 0.25, -0.5]])
    np.testing.assert_array_equal(stored_int8(unit), [[95, -127, 0], [25, 64, -127]])
    np.testing.assert_array_equal(stored_binary(unit), [[1, -1, 1], [1, 1, -1]])
    np.testing.assert_array_equal(stored_float16(np.float32([[1 + 2**-12]])), [[1.0]])
    np.testing.assert_array_equal(stored_int8(np.zeros((1, 3), np.float32)), np.zeros((1, 3)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=40).filter(
        lambda row: max(map(abs, row)) > 0.01
    )
)
def test_int8_is_off_by_half_a_step(row):
    unit = np.float32([row]) / np.float32(np.linalg.norm(row))
    step = np.abs(unit).max() / 127
    assert np.abs(stored_int8(unit) * step - unit).max() <= 0.5001 * step


def test_bytes_per_speaker_by_hand():
    grid = precision_grid(vectors_of(), *all_trials(), [7, 24])
    assert grid.rows == ("float32", "float16", "int8", "binary")
    assert grid.bytes_per_speaker == ((28, 96), (14, 48), (7, 24), (1, 3))


def test_float32_is_the_plain_eer_and_fewer_bits_come_close():
    vectors, (enrolment, test, labels) = vectors_of(noise=1.5), all_trials()
    grid = precision_grid(vectors, enrolment, test, labels, [8, 24])
    scores = prefix_scores(vectors, enrolment, test, [8, 24])
    plain = [equal_error_rate(row, labels).rate for row in scores]
    assert grid.eers[0] == pytest.approx(plain, abs=1e-3)
    assert grid.eers[1] == pytest.approx(plain, abs=2e-3)
    assert grid.eers[2] == pytest.approx(plain, abs=1e-2)
    assert grid.eers[3][1] > plain[1] + 0.01  # what bits lose is seen


def test_binary_is_the_hamming_distance():
    vectors, (enrolment, test, labels) = vectors_of(noise=1.5), all_trials()
    grid = precision_grid(vectors, enrolment, test, labels, [9])
    bits = vectors[:, :9] >= 0
    similar = np.array(
        [9 - np.count_nonzero(bits[a] ^ bits[b]) for a, b in zip(enrolment, test, strict=True)]
    )
    assert grid.eers[3][0] == pytest.approx(equal_error_rate(similar, labels).rate, abs=1e-12)


def test_signs_about_the_cohorts_mean_are_better_where_the_mean_is_large():
    vectors, cohort = vectors_of(offset=2.0), vectors_of(1, offset=2.0)
    grid = precision_grid(vectors, *all_trials(), [WIDTH], cohort=cohort)
    assert grid.rows[-1] == "binary, centred"
    assert grid.bytes_per_speaker[-1] == (3,)
    assert grid.eers[4][0] < 0.6 * grid.eers[3][0]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = (cohort / np.linalg.norm(cohort, axis=1, keepdims=True)).mean(0)
    signs = np.where(unit > mean, 1, -1).astype(np.float32)
    enrolment, test, labels = all_trials()
    by_hand = equal_error_rate(prefix_scores(signs, enrolment, test, [WIDTH])[0], labels).rate
    assert grid.eers[4][0] == pytest.approx(by_hand, abs=1e-12)


def test_prefixes_are_normalised_a_chunk_at_a_time_to_the_same_numbers(monkeypatch):
    whole = precision_grid(vectors_of(), *all_trials(), [8], cohort=vectors_of(1))
    monkeypatch.setattr(grids, "_ROWS", 7)
    assert precision_grid(vectors_of(), *all_trials(), [8], cohort=vectors_of(1)) == whole


def test_only_the_test_side_is_cut():
    whole, second = vectors_of(), vectors_of(noise=3.0)
    enrolment, test, labels = all_trials()
    grid = duration_grid({2.0: second, None: whole, 0.5: -second}, enrolment, test, labels, [8, 24])
    assert (grid.rows, grid.dims, grid.bytes_per_speaker) == (("0.5 s", "2 s", "full"), (8, 24), None)
    for column, dim in enumerate(grid.dims):
        unit, cut = (
            rows[:, :dim] / np.linalg.norm(rows[:, :dim], axis=1)[:, None] for rows in (whole, second)
        )
        cosines = (unit[enrolment] * cut[test]).sum(1)
        assert grid.eers[1][column] == pytest.approx(equal_error_rate(cosines, labels).rate, abs=1e-3)
        assert grid.eers[0][column] == pytest.approx(equal_error_rate(-cosines, labels).rate, abs=1e-3)
    plain = prefix_scores(whole, enrolment, test, [8, 24])
    assert grid.eers[2] == tuple(equal_error_rate(row, labels).rate for row in plain)


def test_recordings_that_no_trial_tests_need_no_cut_embedding():
    whole, cut = vectors_of(), vectors_of()
    enrolment, test, labels = all_trials()
    cut[: test.min()] = np.nan
    grid = duration_grid({1.0: cut, None: whole}, enrolment, test, labels, [24])
    assert grid.eers[0] == grid.eers[1]


def test_durations_without_whole_recordings_are_refused():
    with pytest.raises(ValueError, match="whole recordings"):
        duration_grid({1.0: vectors_of()}, *all_trials(), [24])
