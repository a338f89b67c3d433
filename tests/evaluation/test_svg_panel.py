"""Axes, lines and marks of the page's plots."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.special import ndtri

from mrl.evaluation.svg_panel import (
    BOTTOM,
    LEFT,
    NUM_SERIES,
    RIGHT,
    TOP,
    Axis,
    Panel,
    line_class,
    mark,
    polyline,
    round_ticks,
)


def panel(x: Axis | None = None) -> Panel:
    line = Axis("y", 0.0, 10.0, [(0.0, "0"), (10.0, "10")])
    return Panel(x or line, line, width=LEFT + 100 + RIGHT, height=TOP + 50 + BOTTOM)


def test_values_stand_where_they_belong() -> None:
    x, y = panel().place([0.0, 5.0, 10.0], [0.0, 5.0, 10.0])
    assert x.tolist() == pytest.approx([0.0, 50.0, 100.0])
    assert y.tolist() == pytest.approx([50.0, 25.0, 0.0])  # down is larger


def test_a_probit_axis_is_linear_in_deviations() -> None:
    axis = Axis("misses %", 0.1, 0.9, [], ndtri)
    assert axis.shares([0.1, 0.5, 0.9]).tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert float(axis.shares(0.2)) == pytest.approx((ndtri(0.2) - ndtri(0.1)) / (2 * ndtri(0.9)))


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0.0, 3.5, 5, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
        (0.0, 9.0, 4, [0, 2, 4, 6, 8]),
        (-0.5, 1.0, 6, [-0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 0.012, 5, [0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, ticks: list[float]) -> None:
    found = round_ticks(low, high, count)
    assert found == pytest.approx(ticks)
    assert not any(np.signbit(tick) for tick in found if tick == 0)


def test_labels_that_would_touch_are_left_out_and_grid_lines_stay() -> None:
    dense = Axis("dimension", 0.0, 256.0, [(dim, str(dim)) for dim in (8, 240, 248, 256)])
    drawn = panel(dense).drawing("label", [])
    assert re.findall(r'text-anchor="middle">(\d+)<', drawn) == ["8", "240"]
    assert drawn.count('class="grid"') == 4 + 2


def test_the_drawing_scales_and_speaks() -> None:
    drawn = panel().drawing("EER on <list>", [polyline([0, 1], [0, 1], "line")])
    assert drawn.startswith('<svg viewBox="0 0 158 114" role="img" aria-label="EER on &lt;list&gt;">')
    assert '<svg x="46" y="24" width="100" height="50"><polyline' in drawn


def test_points_that_are_not_finite_are_left_out() -> None:
    assert 'points="0,0 2,4.5"' in polyline([0, 1, 2, np.inf], [0, np.nan, 4.51, 1], "line")


def test_series_differ_in_more_than_colour() -> None:
    shapes = {re.sub("series[0-9]", "", mark(0, 0, series)) for series in range(NUM_SERIES)}
    assert len(shapes) == NUM_SERIES
    assert len({line_class(series) for series in range(NUM_SERIES)}) == NUM_SERIES
    assert line_class(2 * NUM_SERIES)  # they come again, but do not run out


def test_no_two_of_twelve_series_look_alike():
    looks = [(line_class(series), str(mark(0, 0, series))) for series in range(12)]
    assert len(set(looks)) == 12
    assert len({line for line, _ in looks}) == 12
    assert sum("series0" in line for line, _ in looks) == 1
