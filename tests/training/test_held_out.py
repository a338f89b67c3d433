"""When a run is said to learn by heart."""

from __future__ import annotations

import pytest

from mrl.training.held_out import overfitting_warning


def record(gap: float, eer: float) -> dict[str, float]:
    return {"held_out/gap": gap, "mean_eer": eer}


def test_a_growing_gap_with_a_rising_eer_is_said():
    said = overfitting_warning(record(0.5, 0.10), record(0.75, 0.12))
    assert said is not None
    assert "0.500 -> 0.750" in said
    assert "10.00 -> 12.00 %" in said


@pytest.mark.parametrize(("gap", "eer"), [(0.75, 0.10), (0.75, 0.08), (0.5, 0.12), (0.4, 0.12)])
def test_either_alone_is_not(gap, eer):
    assert overfitting_warning(record(0.5, 0.10), record(gap, eer)) is None


def test_without_held_out_utterances_nothing_is_said():
    assert overfitting_warning({"mean_eer": 0.1}, {"mean_eer": 0.2}) is None
