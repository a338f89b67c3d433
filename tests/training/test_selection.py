"""Which epoch is best: harm at full size comes first, then the criterion."""

from __future__ import annotations

import pytest

from mrl.config import CheckpointConfig, ValidationConfig
from mrl.evaluation.report import result_metrics
from mrl.evaluation.verification import PrefixResult, VerificationResult
from mrl.training.selection import (
    Gain,
    Rank,
    choosing,
    eer_at,
    full_size_eer,
    gains,
    guard_excess,
    mean_eer,
    rank,
)


def result(name: str, **eers: float) -> VerificationResult:
    prefixes = tuple(PrefixResult(int(dim[1:]), eer, 0.5, {0.01: 0.1}, 0.2, 0) for dim, eer in eers.items())
    return VerificationResult(name, 10, 5, 4, 0.0, prefixes)


RESULTS = [result("a", d8=0.10, d16=0.04), result("b", d8=0.06, d16=0.02)]


def test_means_by_hand():
    assert mean_eer(RESULTS) == pytest.approx(0.055)
    assert eer_at(RESULTS, 8) == pytest.approx(0.08)
    assert full_size_eer(RESULTS) == pytest.approx(0.03)


def test_criterion_and_tolerance():
    assert rank(RESULTS, CheckpointConfig(), 0.03) == Rank(0.0, pytest.approx(0.055))
    assert rank(RESULTS, CheckpointConfig(select_by="eer_8"), 0.03) == Rank(0.0, pytest.approx(0.08))
    assert rank(RESULTS, CheckpointConfig(), 0.02).excess == pytest.approx(0.01)
    assert rank(RESULTS, CheckpointConfig(full_size_tolerance=1.0), 0.02).excess == 0.0
    assert rank(RESULTS, CheckpointConfig(full_size_tolerance=0.4), 0.02).excess == pytest.approx(0.006)


def test_an_epoch_that_harms_never_beats_one_that_does_not():
    pretrained = rank([result("a", d8=0.30, d16=0.04)], CheckpointConfig(), 0.04)
    harmful = rank([result("a", d8=0.01, d16=0.05)], CheckpointConfig(), 0.04)
    helpful = rank([result("a", d8=0.20, d16=0.04)], CheckpointConfig(), 0.04)
    assert helpful < pretrained < harmful


LISTS = ValidationConfig(
    lists=[
        {"name": "new", "root": "n"},
        {"name": "old", "root": "o", "guard": True, "tolerance": 0.5},
        {"name": "older", "root": "o", "guard": True},
    ]
)
START = [
    result("new", d8=0.30, d16=0.20),
    result("old", d8=0.04, d16=0.02),
    result("older", d8=0.06, d16=0.04),
]


def later(old: float, older: float) -> list[VerificationResult]:
    """New gains; the mean EERs of the guards are ``old`` and ``older``."""
    return [
        result("new", d8=0.20, d16=0.15),
        result("old", d8=old + 0.01, d16=old - 0.01),
        result("older", d8=older, d16=older),
    ]


def test_guards_do_not_choose():
    assert [entry.name for entry in choosing(START, LISTS)] == ["new"]
    assert mean_eer(choosing(START, LISTS)) == pytest.approx(0.25)


def test_the_worst_guard_counts_by_hand():
    start = {**result_metrics(START), "mean_eer": 0.25, "stage": "pretrained"}
    assert guard_excess(START, start, LISTS) == 0.0
    assert guard_excess(later(0.034, 0.05), start, LISTS) == 0.0  # 0.4 points worse, 0.5 are tolerated
    assert guard_excess(later(0.037, 0.05), start, LISTS) == pytest.approx(0.002)
    assert guard_excess(later(0.037, 0.06), start, LISTS) == pytest.approx(0.01)
    assert guard_excess(later(0.02, 0.04), start, LISTS) == 0.0
    no_guards = ValidationConfig(lists=[{"name": "new", "root": "n"}])
    assert guard_excess(later(0.9, 0.9)[:1], start, no_guards) == 0.0


def test_an_epoch_beyond_a_guard_never_beats_one_within():
    start = result_metrics(START)

    def place(results: list[VerificationResult]) -> Rank:
        guarded = guard_excess(results, start, LISTS)
        return rank(choosing(results, LISTS), CheckpointConfig(), 0.20, guarded)

    assert place(later(0.03, 0.05)) < place(START) < place(later(0.03, 0.06))
    assert place(later(0.03, 0.06)) == Rank(pytest.approx(0.01), pytest.approx(0.175))
    worse_at_full_size = rank(choosing(START, LISTS), CheckpointConfig(), 0.15, 0.01)
    assert worse_at_full_size.excess == pytest.approx(0.05)


def test_gains_are_points_below_the_start():
    told = gains(later(0.03, 0.06), result_metrics(START), LISTS)
    assert [entry[:2] for entry in told] == [("new", False), ("old", True), ("older", True)]
    assert told[0] == Gain("new", False, {8: pytest.approx(10.0), 16: pytest.approx(5.0)})
    assert told[2].points == {8: pytest.approx(0.0), 16: pytest.approx(-2.0)}
