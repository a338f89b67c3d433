"""What the plots of a run share: lines over steps and epochs, marks where stages change, colours, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mrl.evaluation.run_history import FloatArray, Record, runs_of_stages, series

GREY, ACCENT = "0.35", "tab:red"
_MEAN: dict[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 7,
    "markerfacecolor": "white",
    "markeredgewidth": 1.6,
    "zorder": 3,
}


def draw_steps(
    axis: Axes,
    steps: Sequence[Record],
    key: str,
    *,
    color: Any,
    label: str | None = None,
    geometric: bool = False,
) -> None:
    """A raw and a smoothed line, broken between stages: margin and crops change there, and values jump.

    ``geometric`` smooths the logarithms, for a logarithmic axis; values of 0 have none and are left out.
    """
    for stage in runs_of_stages(steps):
        positions, values = series(stage, "step", key)
        if geometric:
            positions, values = positions[values > 0], values[values > 0]
        if len(positions):
            axis.plot(positions, values, color=color, alpha=0.25, linewidth=0.8)
            smooth = np.exp(smoothed(np.log(values))) if geometric else smoothed(values)
            marker = "o" if len(positions) == 1 else None
            axis.plot(positions, smooth, color=color, linewidth=1.8, marker=marker, label=label)
            label = None  # one line of the legend for all stages


def draw_epochs(
    axis: Axes,
    epochs: Sequence[Record],
    key: str,
    *,
    color: Any,
    label: str | None = None,
    linestyle: str = "-",
    scale: float = 1.0,
) -> None:
    """``scale`` times the values of ``key``, a dot each; a hollow diamond is a mean of epochs."""
    positions, values = series(epochs, "epoch", key)
    axis.plot(
        positions, scale * values, color=color, linestyle=linestyle, marker="o", markersize=3.5, label=label
    )
    positions, values = series(means_of_epochs(epochs), "epoch", key)
    if len(positions):
        axis.plot(positions, scale * values, color=color, **_MEAN)


def means_of_epochs(epochs: Sequence[Record]) -> list[Record]:
    """The records of epochs whose weights are the mean of other epochs'."""
    return [record for record in epochs if record.get("average_of")]


def explain_means(axis: Axes, epochs: Sequence[Record]) -> None:
    """What the diamonds are, as an entry of the legend, where there are any."""
    if means_of_epochs(epochs):
        axis.plot([], [], color=GREY, label="mean of\nepochs", **_MEAN)


def smoothed(values: FloatArray) -> FloatArray:
    """Mean over a twentieth of the values around each one (fewer at the ends)."""
    window = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def mark_stages(axis: Axes, records: Sequence[Record], position: str) -> None:
    """A dotted line wherever a stage begins after another."""
    for edge, _ in stage_edges(records, position)[1:]:
        axis.axvline(edge, color=GREY, linestyle=":", linewidth=1.0)


def name_stages(axis: Axes, edges: Sequence[tuple[float, str]]) -> None:
    """The stages' names above the panel, each from where its stage begins."""
    for edge, name in edges:
        axis.annotate(
            name,
            (edge, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color=GREY,
            fontsize="small",
        )


def stage_edges(records: Sequence[Record], position: str) -> list[tuple[float, str]]:
    """Where each stage begins, half-way from the record before, and its name."""
    runs = runs_of_stages(records)
    lasts = [runs[0][0], *(run[-1] for run in runs)] if runs else []
    return [
        ((last[position] + run[0][position]) / 2, str(run[0].get("stage", "")))
        for last, run in zip(lasts, runs, strict=False)
    ]


def count_axis(axis: Axes, label: str) -> None:
    """Whole numbers (steps, epochs) along the axis."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel(label)


def sequential(count: int) -> list[Any]:
    """``count`` colours of a sequential palette, dark to bright, without its palest end."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count)))


def legend(axis: Axes, title: str | None = None) -> None:
    """A legend beside the panel, where it hides no curve."""
    axis.legend(
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize="small"
    )
