"""Whether a run learns its training data by heart: held-out utterances beside training ones, over the epochs."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrl.evaluation.panels import (
    GREY,
    count_axis,
    draw_epochs,
    explain_means,
    legend,
    mark_stages,
    name_stages,
    sequential,
    stage_edges,
)
from mrl.evaluation.run_history import RunHistory

_PARTS = {"held_out": ("held out", "-"), "train_sample": ("training\nsample", "--")}


def held_out_figure(history: RunHistory) -> Figure:
    """Loss, accuracy and gap against the epoch: held-out utterances solid, as many training ones dashed.

    The accuracy is a share in the records and percent here; the gap is the mean over the prefixes of held-out
    minus training loss. It is wide at epoch 0, where the class vectors are means of training utterances.
    """
    figure = Figure(figsize=(8.0, 8.4), layout="constrained")
    loss, accuracy, gap = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    _draw_prefixes(loss, history, "loss", scale=1.0)
    loss.set_ylabel("loss (no margin)")
    _draw_prefixes(accuracy, history, "accuracy", scale=100.0)
    accuracy.set_ylabel("accuracy (%)")
    draw_epochs(gap, history.epochs, "held_out/gap", color="black")
    gap.axhline(0.0, color=GREY, linewidth=1.0)
    gap.set_ylabel("gap in loss\n(mean over prefixes)")
    for axis in (loss, accuracy, gap):
        axis.grid(alpha=0.3)
        mark_stages(axis, history.epochs, "epoch")
    name_stages(loss, stage_edges(history.epochs, "epoch")[1:])  # what is before is epoch 0
    for label, linestyle in _PARTS.values():
        loss.plot([], [], color=GREY, linestyle=linestyle, label=label)
    explain_means(loss, history.epochs)
    legend(loss, title="prefix size")
    count_axis(gap, "epoch (0: before training)")
    figure.suptitle("Held-out and training utterances")
    return figure


def _draw_prefixes(axis: Axes, history: RunHistory, measure: str, *, scale: float) -> None:
    """Two lines for each prefix; the legend names the solid ones."""
    dims = history.held_out_dims
    for dim, color in zip(dims, sequential(len(dims)), strict=True):
        for part, (_, linestyle) in _PARTS.items():
            label = str(dim) if part == "held_out" else None
            key = f"{part}/{measure}_{dim}"
            draw_epochs(axis, history.epochs, key, color=color, linestyle=linestyle, label=label, scale=scale)
