"""What is drawn of the error rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.colors import to_rgba

from mrl.evaluation.eer_curves import eer_by_dimension_figure, eer_figure
from tests.evaluation.recorded_run import DIMS, RUN, Entry, diamonds, epoch, history, lines


def test_the_eer_is_in_percent_from_epoch_zero_on(tmp_path: Path) -> None:
    (panel,) = eer_figure(history(tmp_path)).axes
    drawn = lines(panel)
    assert list(drawn) == [*(str(dim) for dim in DIMS), "pretrained,\nfull size"]
    epochs, eers = drawn["256"]
    assert epochs == [0, 1, 2, 3, 4]
    assert eers == pytest.approx([1.0, 0.9, 0.95, 0.7, 0.8])
    assert drawn["pretrained,\nfull size"][1] == pytest.approx([0.9, 0.9])
    assert panel.get_ylabel() == "EER (%)"
    assert panel.get_title() == "vox1-o"
    assert [text.get_text() for text in panel.texts] == ["head", "full"]


def test_each_trial_list_has_its_panel_and_its_own_reference(tmp_path: Path) -> None:
    first = epoch(
        0, "pretrained", 0.01, **{"eer/far/256": 0.1, "pretrained/eer": 0.05, "pretrained/eer/far": 0.09}
    )
    figure = eer_figure(history(tmp_path, [first]))
    assert [axis.get_title() for axis in figure.axes] == ["vox1-o", "far"]
    # The mean over the lists is the reference of none of them.
    assert "pretrained,\nfull size" not in lines(figure.axes[0])
    assert lines(figure.axes[1])["pretrained,\nfull size"][1] == pytest.approx([9.0, 9.0])


def test_a_mean_of_epochs_is_marked_in_each_line(tmp_path: Path) -> None:
    run = [*RUN, epoch(5, "full", 0.006, average_of="3, 4")]
    (panel,) = eer_figure(history(tmp_path, run)).axes
    assert diamonds(panel) == [(5, pytest.approx(percent)) for percent in (2.4, 1.8, 1.2, 0.6)]
    assert lines(panel)["256"][0] == [0, 1, 2, 3, 4, 5]
    assert "mean of\nepochs" in lines(panel)
    (without,) = eer_figure(history(tmp_path)).axes
    assert not diamonds(without)
    assert "mean of\nepochs" not in lines(without)


def test_eer_by_dimension_shows_start_ends_and_best(tmp_path: Path) -> None:
    (panel,) = eer_by_dimension_figure(history(tmp_path)).axes
    drawn = lines(panel)
    assert list(drawn) == ["epoch 0", "end of head (epoch 2)", "best: epoch 3", "end of full (epoch 4)"]
    assert drawn["best: epoch 3"] == (list(DIMS), pytest.approx([2.8, 2.1, 1.4, 0.7]))
    assert panel.get_xscale() == "log"
    assert list(panel.get_xticks()) == list(DIMS)
    assert [label.get_text() for label in panel.get_xticklabels()] == [str(dim) for dim in DIMS]


def test_a_stage_that_ends_with_a_mean_says_of_which_epochs(tmp_path: Path) -> None:
    run = [*RUN, epoch(5, "full", 0.006, best=True, average_of="3, 4")]
    (panel,) = eer_by_dimension_figure(history(tmp_path, run)).axes
    assert list(lines(panel))[-1] == "best: end of full (epoch 5,\nmean of 3, 4)"


@pytest.mark.parametrize(
    ("entries", "labels"),
    [
        (RUN[:1], ["best: epoch 0"]),
        ([RUN[0], epoch(1, "head", 0.02)], ["best: epoch 0", "end of head (epoch 1)"]),
        ([RUN[0], epoch(1, "head", 0.002, best=True)], ["epoch 0", "best: end of head (epoch 1)"]),
    ],
)
def test_an_epoch_that_is_best_and_an_end_is_one_line(
    tmp_path: Path, entries: list[Entry], labels: list[str]
) -> None:
    (panel,) = eer_by_dimension_figure(history(tmp_path, entries)).axes
    assert list(lines(panel)) == labels
    best = next(line for line in panel.get_lines() if "best" in str(line.get_label()))
    assert to_rgba(best.get_color()) == to_rgba("tab:red")


def test_dense_ticks_are_turned(tmp_path: Path) -> None:
    entry: Entry = {"kind": "epoch", "step": 0, "epoch": 0, "stage": "pretrained"}
    entry |= {f"eer/x/{dim}": 0.01 for dim in (8, 240, 248, 256)}
    (panel,) = eer_by_dimension_figure(history(tmp_path, [entry])).axes
    assert panel.get_xticklabels()[0].get_rotation() == 60.0
