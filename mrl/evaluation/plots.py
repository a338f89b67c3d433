"""Curves of a run as PNG files, whichever its records allow.

They are drawn from ``metrics.jsonl`` alone.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mrl.evaluation.eer_curves import eer_by_dimension_figure, eer_figure
from mrl.evaluation.held_out_curves import held_out_figure
from mrl.evaluation.run_history import RunHistory, is_value, read_history
from mrl.evaluation.step_curves import gradient_flow_figure, loss_figure

_DPI = 150


def write_plots(metrics_path: Path, directory: Path) -> list[Path]:
    """Draw what was recorded into ``directory``: ``loss.png``, ``gradient_flow.png``, ``eer.png``,
    ``eer_by_dimension.png``, ``held_out.png``.

    Returns the files written; a plot without records is left out, so a missing metrics file gives none.
    """
    paths = []
    for name, figure in _figures(read_history(metrics_path)).items():
        directory.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure)  # a canvas of its own: pyplot would choose one for the whole process
        figure.savefig(directory / name, dpi=_DPI)
        paths.append(directory / name)
    return paths


def _figures(history: RunHistory) -> dict[str, Figure]:
    """The figures that have something to show, by file name."""
    figures: dict[str, Figure] = {}
    if any(is_value(record, "train/loss") for record in history.steps):
        figures["loss.png"] = loss_figure(history)
    if history.blocks:
        figures["gradient_flow.png"] = gradient_flow_figure(history)
    if history.lists:
        figures["eer.png"] = eer_figure(history)
        figures["eer_by_dimension.png"] = eer_by_dimension_figure(history)
    if history.held_out_dims:
        figures["held_out.png"] = held_out_figure(history)
    return figures
