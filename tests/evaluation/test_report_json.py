"""A report survives its file."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mrl.errors import DataError
from mrl.evaluation.report_json import read_curves, read_report, report_text
from mrl.evaluation.results import Interval, Report
from tests.evaluation.sample_report import bare_report, full_report, sample_curves


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("report", [full_report(), bare_report()], ids=["full", "bare"])
def test_what_is_read_equals_what_was_written(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "report.json"
    curves = sample_curves()
    path.write_text(report_text(report, curves), encoding="utf-8")
    assert read_report(path) == report
    assert list(read_curves(path)) == curves
    assert isinstance(read_report(path).lists[0].prefixes[0].interval, Interval | None)


def test_the_text_is_stable_and_says_what_it_is() -> None:
    text = report_text(full_report())
    assert text == report_text(full_report())
    content = json.loads(text)
    assert list(content) == ["schema", "version", "report", "curves"]
    assert (content["schema"], content["version"]) == ("redimnet-mrl evaluation", 1)
    first = content["report"]["lists"][0]["prefixes"][0]
    assert list(first["min_dcf"]) == ["0.01", "0.05"]
    assert list(first["interval"]) == ["low", "high"]


def test_what_is_not_finite_is_null_and_comes_back_as_nan(tmp_path: Path) -> None:
    report = full_report()
    prefix = replace(report.lists[0].prefixes[0], cllr=math.inf, min_cllr=math.nan)
    report = replace(report, lists=(replace(report.lists[0], prefixes=(prefix,), curve=(0.5, math.nan)),))
    text = report_text(report)
    first = json.loads(text, parse_constant=pytest.fail)["report"]["lists"][0]
    assert first["prefixes"][0]["cllr"] is None
    assert first["curve"] == [0.5, None]
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    back = read_report(path).lists[0]
    assert math.isnan(back.prefixes[0].cllr)
    assert math.isnan(back.prefixes[0].min_cllr)


def test_a_path_that_is_no_text_survives(tmp_path: Path) -> None:
    report = replace(bare_report(), encoder="caf\udce9/best.pt", command="évaluer 東京")
    path = tmp_path / "report.json"
    path.write_text(report_text(report), encoding="utf-8")
    assert read_report(path) == report


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.update(schema="other"), "not the report.json of an evaluation"),
        (lambda content: content.update(version=2), "a report of version 2, this program reads 1"),
        (lambda content: content.pop("report"), "damaged: report is not there"),
        (lambda content: content["report"].update(lists=3), "report.lists is not a list"),
        (lambda content: content["report"].update(dims=[64, "x"]), r"report.dims\[1\] is not a whole number"),
        (
            lambda content: content["report"]["lists"][0].pop("sha256"),
            r"report.lists\[0\].sha256 is not there",
        ),
        (
            lambda content: content["report"]["lists"][0]["prefixes"][1].update(eer="low"),
            r"report.lists\[0\].prefixes\[1\].eer is not a number",
        ),
        (
            lambda content: content["report"]["lists"][0]["prefixes"][0]["min_dcf"].update(low=1.0),
            r"min_dcf.low: 'low' is not a number",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    content = json.loads(report_text(bare_report()))
    damage(content)
    path = write(tmp_path / "report.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_report(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3"])
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"report\.json: "):
        read_report(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report can be read from it"):
        read_report(tmp_path / "report.json")


def test_a_report_without_a_later_field_can_be_read(tmp_path: Path) -> None:
    content = json.loads(report_text(bare_report()))
    del content["report"]["command"], content["report"]["cost_miss"]
    assert read_report(write(tmp_path / "report.json", content)) == bare_report()
