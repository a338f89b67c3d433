"""The curves: what is drawn, from whole, short and broken records."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from mrl.evaluation.plots import (
    _smoothed,
    eer_by_dimension_figure,
    eer_figure,
    loss_figure,
    write_plots,
)
from mrl.evaluation.run_history import RunHistory, read_history, runs_of_stages

DIMS = (64, 128, 192, 256)
Entry = dict[str, Any]


def epoch(number: int, stage: str, eer: float, *, best: bool = False, **more: Any) -> Entry:
    """An epoch whose EER is ``eer`` at 256 numbers, twice that at 192, and so on."""
    eers = {f"eer/vox1-o/{dim}": eer * factor for dim, factor in zip(DIMS, (4, 3, 2, 1), strict=True)}
    return {
        "kind": "epoch",
        "step": 10 * number,
        "epoch": number,
        **eers,
        "stage": stage,
        "is_best": best,
        **more,
    }


def step(number: int, stage: str, loss: float | None) -> Entry:
    parts = {f"train/loss_{dim}": None if loss is None else loss / 4 for dim in DIMS}
    return {"kind": "step", "step": number, "epoch": 1, "train/loss": loss, **parts, "stage": stage}


RUN = [
    epoch(0, "pretrained", 0.010, best=True, **{"pretrained/eer": 0.009}),
    *(step(number, "head", 8.0 - number / 10) for number in (10, 20)),
    epoch(1, "head", 0.009, best=True),
    epoch(2, "head", 0.0095),
    *(step(number, "full", 4.0) for number in (30, 40, 50)),
    epoch(3, "full", 0.007, best=True),
    epoch(4, "full", 0.008),
]


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write(path: Path, entries: Sequence[Entry], tail: str = "") -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)


def lines(axis: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Labelled lines: their x and y."""
    named = [line for line in axis.get_lines() if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in named}


def history(metrics: Path, entries: Sequence[Entry] = RUN) -> RunHistory:
    write(metrics, entries)
    return read_history(metrics)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (RUN, ["loss.png", "eer.png", "eer_by_dimension.png"]),
        (RUN[:1], ["eer.png", "eer_by_dimension.png"]),
        (RUN[:2], ["loss.png", "eer.png", "eer_by_dimension.png"]),
        ([entry for entry in RUN if entry["kind"] == "epoch"], ["eer.png", "eer_by_dimension.png"]),
        ([entry for entry in RUN if entry["kind"] == "step"], ["loss.png"]),
        ([step(10, "head", None)], []),
        ([], []),
    ],
)
def test_there_is_a_plot_for_whatever_was_recorded(
    metrics: Path, tmp_path: Path, entries: list[Entry], expected: list[str]
) -> None:
    write(metrics, entries, tail='{"kind": "step", "st')
    directory = tmp_path / "plots"
    paths = write_plots(metrics, directory)
    assert paths == [directory / name for name in expected]
    for path in paths:
        image = path.read_bytes()
        assert image.startswith(b"\x89PNG")
        width = int.from_bytes(image[16:20], "big")
        assert width >= 7 * 150


def test_no_metrics_no_plots(tmp_path: Path) -> None:
    assert write_plots(tmp_path / "none.jsonl", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_step_or_epoch_counts_as_it_stands_last(metrics: Path) -> None:
    read = history(metrics, [step(20, "head", 1.0), step(10, "head", 2.0), step(20, "head", 3.0), *RUN[:1]])
    assert [(record["step"], record["train/loss"]) for record in read.steps] == [(10, 2.0), (20, 3.0)]


def test_lists_and_dims_are_read_from_the_names(metrics: Path) -> None:
    entry = epoch(0, "pretrained", 0.01, **{"eer/far.field-2/64": 0.1, "min_dcf_0.01/x/512": 0.2})
    read = history(metrics, [entry])
    assert read.lists == ["vox1-o", "far.field-2"]
    assert read.dims == list(DIMS)


def test_stages_are_cut_where_they_change() -> None:
    entries = [{"stage": stage} for stage in "aabba"]
    assert [len(run) for run in runs_of_stages(entries)] == [2, 2, 1]
    assert runs_of_stages([]) == []


def test_the_loss_has_a_sum_a_line_per_prefix_and_a_mark_between_stages(metrics: Path) -> None:
    figure = loss_figure(history(metrics))
    total, prefixes = figure.axes
    assert list(lines(prefixes)) == [str(dim) for dim in DIMS]
    raw = [line for line in total.get_lines() if line.get_alpha() == 0.25]
    assert [list(line.get_ydata()) for line in raw] == [[7.0, 6.0], [4.0, 4.0, 4.0]]
    dotted = [line for line in total.get_lines() if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [25.0]
    assert [text.get_text() for text in total.texts] == ["head", "full"]
    assert prefixes.get_xlabel() == "step"


def test_a_step_without_a_finite_loss_leaves_a_gap(metrics: Path) -> None:
    figure = loss_figure(
        history(metrics, [step(10, "head", 2.0), step(20, "head", None), step(30, "head", 1.0)])
    )
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [10.0, 30.0]


def test_smoothing_is_the_mean_around_each_value() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=200)
    smooth = _smoothed(values)
    assert smooth[0] == pytest.approx(values[:6].mean())
    assert smooth[100] == pytest.approx(values[95:106].mean())
    assert smooth[-1] == pytest.approx(values[-6:].mean())
    np.testing.assert_allclose(_smoothed(np.ones(97)), 1.0)
    np.testing.assert_array_equal(_smoothed(values[:20]), values[:20])


def test_the_eer_is_in_percent_from_epoch_zero_on(metrics: Path) -> None:
    (panel,) = eer_figure(history(metrics)).axes
    drawn = lines(panel)
    assert list(drawn) == [*(str(dim) for dim in DIMS), "pretrained,\nfull size"]
    epochs, eers = drawn["256"]
    assert epochs == [0, 1, 2, 3, 4]
    assert eers == pytest.approx([1.0, 0.9, 0.95, 0.7, 0.8])
    assert drawn["pretrained,\nfull size"][1] == pytest.approx([0.9, 0.9])
    assert panel.get_ylabel() == "EER (%)"
    assert panel.get_title() == "vox1-o"
    assert [text.get_text() for text in panel.texts] == ["head", "full"]


def test_each_trial_list_has_its_panel_and_its_own_reference(metrics: Path) -> None:
    first = epoch(
        0, "pretrained", 0.01, **{"eer/far/256": 0.1, "pretrained/eer": 0.05, "pretrained/eer/far": 0.09}
    )
    figure = eer_figure(history(metrics, [first]))
    assert [axis.get_title() for axis in figure.axes] == ["vox1-o", "far"]
    # The mean over the lists is the reference of none of them.
    assert "pretrained,\nfull size" not in lines(figure.axes[0])
    assert lines(figure.axes[1])["pretrained,\nfull size"][1] == pytest.approx([9.0, 9.0])


def test_eer_by_dimension_shows_start_ends_and_best(metrics: Path) -> None:
    (panel,) = eer_by_dimension_figure(history(metrics)).axes
    drawn = lines(panel)
    assert list(drawn) == ["epoch 0", "end of head (epoch 2)", "best: epoch 3", "end of full (epoch 4)"]
    assert drawn["best: epoch 3"] == (list(DIMS), pytest.approx([2.8, 2.1, 1.4, 0.7]))
    assert panel.get_xscale() == "log"
    assert list(panel.get_xticks()) == list(DIMS)
    assert [label.get_text() for label in panel.get_xticklabels()] == [str(dim) for dim in DIMS]


@pytest.mark.parametrize(
    ("entries", "labels"),
    [
        (RUN[:1], ["best: epoch 0"]),
        ([RUN[0], epoch(1, "head", 0.02)], ["best: epoch 0", "end of head (epoch 1)"]),
        ([RUN[0], epoch(1, "head", 0.002, best=True)], ["epoch 0", "best: end of head (epoch 1)"]),
    ],
)
def test_an_epoch_that_is_best_and_an_end_is_one_line(
    metrics: Path, entries: list[Entry], labels: list[str]
) -> None:
    (panel,) = eer_by_dimension_figure(history(metrics, entries)).axes
    assert list(lines(panel)) == labels
    best = next(line for line in panel.get_lines() if "best" in str(line.get_label()))
    assert to_rgba(best.get_color()) == to_rgba("tab:red")


def test_dense_ticks_are_turned(metrics: Path) -> None:
    entry: Entry = {"kind": "epoch", "step": 0, "epoch": 0, "stage": "pretrained"}
    entry |= {f"eer/x/{dim}": 0.01 for dim in (8, 240, 248, 256)}
    (panel,) = eer_by_dimension_figure(history(metrics, [entry])).axes
    assert panel.get_xticklabels()[0].get_rotation() == 60.0


def test_no_global_state_of_matplotlib_is_touched(metrics: Path, tmp_path: Path) -> None:
    write(metrics, RUN)
    settings = dict(matplotlib.rcParams)
    write_plots(metrics, tmp_path)
    assert dict(matplotlib.rcParams) == settings


def test_plots_do_without_pyplot(metrics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write(metrics, RUN)
    assert len(write_plots(metrics, tmp_path)) == 3
