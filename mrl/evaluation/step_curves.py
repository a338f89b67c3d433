"""Curves over the steps of a run: training loss, and how much gradient reaches each block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrl.evaluation.panels import (
    ACCENT,
    count_axis,
    draw_steps,
    legend,
    mark_stages,
    name_stages,
    sequential,
    stage_edges,
)
from mrl.evaluation.run_history import RunHistory, series


def loss_figure(history: RunHistory) -> Figure:
    """Training loss against the step: the weighted sum above, each prefix below; raw light, smoothed bold."""
    dims = history.loss_dims
    figure = Figure(figsize=(8.0, 6.4 if dims else 3.8), layout="constrained")
    axes = figure.subplots(2 if dims else 1, 1, sharex=True, squeeze=False)[:, 0]
    draw_steps(axes[0], history.steps, "train/loss", color="black")
    axes[0].set_ylabel("weighted sum")
    if dims:
        for dim, color in zip(dims, sequential(len(dims)), strict=True):
            draw_steps(axes[1], history.steps, f"train/loss_{dim}", color=color, label=str(dim))
        axes[1].set_ylabel("per prefix")
        legend(axes[1], title="prefix size")
    for axis in axes:
        axis.grid(alpha=0.3)
        mark_stages(axis, history.steps, "step")
    name_stages(axes[0], stage_edges(history.steps, "step"))
    count_axis(axes[-1], "step")
    figure.suptitle("Training loss")
    return figure


def gradient_flow_figure(history: RunHistory) -> Figure:
    """Norm of the gradient over norm of the weights against the step, a line for each block, by depth.

    A triangle at the lower edge is a gradient of 0, which a logarithmic axis has no place for.
    """
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axis = figure.subplots()
    axis.set_yscale("log")
    for block, color in _block_colors(history.blocks).items():
        draw_steps(axis, history.steps, f"gradient/{block}", color=color, label=block, geometric=True)
    _mark_zeros(axis, history)
    axis.grid(alpha=0.3)
    axis.set_ylabel("gradient norm / weight norm")
    mark_stages(axis, history.steps, "step")
    name_stages(axis, stage_edges(history.steps, "step"))
    count_axis(axis, "step")
    legend(axis, title="input to output")
    figure.suptitle("Gradient by block")
    return figure


def _block_colors(blocks: Sequence[str]) -> dict[str, Any]:
    """The released blocks from dark to bright; head and classifier, which are new, stand out."""
    new = {"head": ACCENT, "classifier": "black"}
    released = [block for block in blocks if block not in new]
    colors = dict(zip(released, sequential(len(released)), strict=True)) | new
    return {block: colors[block] for block in blocks}


def _mark_zeros(axis: Axes, history: RunHistory) -> None:
    """Triangles just above the lower edge, and an entry of the legend for each block that has any."""
    for block, color in _block_colors(history.blocks).items():
        positions, values = series(history.steps, "step", f"gradient/{block}")
        zeros = positions[values == 0]
        if len(zeros):
            axis.plot(
                zeros,
                np.full_like(zeros, 0.02),  # a share of the panel's height
                color=color,
                linestyle="none",
                marker="v",
                label=f"0 in {block}",
                transform=axis.get_xaxis_transform(),
            )
