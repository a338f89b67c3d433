"""What is drawn of held-out and training utterances."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.evaluation.held_out_curves import held_out_figure
from tests.evaluation.recorded_run import diamonds, epoch, held_out, history, lines

EPOCHS = [
    held_out(0, "pretrained", 4.0),
    held_out(1, "head", 2.0),
    held_out(2, "full", 3.0),
    held_out(3, "full", 1.0, average_of="1, 2"),
]


def test_held_out_is_solid_and_training_dashed_at_each_prefix(tmp_path: Path) -> None:
    loss, accuracy, _ = held_out_figure(history(tmp_path, EPOCHS)).axes
    curves = [line for line in loss.get_lines() if line.get_marker() == "o"]
    assert [(line.get_linestyle(), list(line.get_ydata())) for line in curves] == [
        ("-", [4.0, 2.0, 3.0, 1.0]),
        ("--", [2.0, 1.0, 1.5, 0.5]),
        ("-", [8.0, 4.0, 6.0, 2.0]),
        ("--", [4.0, 2.0, 3.0, 1.0]),
    ]
    assert curves[0].get_color() is curves[1].get_color()
    assert list(curves[0].get_color()) != list(curves[2].get_color())
    entries = [text.get_text() for text in loss.get_legend().get_texts()]
    assert entries == ["64", "256", "held out", "training\nsample", "mean of\nepochs"]
    shares = [line for line in accuracy.get_lines() if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in shares] == [25.0, 75.0, 25.0, 75.0]
    assert accuracy.get_ylabel() == "accuracy (%)"


def test_the_gap_stands_below_with_the_stages_and_the_means_marked(tmp_path: Path) -> None:
    loss, _, gap = held_out_figure(history(tmp_path, EPOCHS)).axes
    curve = gap.get_lines()[0]
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([0, 1, 2, 3], [3.0, 1.5, 2.25, 0.75])
    assert diamonds(gap) == [(3, pytest.approx(0.75))]
    assert len(diamonds(loss)) == 4
    assert [text.get_text() for text in loss.texts] == ["head", "full"]
    dotted = [line.get_xdata()[0] for line in gap.get_lines() if line.get_linestyle() == ":"]
    assert dotted == [0.5, 1.5]


def test_epochs_without_held_out_values_are_passed_over(tmp_path: Path) -> None:
    run = [EPOCHS[0], epoch(1, "head", 0.01), EPOCHS[2]]
    loss, _, gap = held_out_figure(history(tmp_path, run)).axes
    assert lines(loss)["64"] == ([0, 2], [4.0, 3.0])
    assert list(gap.get_lines()[0].get_xdata()) == [0, 2]
    assert "mean of\nepochs" not in lines(loss)
