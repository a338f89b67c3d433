"""EER over the epochs and over the prefix size; shares in the records, percent here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from mrl.evaluation.panels import (
    ACCENT,
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
from mrl.evaluation.run_history import Record, RunHistory, is_value


def eer_figure(history: RunHistory) -> Figure:
    """EER of each prefix against the epoch, a panel for each trial list; epoch 0 is before training."""
    figure, panels = _panels(history.lists)
    for name, axis in panels.items():
        for dim, color in zip(history.dims, sequential(len(history.dims)), strict=True):
            key = f"eer/{name}/{dim}"
            draw_epochs(axis, history.epochs, key, color=color, label=str(dim), scale=100)
        pretrained = history.pretrained_eer(name)
        if pretrained is not None:
            axis.axhline(100 * pretrained, color=GREY, linestyle="--", label="pretrained,\nfull size")
        explain_means(axis, history.epochs)
        count_axis(axis, "epoch (0: before training)")
        mark_stages(axis, history.epochs, "epoch")
        name_stages(axis, stage_edges(history.epochs, "epoch")[1:])  # what is before is epoch 0
        axis.set_title(name, fontsize="medium", pad=18)  # above the stages' names
    legend(list(panels.values())[-1], title="prefix size")
    figure.suptitle("EER by epoch")
    return figure


def eer_by_dimension_figure(history: RunHistory) -> Figure:
    """EER against the prefix size: before training, at the end of each stage, and at the best epoch."""
    figure, panels = _panels(history.lists)
    moments = _moments(history.epochs)
    stage_colors = iter(sequential(sum(moment.kind == "stage" for moment in moments)))
    for moment in moments:
        style: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 5, "linestyle": "--"}
        if moment.kind == "stage":
            style = {"color": next(stage_colors), "marker": "o", "markersize": 5}
        if moment.is_best:
            style = {"color": ACCENT, "marker": "*", "markersize": 10, "linewidth": 2.2, "zorder": 3}
        for name, axis in panels.items():
            dims = [dim for dim in history.dims if is_value(moment.record, f"eer/{name}/{dim}")]
            eers = [100 * moment.record[f"eer/{name}/{dim}"] for dim in dims]
            axis.plot(dims, eers, label=moment.label, **style)
    for axis in panels.values():
        _dimension_axis(axis, history.dims)
    legend(list(panels.values())[-1])
    figure.suptitle("EER by prefix size")
    return figure


@dataclass
class _Moment:
    """An epoch worth a line, and why."""

    record: Record
    kind: str
    label: str
    is_best: bool = False


def _moments(epochs: Sequence[Record]) -> list[_Moment]:
    """The first epoch, the last one of each stage and the best one; an epoch that is several stands once."""
    moments = {epochs[0]["epoch"]: _Moment(epochs[0], "start", f"epoch {epochs[0]['epoch']}")}
    ends = {record.get("stage"): record for record in epochs[1:]}
    for stage, record in ends.items():
        mean = f",\nmean of {record['average_of']}" if record.get("average_of") else ""
        label = f"end of {stage} (epoch {record['epoch']}{mean})"
        moments[record["epoch"]] = _Moment(record, "stage", label)
    if bests := [record for record in epochs if record.get("is_best")]:
        epoch = bests[-1]["epoch"]
        moment = moments.setdefault(epoch, _Moment(bests[-1], "best", f"epoch {epoch}"))
        moment.label, moment.is_best = f"best: {moment.label}", True
    return [moments[epoch] for epoch in sorted(moments)]


def _panels(lists: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """One titled panel with an EER axis for each trial list, side by side."""
    figure = Figure(figsize=(2.6 + 4.6 * len(lists), 4.4), layout="constrained")
    axes = figure.subplots(1, len(lists), squeeze=False)[0]
    for name, axis in zip(lists, axes, strict=True):
        axis.set_title(name, fontsize="medium")
        axis.set_ylabel("EER (%)")
        axis.grid(alpha=0.3)
    return figure, dict(zip(lists, axes, strict=True))


def _dimension_axis(axis: Axes, dims: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xlim(dims[0] / 1.15, dims[-1] * 1.15)
    axis.xaxis.set_major_locator(FixedLocator(dims))
    axis.xaxis.set_major_formatter(FixedFormatter([str(dim) for dim in dims]))
    axis.xaxis.set_minor_locator(NullLocator())
    octaves = np.diff(np.log2(dims))
    if len(octaves) and octaves.min() < 0.08 * octaves.sum():
        axis.tick_params(axis="x", labelrotation=60)
    axis.set_xlabel("prefix size (numbers)")
