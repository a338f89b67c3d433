"""Which epoch is best: harm at full size comes first, then the criterion."""

from __future__ import annotations

import pytest

from mrl.config import CheckpointConfig
from mrl.evaluation.verification import PrefixResult, VerificationResult
from mrl.training.selection import Rank, eer_at, full_size_eer, mean_eer, rank


def result(name: str, **eers: float) -> VerificationResult:
    prefixes = tuple(PrefixResult(int(dim[1:]), eer, 0.5, {0.01: 0.1}) for dim, eer in eers.items())
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
