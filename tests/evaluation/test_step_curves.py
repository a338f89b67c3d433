"""What is drawn of the loss and of the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.colors import to_rgba

from mrl.evaluation.step_curves import gradient_flow_figure, loss_figure
from tests.evaluation.recorded_run import DIMS, flow, history, lines, step

FLOW = [
    flow(1, "head", head=0.5, classifier=0.1),
    flow(3, "head", head=0.4, classifier=0.1),
    flow(5, "full", stem=8.0, stage0=1.0, stage1=0.0, pooling=None, head=0.3, classifier=0.1),
    flow(7, "full", stem=4.0, stage0=1.0, stage1=0.0, pooling=0.2, head=0.2, classifier=0.1),
]


def test_the_loss_has_a_sum_a_line_per_prefix_and_a_mark_between_stages(tmp_path: Path) -> None:
    figure = loss_figure(history(tmp_path))
    total, prefixes = figure.axes
    assert list(lines(prefixes)) == [str(dim) for dim in DIMS]
    raw = [line for line in total.get_lines() if line.get_alpha() == 0.25]
    assert [list(line.get_ydata()) for line in raw] == [[7.0, 6.0], [4.0, 4.0, 4.0]]
    dotted = [line for line in total.get_lines() if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [25.0]
    assert [text.get_text() for text in total.texts] == ["head", "full"]
    assert prefixes.get_xlabel() == "step"


def test_a_step_without_a_finite_loss_leaves_a_gap(tmp_path: Path) -> None:
    figure = loss_figure(
        history(tmp_path, [step(10, "head", 2.0), step(20, "head", None), step(30, "head", 1.0)])
    )
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [10.0, 30.0]


def test_steps_with_gradients_alone_change_nothing_in_the_loss(tmp_path: Path) -> None:
    steps = [step(10, "head", 2.0), step(20, "head", 1.0)]
    figure = loss_figure(history(tmp_path, [*steps, flow(15, "head", head=1.0), flow(20, "head", head=1.0)]))
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [2.0, 1.0]


def test_each_block_has_a_line_by_depth_on_a_logarithmic_axis(tmp_path: Path) -> None:
    (panel,) = gradient_flow_figure(history(tmp_path, FLOW)).axes
    assert panel.get_yscale() == "log"
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["stem", "stage0", "pooling", "head", "classifier", "0 in stage1"]
    drawn = lines(panel)
    assert drawn["stem"] == ([5, 7], pytest.approx([8.0, 4.0]))
    assert drawn["pooling"] == ([7], pytest.approx([0.2]))
    bold = [line for line in panel.get_lines() if line.get_alpha() is None]
    heads = [line for line in bold if to_rgba(line.get_color()) == to_rgba("tab:red")]
    assert [list(line.get_xdata()) for line in heads] == [[1, 3], [5, 7]]
    assert [text.get_text() for text in panel.texts] == ["head", "full"]
    colors = {to_rgba(line.get_color()) for line in panel.get_lines() if str(line.get_label()) in legend[:5]}
    assert len(colors) == 5


def test_a_gradient_of_zero_is_marked_at_the_lower_edge(tmp_path: Path) -> None:
    figure = gradient_flow_figure(history(tmp_path, FLOW))
    (panel,) = figure.axes
    marks = [line for line in panel.get_lines() if line.get_marker() == "v" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in marks] == [[5, 7]]
    figure.draw_without_rendering()
    low, high = panel.get_ylim()
    assert low > 0.05  # the zeros do not stretch the axis
    assert high < 20
    on_screen = marks[0].get_transform().transform((5, 0.02))
    assert panel.transAxes.inverted().transform(on_screen)[1] == pytest.approx(0.02)
    (without,) = gradient_flow_figure(history(tmp_path, FLOW[:2])).axes
    assert list(lines(without)) == ["head", "classifier"]
