"""The tables of an evaluation."""

from __future__ import annotations

import io
import math
from dataclasses import replace

from mrl.console import Console
from mrl.evaluation.report_tables import (
    comparison_table,
    error_table,
    grid_table,
    list_tables,
    print_report,
    search_table,
    systems,
    threshold_name,
    threshold_table,
)
from mrl.evaluation.results import (
    Baseline,
    Calibration,
    Grid,
    Interval,
    PrefixReport,
    Report,
    ScoreStatistics,
    SearchPoint,
    Threshold,
)
from tests.evaluation.sample_report import bare_report, full_report

PREFIX = PrefixReport(
    dim=64,
    eer=0.01234,
    interval=Interval(0.0101, 0.0151),
    min_dcf={0.01: 0.12345, 0.05: 0.5},
    thresholds={"eer": Threshold(0.31, 0.0123, 0.0124), "far_0.001": Threshold(math.inf, 0.0, 1.0)},
    statistics=ScoreStatistics(0.6, 0.1, 0.0, 0.1),
    calibration=Calibration(20.0, -6.0),
    cllr=0.0512,
    min_cllr=0.0498,
)


def printed(report: Report) -> str:
    stream = io.StringIO()
    print_report(Console(stream=stream), report)
    return stream.getvalue()


def test_error_rates_are_in_percent_with_their_interval() -> None:
    table = error_table([PREFIX], 0.95)
    assert table.columns == ("dim", "EER %", "95 %", "minDCF 0.01", "minDCF 0.05", "Cllr", "min Cllr")
    assert table.rows == (("64", "1.23", "1.01–1.51", "0.1235", "0.5000", "0.051", "0.050"),)


def test_without_intervals_there_is_no_column_for_them() -> None:
    table = error_table([replace(PREFIX, interval=None)], 0.95)
    assert "95 %" not in table.columns
    assert len(table.rows[0]) == len(table.columns)


def test_what_has_no_value_is_a_dash() -> None:
    other = replace(PREFIX, dim=128, min_dcf={}, cllr=math.nan, interval=Interval(math.nan, math.nan))
    assert error_table([PREFIX, other], 0.95).rows[1] == ("128", "1.23", "–", "–", "–", "–", "0.050")


def test_thresholds_come_with_the_errors_made_there() -> None:
    table = threshold_table([PREFIX], 1000)
    assert table.columns == ("dim", "EER", "FAR 0.1 %")
    assert table.rows == (("64", "0.3100", "–"), ("", "1.23 / 1.24", "0.00 / 100.00"))
    assert threshold_table([PREFIX], 999).columns == ("dim", "EER")  # a rate that the list cannot resolve
    assert threshold_name("min_dcf_0.05") == "minDCF 0.05"
    assert threshold_name("far_0.01") == "FAR 1 %"


def test_systems_are_compared_at_every_dimension_of_any() -> None:
    baseline = Baseline("released", (64, 192), (0.02, 0.03), (None, Interval(0.01, 0.04)))
    item = replace(bare_report().lists[0], prefixes=(PREFIX,), baselines=(baseline,), normalised=(PREFIX,))
    assert [system.name for system in systems(item)] == ["this encoder", "with AS-norm", "released"]
    table = comparison_table(item, 0.9)
    assert table.title == "EER in %, with the 90 % interval below each"
    assert table.columns == ("", "64", "192")
    assert table.rows == (
        ("this encoder", "1.23", "–"),
        ("", "1.01–1.51", "–"),
        ("with AS-norm", "1.23", "–"),
        ("", "1.01–1.51", "–"),
        ("released", "2.00", "3.00"),
        ("", "–", "1.00–4.00"),
    )


def test_a_grid_shows_sizes_where_they_are_known() -> None:
    grid = Grid("Precision", ("float32", "binary"), (64, 256), ((0.01, 0.02), (0.03, math.nan)))
    assert grid_table(grid).rows == (("float32", "1.00", "2.00"), ("binary", "3.00", "–"))
    sized = replace(grid, bytes_per_speaker=((256, 1024), (8, 32)))
    assert grid_table(sized).rows == (
        ("float32", "1.00", "2.00"),
        ("", "256 B", "1,024 B"),
        ("binary", "3.00", "–"),
        ("", "8 B", "32 B"),
    )


def test_a_search_is_a_row_and_an_exact_one_has_no_shortlist() -> None:
    exact = SearchPoint("exact", 64, 256, 1_000_000, 0, 1.0, 11.6, 1024.0)
    short = SearchPoint("int8", 64, 256, 1_000_000, 100, 0.9921, 937.4, 64.24)
    table = search_table([exact, short])
    assert table.title.endswith("1,000,000 enrolled")
    assert table.rows == (
        ("exact", "256", "–", "100.00", "12", "1,024"),
        ("int8", "64→256", "100", "99.21", "937", "64.2"),
    )


def test_the_console_shows_every_part_and_the_recommendations_last() -> None:
    text = printed(full_report())
    for part in ("vox1-o, known as VoxCeleb1-O (cleaned)", "Thresholds", "random rotation", "5 s", "binary"):
        assert part in text
    assert text.index("Cascade") < text.index("Shortlists")
    assert text.rstrip().splitlines()[-1].startswith("call-centre: 192 numbers.")


def test_tables_are_readable_on_80_columns() -> None:
    report = full_report()
    for table in [*list_tables(report.lists[0], 0.95), search_table(report.search)]:
        widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
        rules = 3 * len(widths) + 1  # between the columns of a table on a terminal
        assert sum(widths) + rules <= 80, table.title


def test_parts_that_were_not_asked_for_are_not_shown() -> None:
    assert [table.title.split(",")[0] for table in list_tables(bare_report().lists[0], 0.95)] == [
        "Error rates",
        "Thresholds",
    ]
    assert "Shortlists" not in printed(bare_report())
