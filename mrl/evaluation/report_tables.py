"""A report as tables, the same on the console and on the page. Rates in percent; a dash is what was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from mrl.console import Console
from mrl.evaluation.detection import unresolved_rates
from mrl.evaluation.results import (
    Baseline,
    CascadePoint,
    Grid,
    Interval,
    ListReport,
    PrefixReport,
    Report,
    SearchPoint,
)

NONE = "–"
T = TypeVar("T")


class ReportTable(NamedTuple):
    """Cells as text; a row that continues the one above has an empty first cell."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def print_report(console: Console, report: Report) -> None:
    """Everything on the console, the recommendations last."""
    for item in report.lists:
        console.say(list_heading(item))
        for table in list_tables(item, report.confidence):
            console.say("")
            console.table(*table)
        console.say("")
    if report.search:
        console.table(*search_table(report.search))
        console.say("")
    for item in report.lists:
        if item.recommendation:
            console.say(f"{item.name}: {item.recommendation}")


def list_heading(item: ListReport) -> str:
    """``vox1-o, known as VoxCeleb1-O: 37,611 trials (18,802 targets), 4,708 utterances``."""
    official = f", known as {item.official_name}" if item.official_name else ""
    return f"{item.name}{official}: {list_counts(item)}"


def list_counts(item: ListReport) -> str:
    return f"{item.num_trials:,} trials ({item.num_targets:,} targets), {item.num_utterances:,} utterances"


def list_tables(item: ListReport, confidence: float) -> Iterator[ReportTable]:
    """All tables of one list; those without content are left out."""
    yield error_table(item.prefixes, confidence)
    yield threshold_table(item.prefixes, item.num_trials - item.num_targets)
    if item.normalised or item.centred or item.baselines:
        yield comparison_table(item, confidence)
    for grid in (item.durations, item.precisions):
        if grid is not None:
            yield grid_table(grid)
    if item.cascade:
        yield cascade_table(item.cascade)


def error_table(prefixes: Sequence[PrefixReport], confidence: float) -> ReportTable:
    """How good each prefix is."""
    priors = _union(prefix.min_dcf for prefix in prefixes)
    has_intervals = any(prefix.interval is not None for prefix in prefixes)
    columns = (
        "dim",
        "EER %",
        *((confidence_text(confidence),) if has_intervals else ()),
        *(f"minDCF {prior:g}" for prior in priors),
        "Cllr",
        "min Cllr",
    )
    rows = tuple(
        (
            str(prefix.dim),
            percent(prefix.eer),
            *((interval_text(prefix.interval),) if has_intervals else ()),
            *(number(prefix.min_dcf.get(prior), 4) for prior in priors),
            number(prefix.cllr, 3),
            number(prefix.min_cllr, 3),
        )
        for prefix in prefixes
    )
    return ReportTable("Error rates", columns, rows)


def threshold_table(prefixes: Sequence[PrefixReport], num_nontargets: int) -> ReportTable:
    """The score to accept from, by purpose; below it what is falsely accepted and missed there.

    A false-accept rate below one of ``num_nontargets`` trials is left out: nobody has measured it.
    """
    names = [
        name
        for name in _union(prefix.thresholds for prefix in prefixes)
        if not name.startswith("far_") or not unresolved_rates([float(name[4:])], num_nontargets)
    ]
    rows: list[tuple[str, ...]] = []
    for prefix in prefixes:
        points = [prefix.thresholds.get(name) for name in names]
        rows.append((str(prefix.dim), *(number(point and point.value, 4) for point in points)))
        rows.append(
            (
                "",
                *(
                    f"{percent(point.false_accepts)} / {percent(point.misses)}" if point else NONE
                    for point in points
                ),
            )
        )
    title = "Thresholds, with false accepts / misses in % below each"
    return ReportTable(title, ("dim", *map(threshold_name, names)), tuple(rows))


def threshold_name(key: str) -> str:
    """``min_dcf_0.01`` as ``minDCF 0.01``, ``far_0.001`` as ``FAR 0.1 %``."""
    if key.startswith("far_"):
        return f"FAR {100 * float(key.removeprefix('far_')):g} %"
    if key.startswith("min_dcf_"):
        return f"minDCF {key.removeprefix('min_dcf_')}"
    return key.upper()


class System(NamedTuple):
    """EERs by dimension of what is compared: the encoder, its scores treated otherwise, a baseline."""

    name: str
    eers: dict[int, float]
    intervals: dict[int, Interval | None]


def systems(item: ListReport) -> list[System]:
    """The encoder itself, first, and all that it is compared with."""
    kinds = [
        ("this encoder", item.prefixes),
        ("with AS-norm", item.normalised),
        ("with the mean taken off", item.centred),
    ]
    found = [_of_prefixes(name, prefixes) for name, prefixes in kinds if prefixes]
    return found + [_of_baseline(baseline) for baseline in item.baselines]


def _of_prefixes(name: str, prefixes: Sequence[PrefixReport]) -> System:
    return System(
        name,
        {prefix.dim: prefix.eer for prefix in prefixes},
        {prefix.dim: prefix.interval for prefix in prefixes},
    )


def _of_baseline(baseline: Baseline) -> System:
    return System(
        baseline.name,
        dict(zip(baseline.dims, baseline.eers, strict=True)),
        dict(zip(baseline.dims, baseline.intervals, strict=True)),
    )


def comparison_table(item: ListReport, confidence: float) -> ReportTable:
    """EER of each system at each dimension, its interval below."""
    compared = systems(item)
    dims = sorted(_union(system.eers for system in compared))
    rows: list[tuple[str, ...]] = []
    for system in compared:
        rows.append((system.name, *(percent(system.eers.get(dim)) for dim in dims)))
        if any(system.intervals.values()):
            rows.append(("", *(interval_text(system.intervals.get(dim)) for dim in dims)))
    title = f"EER in %, with the {confidence_text(confidence)} interval below each"
    return ReportTable(title, ("", *map(str, dims)), tuple(rows))


def grid_table(grid: Grid) -> ReportTable:
    """EER by the grid's own axis and the prefix; where sizes are known, bytes of a speaker's embedding below."""
    rows: list[tuple[str, ...]] = []
    for index, (name, eers) in enumerate(zip(grid.rows, grid.eers, strict=True)):
        rows.append((name, *map(percent, eers)))
        if grid.bytes_per_speaker:
            rows.append(("", *(f"{size:,} B" for size in grid.bytes_per_speaker[index])))
    return ReportTable(f"{grid.title}: EER in %", ("", *map(str, grid.dims)), tuple(rows))


def cascade_table(points: Sequence[CascadePoint]) -> ReportTable:
    columns = ("dims", "band of scores", "unsure %", "EER %", "(full)", "minDCF", "(full)")
    rows = tuple(
        (
            f"{point.small_dim}→{point.full_dim}",
            f"{number(point.low, 3)} to {number(point.high, 3)}",
            percent(point.escalation_rate, 1),
            percent(point.eer),
            percent(point.full_eer),
            number(point.min_dcf, 4),
            number(point.full_min_dcf, 4),
        )
        for point in points
    )
    title = (
        "Cascade: the short prefix decides, the full one inside a band. A row for each share of unsure trials that the "
        "band was chosen for, on half of the speakers; measured on the others, with the full size beside it"
    )
    return ReportTable(title, columns, rows)


def search_table(points: Sequence[SearchPoint]) -> ReportTable:
    """How well and how fast short prefixes find what the full size finds; a search without shortlist is exact."""
    enrolled = " and ".join(f"{count:,}" for count in dict.fromkeys(point.enrolled for point in points))
    columns = ("method", "dims", "shortlist", "recall %", "queries/s", "MB")
    rows = tuple(
        (
            point.method,
            f"{point.small_dim}→{point.full_dim}" if point.shortlist else str(point.full_dim),
            f"{point.shortlist:,}" if point.shortlist else NONE,
            percent(point.recall),
            number(point.queries_per_second, 0),
            number(point.megabytes, 0 if point.megabytes >= 100 else 1),
        )
        for point in points
    )
    return ReportTable(
        f"Shortlists by a short prefix, re-ranked at full size; {enrolled} enrolled", columns, rows
    )


def percent(share: float | None, digits: int = 2) -> str:
    return number(None if share is None else 100 * share, digits)


def number(value: float | None, digits: int) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def interval_text(interval: Interval | None) -> str:
    """``0.98–1.31``, in percent."""
    if interval is None or not all(map(math.isfinite, interval)):
        return NONE
    return f"{percent(interval.low)}–{percent(interval.high)}"


def _union(parts: Iterable[Iterable[T]]) -> list[T]:
    """Everything in ``parts`` once, in the order of its first appearance."""
    return list(dict.fromkeys(item for part in parts for item in part))


def confidence_text(confidence: float) -> str:
    return f"{100 * confidence:g} %"
