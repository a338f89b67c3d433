"""Curves of a run as PNG files: training loss, EER over the epochs, EER over the prefix size.

They are drawn from ``metrics.jsonl`` alone; EERs are shares there and percent here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from mrl.evaluation.run_history import (
    FloatArray,
    Record,
    RunHistory,
    is_value,
    read_history,
    runs_of_stages,
    series,
)

_DPI = 150
_GREY, _ACCENT = "0.35", "tab:red"


def write_plots(metrics_path: Path, directory: Path) -> list[Path]:
    """Draw ``loss.png``, ``eer.png`` and ``eer_by_dimension.png`` into ``directory``.

    Returns the files written; a plot without records is left out, so a missing metrics file gives none.
    """
    history = read_history(metrics_path)
    figures: dict[str, Figure] = {}
    if any(is_value(record, "train/loss") for record in history.steps):
        figures["loss.png"] = loss_figure(history)
    if history.lists:
        figures["eer.png"] = eer_figure(history)
        figures["eer_by_dimension.png"] = eer_by_dimension_figure(history)
    paths = []
    for name, figure in figures.items():
        directory.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure)  # a canvas of its own: pyplot would choose one for the whole process
        figure.savefig(directory / name, dpi=_DPI)
        paths.append(directory / name)
    return paths


def loss_figure(history: RunHistory) -> Figure:
    """Training loss against the step: the weighted sum above, each prefix below; raw light, smoothed bold."""
    dims = history.loss_dims
    figure = Figure(figsize=(8.0, 6.4 if dims else 3.8), layout="constrained")
    axes = figure.subplots(2 if dims else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_loss(axes[0], history.steps, "train/loss", color="black")
    axes[0].set_ylabel("weighted sum")
    if dims:
        for dim, color in zip(dims, _sequential(len(dims)), strict=True):
            _draw_loss(axes[1], history.steps, f"train/loss_{dim}", color=color, label=str(dim))
        axes[1].set_ylabel("per prefix")
        _legend(axes[1], title="prefix size")
    for axis in axes:
        axis.grid(alpha=0.3)
        _mark_stages(axis, history.steps, "step")
    _name_stages(axes[0], _stage_edges(history.steps, "step"))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[-1].set_xlabel("step")
    figure.suptitle("Training loss")
    return figure


def eer_figure(history: RunHistory) -> Figure:
    """EER of each prefix against the epoch, a panel for each trial list; epoch 0 is before training."""
    figure, panels = _panels(history.lists)
    for name, axis in panels.items():
        for dim, color in zip(history.dims, _sequential(len(history.dims)), strict=True):
            epochs, eers = series(history.epochs, "epoch", f"eer/{name}/{dim}")
            axis.plot(epochs, 100 * eers, color=color, marker="o", markersize=3.5, label=str(dim))
        pretrained = history.pretrained_eer(name)
        if pretrained is not None:
            axis.axhline(100 * pretrained, color=_GREY, linestyle="--", label="pretrained,\nfull size")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlabel("epoch (0: before training)")
        _mark_stages(axis, history.epochs, "epoch")
        _name_stages(axis, _stage_edges(history.epochs, "epoch")[1:])  # what is before is epoch 0
        axis.set_title(name, fontsize="medium", pad=18)  # above the stages' names
    _legend(list(panels.values())[-1], title="prefix size")
    figure.suptitle("EER by epoch")
    return figure


def eer_by_dimension_figure(history: RunHistory) -> Figure:
    """EER against the prefix size: before training, at the end of each stage, and at the best epoch."""
    figure, panels = _panels(history.lists)
    moments = _moments(history.epochs)
    stage_colors = iter(_sequential(sum(moment.kind == "stage" for moment in moments)))
    for moment in moments:
        style: dict[str, Any] = {"color": _GREY, "marker": "o", "markersize": 5, "linestyle": "--"}
        if moment.kind == "stage":
            style = {"color": next(stage_colors), "marker": "o", "markersize": 5}
        if moment.is_best:
            style = {"color": _ACCENT, "marker": "*", "markersize": 10, "linewidth": 2.2, "zorder": 3}
        for name, axis in panels.items():
            dims = [dim for dim in history.dims if is_value(moment.record, f"eer/{name}/{dim}")]
            eers = [100 * moment.record[f"eer/{name}/{dim}"] for dim in dims]
            axis.plot(dims, eers, label=moment.label, **style)
    for axis in panels.values():
        _dimension_axis(axis, history.dims)
    _legend(list(panels.values())[-1])
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
        label = f"end of {stage} (epoch {record['epoch']})"
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


def _draw_loss(
    axis: Axes, steps: Sequence[Record], key: str, *, color: Any, label: str | None = None
) -> None:
    """A raw and a smoothed line, broken between stages: margin and crops change there, and the loss jumps."""
    for stage in runs_of_stages(steps):
        positions, losses = series(stage, "step", key)
        if len(positions):
            axis.plot(positions, losses, color=color, alpha=0.25, linewidth=0.8)
            marker = "o" if len(positions) == 1 else None
            axis.plot(positions, _smoothed(losses), color=color, linewidth=1.8, marker=marker, label=label)
            label = None  # one line of the legend for all stages


def _smoothed(values: FloatArray) -> FloatArray:
    """Mean over a twentieth of the values around each one (fewer at the ends)."""
    window = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _mark_stages(axis: Axes, records: Sequence[Record], position: str) -> None:
    """A dotted line wherever a stage begins after another."""
    for edge, _ in _stage_edges(records, position)[1:]:
        axis.axvline(edge, color=_GREY, linestyle=":", linewidth=1.0)


def _name_stages(axis: Axes, edges: Sequence[tuple[float, str]]) -> None:
    """The stages' names above the panel, each from where its stage begins."""
    for edge, name in edges:
        axis.annotate(
            name,
            (edge, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color=_GREY,
            fontsize="small",
        )


def _stage_edges(records: Sequence[Record], position: str) -> list[tuple[float, str]]:
    """Where each stage begins, half-way from the record before, and its name."""
    runs = runs_of_stages(records)
    lasts = [runs[0][0], *(run[-1] for run in runs)] if runs else []
    return [
        ((last[position] + run[0][position]) / 2, str(run[0].get("stage", "")))
        for last, run in zip(lasts, runs, strict=False)
    ]


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


def _sequential(count: int) -> list[Any]:
    """``count`` colours of a sequential palette, dark to bright, without its palest end."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count)))


def _legend(axis: Axes, title: str | None = None) -> None:
    """A legend beside the panel, where it hides no curve."""
    axis.legend(
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize="small"
    )
