"""Files of an evaluation."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrl.data.trial_list import Trial, TrialList
from mrl.errors import DataError
from mrl.evaluation.report_files import ListScores, csv_text, score_lines, write_report
from mrl.evaluation.report_json import read_curves, read_report
from mrl.evaluation.results import Threshold
from tests.evaluation.sample_report import bare_report, full_report, sample_curves

TRIALS = TrialList.from_trials(
    "vox1-o", Path("wav"), [Trial(True, "a/1.wav", "a/2.wav"), Trial(False, "a/1.wav", "caf\udce9/1.wav")]
)


def test_all_files_are_written_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    scores = ListScores(TRIALS, (64, 128), np.array([[0.5, -0.25], [1 / 3, 0.0]]))
    paths = write_report(full_report(), sample_curves(), folder, [scores])
    assert [str(path.relative_to(folder)) for path in paths] == [
        "report.json",
        "report.csv",
        "report.html",
        "scores/vox1-o_64.txt",
        "scores/vox1-o_128.txt",
    ]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(paths)
    assert read_report(folder / "report.json") == full_report()
    assert list(read_curves(folder / "report.json")) == sample_curves()
    assert (folder / "scores" / "vox1-o_128.txt").read_bytes() == (
        b"0.3333333333333333 a/1.wav a/2.wav target\n0.0 a/1.wav caf\xe9/1.wav nontarget\n"
    )


def test_scores_are_on_request_alone(tmp_path: Path) -> None:
    assert len(write_report(bare_report(), [], tmp_path)) == 3
    assert not (tmp_path / "scores").exists()


def test_scores_may_come_one_prefix_at_a_time(tmp_path: Path) -> None:
    written = []

    def rows() -> Iterator[np.ndarray]:
        for _ in (64, 128):
            written.append(len(list(tmp_path.glob("scores/*.txt"))))
            yield np.zeros(2)

    write_report(bare_report(), [], tmp_path, iter([ListScores(TRIALS, (64, 128), rows())]))
    assert written == [0, 1]


def test_lines_are_made_as_they_are_written() -> None:
    lines = score_lines(TRIALS, np.array([0.5, 0.25]))
    assert next(lines) == "0.5 a/1.wav a/2.wav target\n"


def test_names_stay_within_the_folder_and_do_not_meet(tmp_path: Path) -> None:
    def named(name: str) -> ListScores:
        return ListScores(replace(TRIALS, name=name), (64,), np.zeros((1, 2)))

    paths = write_report(bare_report(), [], tmp_path, [named("../../up"), named("a b")])
    assert [path.name for path in paths[3:]] == [".._.._up_64.txt", "a_b_64.txt"]
    assert all(path.parent == tmp_path / "scores" for path in paths[3:])
    with pytest.raises(DataError, match="give a_b another name"):
        write_report(bare_report(), [], tmp_path, [named("a b"), named("a_b")])


def test_the_csv_has_a_row_for_each_list_system_and_dimension() -> None:
    report = full_report()
    text = csv_text(report)
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == 2 * (3 * 4 + 3 * 3)
    keys = {(row["list"], row["system"], row["dim"]) for row in rows}
    assert len(keys) == len(rows)
    assert ("call-centre", "encoder, AS-norm", "64") in keys
    first, prefix = rows[0], report.lists[0].prefixes[0]
    assert prefix.interval is not None
    assert float(first["eer"]) == prefix.eer
    assert (float(first["eer_low"]), float(first["eer_high"])) == tuple(prefix.interval)
    assert float(first["min_dcf_0.05"]) == prefix.min_dcf[0.05]
    assert float(first["threshold_far_0.01"]) == prefix.thresholds["far_0.01"].value
    assert float(first["misses_at_eer"]) == prefix.thresholds["eer"].misses
    assert float(first["calibration_scale"]) == 22.5
    pca = next(row for row in rows if row["system"] == "released, PCA")
    assert float(pca["eer"]) == report.lists[0].baselines[1].eers[0]
    assert pca["min_dcf_0.05"] == ""
    assert None not in pca.values()


def test_a_cell_that_has_no_value_is_empty_and_one_with_a_comma_is_quoted() -> None:
    item = bare_report().lists[0]
    prefix = replace(
        item.prefixes[0], eer=math.nan, thresholds={"eer": Threshold(math.inf, 0.0, 1.0)}, cllr=math.inf
    )
    report = replace(bare_report(), lists=(replace(item, name='a "b", c', prefixes=(prefix,)),))
    text = csv_text(report)
    assert '"a ""b"", c"' in text
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["list"] == 'a "b", c'
    assert [row[key] for key in ("eer", "eer_low", "threshold_eer", "cllr")] == ["", "", "", ""]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file")
    with pytest.raises(DataError, match=r"report\.json: cannot be written") as caught:
        write_report(bare_report(), [], tmp_path / "report")
    assert "\n" not in str(caught.value)


def test_a_failure_leaves_the_earlier_file_whole(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    path = tmp_path / "scores" / "vox1-o_64.txt"
    path.write_text("earlier")
    with pytest.raises(AssertionError):
        write_report(bare_report(), [], tmp_path, [ListScores(TRIALS, (64,), np.zeros((1, 3)))])
    assert path.read_text() == "earlier"
    assert list(path.parent.iterdir()) == [path]
