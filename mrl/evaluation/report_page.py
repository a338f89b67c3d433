"""A report as one HTML page that needs nothing else: no script, no network, readable on a phone and on paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import PurePath

from mrl.evaluation.markup import Markup, element, join
from mrl.evaluation.report_plots import det_figure, eer_figure, histogram_figure, score_span
from mrl.evaluation.report_tables import (
    NONE,
    ReportTable,
    cascade_table,
    comparison_table,
    confidence_text,
    error_table,
    interval_text,
    list_counts,
    number,
    percent,
    search_table,
    threshold_table,
)
from mrl.evaluation.results import Grid, ListReport, Report, ScoreCurves

_DARKEST = 0.42  # opacity behind the worst number of a grid; text stays readable on it


def report_page(report: Report, curves: Sequence[ScoreCurves]) -> str:
    """The page. Sections whose parts are not in ``report`` or ``curves`` are left out."""
    title = f"Evaluation of {PurePath(report.encoder).name}"
    by_list = {
        item.name: [curve for curve in curves if curve.list_name == item.name] for item in report.lists
    }
    style = files("mrl.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", report.encoder, class_="path")),
        element(
            "main",
            *_summary(report),
            *(
                _list_section(place, item, by_list[item.name], report.confidence)
                for place, item in enumerate(report.lists, start=1)
            ),
            *_search(report),
            _method(report),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _summary(report: Report) -> Iterator[Markup]:
    """The recommendations in words, the EERs at a glance, and the way to each list."""
    advice = [
        join(element("dt", item.name), element("dd", item.recommendation))
        for item in report.lists
        if item.recommendation
    ]
    if advice:
        heading = element("h2", "Which dimension to ship", id="recommendation")
        yield _section(heading, element("dl", *advice, class_="advice"))
    if report.lists:
        links = (
            element("li", element("a", item.name, href=f"#list-{place}"))
            for place, item in enumerate(report.lists, start=1)
        )
        contents = (
            [element("nav", element("ul", *links), aria_label="Trial lists")] if len(report.lists) > 1 else []
        )
        yield _section(element("h2", "At a glance"), _table(_glance(report)), *contents)


def _glance(report: Report) -> ReportTable:
    dims = sorted({prefix.dim for item in report.lists for prefix in item.prefixes})
    rows: list[tuple[str, ...]] = []
    has_intervals = False
    for item in report.lists:
        found = {prefix.dim: prefix for prefix in item.prefixes}
        rows.append((item.name, *(percent(found[dim].eer) if dim in found else NONE for dim in dims)))
        if any(prefix.interval for prefix in item.prefixes):
            has_intervals = True
            rows.append(("", *(interval_text(found[dim].interval) if dim in found else NONE for dim in dims)))
    below = f", with the {confidence_text(report.confidence)} interval below each" if has_intervals else ""
    return ReportTable(f"EER in % by dimension{below}", ("list", *map(str, dims)), tuple(rows))


def _list_section(place: int, item: ListReport, curves: Sequence[ScoreCurves], confidence: float) -> Markup:
    official = f" Its content is that of {item.official_name}." if item.official_name else ""
    parts = [
        element("h2", item.name, id=f"list-{place}"),
        element("p", f"{list_counts(item)}.{official}"),
        element("h3", "EER against dimension"),
        eer_figure(item, confidence),
        _table(error_table(item.prefixes, confidence)),
        _table(threshold_table(item.prefixes, item.num_trials - item.num_targets)),
    ]
    if item.normalised or item.centred or item.baselines:
        parts += [element("h3", "Compared with"), _table(comparison_table(item, confidence))]
    if curves:
        parts += [element("h3", "DET curves"), det_figure(item.name, item.prefixes, curves)]
        parts += [element("h3", "Scores and thresholds"), _histograms(item, curves)]
    for grid in (item.durations, item.precisions):
        if grid is not None:
            parts += [element("h3", grid.title), _heat_table(grid)]
    if item.cascade:
        parts += [element("h3", "Cascade"), _table(cascade_table(item.cascade))]
    return _section(*parts)


def _histograms(item: ListReport, curves: Sequence[ScoreCurves]) -> Markup:
    by_dim = {curve.dim: curve for curve in curves}
    span = score_span(curves)
    drawn = [
        histogram_figure(item.name, prefix, by_dim[prefix.dim], span)
        for prefix in item.prefixes
        if prefix.dim in by_dim
    ]
    return element("div", *drawn, class_="figures")


def _search(report: Report) -> Iterator[Markup]:
    if report.search:
        yield _section(element("h2", "Search"), _table(search_table(report.search)))


def _method(report: Report) -> Markup:
    """How all of it was measured, so that it can be measured again."""
    facts = [("Encoder", report.encoder), ("Dimensions", ", ".join(map(str, report.dims)))]
    if report.command:
        facts.append(("Command", report.command))
    if report.resamples:
        of = f"{confidence_text(report.confidence)}, {report.resamples:,} bootstrap resamples of the speakers"
        facts.append(("Intervals", of))
    facts.append(("Costs in minDCF", f"miss {report.cost_miss:g}, false accept {report.cost_false_accept:g}"))
    for item in report.lists:
        known = f"{item.official_name}, " if item.official_name else ""
        facts.append((f"List {item.name}", f"{known}SHA-256 {item.sha256}"))
    if report.seconds:
        spent = ", ".join(f"{part} {number(seconds, 1)} s" for part, seconds in report.seconds.items())
        facts.append(("Time", spent))
    pairs = (join(element("dt", name), element("dd", value)) for name, value in facts)
    return _section(
        element("h2", "How it was measured"),
        element("dl", *pairs, class_="facts"),
        element(
            "p",
            "EER: the rate at which false accepts and misses are equal. minDCF: the least detection cost over all "
            "thresholds, 1 being that of a system without information, at the target prior in the heading. Cllr: cost "
            "of the calibrated scores in bits, min Cllr that after the best monotone map. FAR: share of non-target "
            "trials accepted. Scores are cosines unless said otherwise.",
        ),
    )


def _section(*parts: Markup) -> Markup:
    return element("section", *parts)


def _table(table: ReportTable) -> Markup:
    """The table; a row that continues the one above is set smaller, and shares its heading."""
    head = element("tr", *(element("th", column, scope="col") for column in table.columns))
    rows = []
    continued = [not row[0] for row in table.rows[1:]] + [False]
    for (first, *texts), goes_on in zip(table.rows, continued, strict=True):
        cells = [element("td", text) for text in texts]
        if first:
            name = element("th", first, scope="row", rowspan=2 if goes_on else None)
            rows.append(element("tr", name, *cells))
        else:
            rows.append(element("tr", *cells, class_="below"))
    return _framed(table.title, head, rows)


def _heat_table(grid: Grid) -> Markup:
    """A grid with the worse EERs behind more colour, on a logarithmic scale."""
    known = [math.log(eer) for row in grid.eers for eer in row if math.isfinite(eer) and eer > 0]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    sizes = grid.bytes_per_speaker
    rows = []
    for index, (name, eers) in enumerate(zip(grid.rows, grid.eers, strict=True)):
        cells = []
        for place, eer in enumerate(eers):
            heat = (math.log(eer) - low) / (high - low) if high > low and eer > 0 else 0.0
            size = element("small", f"{sizes[index][place]:,} B") if sizes else Markup("")
            style = f"background:rgb(213 94 0 / {_DARKEST * heat:.2f})"
            cells.append(element("td", percent(eer), size, style=style))
        rows.append(element("tr", element("th", name, scope="row"), *cells))
    head = element("tr", element("td"), *(element("th", str(dim), scope="col") for dim in grid.dims))
    sized = ", with the bytes of a speaker's embedding below each" if sizes else ""
    return _framed(f"EER in % by dimension{sized}; more colour is worse", head, rows)


def _framed(title: str, head: Markup, rows: Sequence[Markup]) -> Markup:
    """The table in a frame that scrolls sideways where the screen is narrow; its title stays in sight."""
    table = element("table", element("thead", head), element("tbody", *rows))
    # Reachable by keyboard, as what scrolls has to be.
    frame = element("div", table, class_="scroll", tabindex="0", role="region", aria_label=title)
    return element("figure", element("figcaption", title), frame, class_="table")
