"""The plots of a report: EER against dimension, DET curves, histograms of scores. Percent on the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from mrl.evaluation.markup import Markup, element, join
from mrl.evaluation.report_tables import System, confidence_text, number, percent, systems, threshold_name
from mrl.evaluation.results import ListReport, PrefixReport, ScoreCurves
from mrl.evaluation.svg_panel import (
    Axis,
    Panel,
    bar,
    line_class,
    mark,
    polyline,
    round_ticks,
    series_swatch,
    swatch,
    threshold_class,
    vertical,
)

_FAR_BEYOND = 2.5  # a baseline so many times as bad as the encoder at its worst is named beside the plot
_DET_TICKS = (0.0001, 0.0005, 0.002, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def eer_figure(item: ListReport, confidence: float) -> Markup:
    """EER against dimension: each prefix as a thin line, the prefixes asked for with intervals, the baselines."""
    compared = systems(item)
    top = _top_of_eers(compared)
    dims = sorted({dim for system in compared for dim in system.eers})
    x = Axis("dimension", 0.0, 1.04 * max(*dims, len(item.curve)), [(dim, str(dim)) for dim in dims])
    y = Axis("EER %", 0.0, top, [(tick / 100, f"{tick:g}") for tick in round_ticks(0.0, 100 * top)])
    panel = Panel(x, y)
    inside, above = [], []
    if item.curve:
        inside.append(polyline(*panel.place(range(1, len(item.curve) + 1), item.curve), "thin series0"))
    for series in reversed(range(len(compared))):  # the encoder is drawn last, above the others
        shift = 4.0 * ((series + 1) // 2) * (-1) ** series  # bars of one dimension stand side by side
        lines, marks = _system(panel, compared[series], series, shift)
        inside += lines
        above += marks
    found = ", ".join(f"{dim}: {percent(eer)} %" for dim, eer in compared[0].eers.items())
    drawing = panel.drawing(f"EER against dimension on {item.name}; of this encoder, {found}", inside, above)
    entries = [(series_swatch(series), system.name) for series, system in enumerate(compared)]
    if item.curve:
        thin = swatch([polyline([0, 34], [7, 7], "thin series0")])
        entries.append((thin, "this encoder, every prefix"))
    return _figure(drawing, _legend(entries), *_remarks(compared, top, confidence))


def _system(panel: Panel, system: System, series: int, shift: float) -> tuple[list[Markup], list[Markup]]:
    """The line and interval bars of a system, and its marks that lie within the panel."""
    dims = [dim for dim in sorted(system.eers) if math.isfinite(system.eers[dim])]
    across, up = panel.place(dims, [system.eers[dim] for dim in dims])
    lines = [polyline(across + shift, up, line_class(series))]
    marks = []
    for dim, right, down in zip(dims, across + shift, up, strict=True):
        interval = system.intervals.get(dim)
        if interval is not None and all(map(math.isfinite, interval)):
            _, (low, high) = panel.place([dim, dim], interval)
            lines.append(bar(right, low, high, series))
        if down >= 0:
            marks.append(mark(right, down, series, size=6.0 if series == 0 else 4.5))
    return lines, marks


def _top_of_eers(compared: Sequence[System]) -> float:
    """The upper end of the EER axis: all of the encoder's intervals, and of what is not far beyond it."""
    reach = [
        (eer, (system.intervals.get(dim) or (eer, eer))[1], series)
        for series, system in enumerate(compared)
        for dim, eer in system.eers.items()
        if math.isfinite(eer)
    ]
    own = max((eer for eer, _, series in reach if series == 0), default=0.0)
    seen = [
        high if math.isfinite(high) else eer
        for eer, high, series in reach
        if series == 0 or eer <= _FAR_BEYOND * own
    ]
    return 1.08 * max(seen, default=0.0) or 0.01


def _remarks(compared: Sequence[System], top: float, confidence: float) -> list[Markup]:
    """What the legend does not say: bars, and what lies beyond the plot."""
    remarks = []
    if any(interval for system in compared for interval in system.intervals.values()):
        remarks.append(f"Bars are {confidence_text(confidence)} intervals over speakers.")
    beyond = [
        f"{system.name} at {dim} ({percent(eer)}\u00a0%)"
        for system in compared
        for dim, eer in system.eers.items()
        if eer > top
    ]
    if beyond:
        remarks.append(f"Beyond the plot: {', '.join(beyond)}.")
    return [element("p", remark) for remark in remarks]


def det_figure(name: str, prefixes: Sequence[PrefixReport], curves: Sequence[ScoreCurves]) -> Markup:
    """Misses against false accepts on probit axes, a curve for each prefix, its EER marked."""
    eers = {prefix.dim: prefix.eer for prefix in prefixes}
    low, high = _det_range([eers[curve.dim] for curve in curves if curve.dim in eers])
    ticks = [(tick, f"{100 * tick:g}") for tick in _DET_TICKS if low <= tick <= high]
    panel = Panel(
        Axis("false accepts %", low, high, ticks, _probit),
        Axis("misses %", low, high, ticks, _probit),
        height=410.0,
    )
    inside = [polyline(*panel.place([low, high], [low, high]), "diagonal")]
    above = []
    for series, curve in enumerate(curves):
        inside.append(polyline(*panel.place(curve.false_accepts, curve.misses), line_class(series)))
        eer = eers.get(curve.dim, math.nan)
        if low <= eer <= high:
            (x,), (y,) = panel.place([eer], [eer])
            above.append(mark(x, y, series))
    entries = [
        (series_swatch(series), f"{curve.dim} numbers, EER {percent(eers.get(curve.dim))} %")
        for series, curve in enumerate(curves)
    ]
    dims = ", ".join(str(curve.dim) for curve in curves)
    label = f"DET curves on {name}: misses against false accepts, {dims} numbers"
    return _figure(
        panel.drawing(label, inside, above), _legend(entries), element("p", "Marks are equal error rates.")
    )


def _det_range(eers: Sequence[float]) -> tuple[float, float]:
    """Ticks that leave room on both sides of the EERs."""
    known = [eer for eer in eers if math.isfinite(eer)] or [0.01]
    low = max((tick for tick in _DET_TICKS if tick <= min(known) / 8), default=_DET_TICKS[0])
    high = min((tick for tick in _DET_TICKS if tick >= 4 * max(known)), default=_DET_TICKS[-1])
    return low, max(high, 0.2)


def histogram_figure(
    name: str, prefix: PrefixReport, curve: ScoreCurves, span: tuple[float, float]
) -> Markup:
    """The share of each class at each score, with the thresholds; ``span`` is the range of scores of all plots."""
    shares = [np.array(counts) / max(sum(counts), 1) for counts in (curve.nontargets, curve.targets)]
    top = 100 * max(float(share.max()) for share in shares)
    ticks = [(tick, f"{tick:g}") for tick in round_ticks(*span, 6)]
    y = Axis("% of class", 0.0, 1.1 * top, [(tick, f"{tick:g}") for tick in round_ticks(0.0, top, 4)])
    panel = Panel(Axis("score", *span, ticks), y, width=400.0, height=220.0)
    inside = [
        _steps(panel, curve.bin_edges, 100 * share, kind)
        for share, kind in zip(shares, ("nontargets", "targets"), strict=True)
    ]
    entries = [
        (_sample(kind), words) for kind, words in (("nontargets", "non-target"), ("targets", "target"))
    ]
    points = {key: point for key, point in prefix.thresholds.items() if math.isfinite(point.value)}
    for place, (key, point) in enumerate(points.items()):
        (x,), _ = panel.place([point.value], [0.0])
        class_ = threshold_class(place)
        inside.append(vertical(x, 0.0, panel.inner_height, class_))
        sample = swatch([polyline([0, 34], [7, 7], class_)])
        entries.append((sample, f"{threshold_name(key)}: {number(point.value, 3)}"))
    label = f"Histogram of target and non-target scores on {name} at {prefix.dim} numbers, with thresholds"
    drawing, caption = panel.drawing(label, inside), element("figcaption", _legend(entries))
    return element("figure", element("h4", f"{prefix.dim} numbers"), drawing, caption)


def score_span(curves: Sequence[ScoreCurves]) -> tuple[float, float]:
    """The range of scores that all of ``curves`` lie in."""
    low, high = min(curve.bin_edges[0] for curve in curves), max(curve.bin_edges[-1] for curve in curves)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _steps(panel: Panel, edges: ArrayLike, values: NDArray[np.float64], kind: str) -> Markup:
    """A histogram's outline, closed along the axis."""
    across = np.repeat(np.asarray(edges, dtype=np.float64), 2)
    up = np.concatenate([[0.0], np.repeat(values, 2), [0.0]])
    return polyline(*panel.place(across, up), f"area {kind}")


def _sample(kind: str) -> Markup:
    return swatch([polyline([1, 1, 33, 33], [13, 2, 2, 13], f"area {kind}")])


def _probit(rates: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(ndtri(np.clip(rates, 1e-7, 1.0 - 1e-7)))


def _legend(entries: Sequence[tuple[Markup, str]]) -> Markup:
    return element(
        "ul", *(element("li", sample, join(" ", words)) for sample, words in entries), class_="legend"
    )


def _figure(drawing: Markup, *caption: Markup) -> Markup:
    return element("figure", drawing, element("figcaption", *caption), class_="beside")
