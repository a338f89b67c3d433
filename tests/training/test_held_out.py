"""When a run is said to learn by heart."""

from __future__ import annotations

import pytest

from mrl.training.held_out import describe_held_out, overfitting_warning


def record(gap: float, eer: float, **more: str) -> dict:
    return {"held_out/gap": gap, "mean_eer": eer, **more}


START = record(3.0, 0.05)  # epoch 0, whose class vectors are means of training utterances


def test_a_growing_gap_with_a_rising_eer_is_said():
    said = overfitting_warning([START, record(0.5, 0.10), record(0.75, 0.12)])
    assert said is not None
    assert "0.500 -> 0.750" in said
    assert "10.00 -> 12.00 %" in said


@pytest.mark.parametrize(("gap", "eer"), [(0.75, 0.10), (0.75, 0.08), (0.5, 0.12), (0.4, 0.12)])
def test_either_alone_is_not(gap, eer):
    assert overfitting_warning([START, record(0.5, 0.10), record(gap, eer)]) is None


def test_epoch_0_and_means_of_epochs_do_not_count():
    assert overfitting_warning([record(0.1, 0.05), record(0.5, 0.10)]) is None
    mean = record(0.75, 0.12, average_of="1, 2")
    assert overfitting_warning([START, record(0.4, 0.11), record(0.5, 0.10), mean]) is None
    assert overfitting_warning([START, record(0.5, 0.10), mean, record(0.6, 0.11)]) is not None


def test_without_held_out_utterances_nothing_is_said():
    history = [{"mean_eer": 0.1}, {"mean_eer": 0.2}, {"mean_eer": 0.3}]
    assert overfitting_warning(history) is None
    assert describe_held_out(history[0], [8]) is None


def test_the_line_names_both_sides():
    values = {"held_out/gap": 1.0, "held_out/loss_16": 2.5, "held_out/accuracy_16": 0.8}
    values |= {"train_sample/loss_16": 1.5, "train_sample/accuracy_16": 0.95}
    assert describe_held_out(values, [8, 16]) == (
        "held-out utterances at 16: loss 2.500, accuracy 80.0 %; training utterances: loss 1.500, accuracy 95.0 %"
    )
