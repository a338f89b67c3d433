"""The plots: which files come of whole, short and broken records."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import pytest

from mrl.evaluation.plots import write_plots
from tests.evaluation.recorded_run import RUN, Entry, flow, held_out, step, write


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (RUN, ["loss.png", "eer.png", "eer_by_dimension.png"]),
        (RUN[:1], ["eer.png", "eer_by_dimension.png"]),
        (RUN[:2], ["loss.png", "eer.png", "eer_by_dimension.png"]),
        ([entry for entry in RUN if entry["kind"] == "epoch"], ["eer.png", "eer_by_dimension.png"]),
        ([entry for entry in RUN if entry["kind"] == "step"], ["loss.png"]),
        ([step(10, "head", None)], []),
        ([flow(10, "head", head=1.0)], ["gradient_flow.png"]),
        (
            [flow(10, "head", head=1.0), step(10, "head", 1.0)],
            ["loss.png", "gradient_flow.png"],
        ),
        ([held_out(0, "pretrained", 1.0)], ["eer.png", "eer_by_dimension.png", "held_out.png"]),
        ([], []),
    ],
)
def test_there_is_a_plot_for_whatever_was_recorded(
    tmp_path: Path, entries: list[Entry], expected: list[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
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


def test_no_global_state_of_matplotlib_is_touched(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", RUN)
    settings = dict(matplotlib.rcParams)
    write_plots(tmp_path / "metrics.jsonl", tmp_path)
    assert dict(matplotlib.rcParams) == settings


def test_plots_do_without_pyplot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write(tmp_path / "metrics.jsonl", RUN)
    assert len(write_plots(tmp_path / "metrics.jsonl", tmp_path)) == 3
