"""What the plots share."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from mrl.evaluation.panels import draw_steps, smoothed


def test_smoothing_is_the_mean_around_each_value() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=200)
    smooth = smoothed(values)
    assert smooth[0] == pytest.approx(values[:6].mean())
    assert smooth[100] == pytest.approx(values[95:106].mean())
    assert smooth[-1] == pytest.approx(values[-6:].mean())
    np.testing.assert_allclose(smoothed(np.ones(97)), 1.0)
    np.testing.assert_array_equal(smoothed(values[:20]), values[:20])


def test_on_a_logarithmic_axis_logarithms_are_smoothed() -> None:
    values = [1.0, 100.0] * 20 + [0.0]
    records = [{"step": step, "gradient/head": value} for step, value in enumerate(values)]
    axis = Figure().subplots()
    draw_steps(axis, records, "gradient/head", color="black", geometric=True)
    raw, smooth = axis.get_lines()
    assert list(raw.get_ydata()) == values[:-1]  # 0 has no logarithm
    assert smooth.get_ydata()[1:-1] == pytest.approx([10 ** (2 / 3), 10 ** (4 / 3)] * 19)
