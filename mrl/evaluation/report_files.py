"""An evaluation as files: report.json, report.csv, report.html and, on request, every score. K prefixes, N trials."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.atomic import write_atomically
from mrl.data.trial_list import TrialList
from mrl.errors import DataError
from mrl.evaluation.report_json import report_text
from mrl.evaluation.report_page import report_page
from mrl.evaluation.results import Interval, ListReport, PrefixReport, Report, ScoreCurves
from mrl.line_file import reason


class ListScores(NamedTuple):
    """The scores of one list, to be written out."""

    trials: TrialList
    dims: Sequence[int]  # [K]
    scores: Iterable[NDArray[np.float64]]  # [K, N], or one row [N] after the other


def write_report(
    report: Report,
    curves: Sequence[ScoreCurves],
    folder: Path,
    scores: Iterable[ListScores] | None = None,
) -> list[Path]:
    """Write ``report.json``, ``report.csv``, ``report.html`` and ``scores/<list>_<dim>.txt`` into ``folder``.

    Each file appears whole or not at all; those of an earlier evaluation are replaced. Returns what was written.
    Lines of scores are ``score enrolment test target|nontarget``, scores with all their digits.
    Raises DataError where a file cannot be written, or where two lists would share one.
    """
    paths = [folder / name for name in ("report.json", "report.csv", "report.html")]
    _write_text(paths[0], [report_text(report, curves)])
    _write_text(paths[1], [csv_text(report)])
    _write_text(paths[2], [report_page(report, curves)])
    for item in scores or ():
        for dim, row in zip(item.dims, item.scores, strict=True):
            path = folder / "scores" / f"{_file_name(item.trials.name)}_{dim}.txt"
            if path in paths:
                raise DataError(
                    f"{path}: two lists would be written to it; give {item.trials.name} another name"
                )
            _write_text(path, score_lines(item.trials, row))
            paths.append(path)
    return paths


def score_lines(trials: TrialList, scores: NDArray[np.float64]) -> Iterator[str]:
    """``score enrolment test target|nontarget`` for each trial of ``scores`` [N], in the order of the list."""
    assert len(scores) == len(trials), "one score for each trial"
    for score, trial in zip(scores, trials.trials(), strict=True):
        kind = "target" if trial.is_target else "nontarget"
        yield f"{float(score)!r} {trial.enrolment} {trial.test} {kind}\n"


def csv_text(report: Report) -> str:
    """One row for each list, system and dimension (RFC 4180); shares, not percent; empty where not measured."""
    rows = [row for item in report.lists for row in _list_rows(item)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


Row = dict[str, str | int | float]


def _list_rows(item: ListReport) -> Iterator[Row]:
    kinds = (
        ("encoder", item.prefixes),
        ("encoder, AS-norm", item.normalised),
        ("encoder, centred", item.centred),
    )
    for system, prefixes in kinds:
        for prefix in prefixes:
            yield _row(item.name, system, prefix.dim, prefix.eer, prefix.interval) | _details(prefix)
    for baseline in item.baselines:
        for dim, eer, interval in zip(baseline.dims, baseline.eers, baseline.intervals, strict=True):
            yield _row(item.name, baseline.name, dim, eer, interval)


def _row(name: str, system: str, dim: int, eer: float, interval: Interval | None) -> Row:
    low, high = interval if interval is not None else (math.nan, math.nan)
    return _without_gaps(
        {"list": name, "system": system, "dim": dim, "eer": eer, "eer_low": low, "eer_high": high}
    )


def _details(prefix: PrefixReport) -> Row:
    row: Row = {f"min_dcf_{prior:g}": cost for prior, cost in prefix.min_dcf.items()}
    for name, point in prefix.thresholds.items():
        row |= {f"threshold_{name}": point.value}
        row |= {f"false_accepts_at_{name}": point.false_accepts, f"misses_at_{name}": point.misses}
    row |= {"cllr": prefix.cllr, "min_cllr": prefix.min_cllr}
    row |= {f"calibration_{key}": value for key, value in prefix.calibration._asdict().items()}
    return _without_gaps(row | prefix.statistics._asdict())


def _without_gaps(row: Row) -> Row:
    """``row`` with an empty cell for what is not finite."""
    return {
        key: "" if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _write_text(path: Path, parts: Iterable[str]) -> None:
    def write(temporary: Path) -> None:
        # Paths of other encodings reach us as surrogate escapes, and go out as the bytes that they were.
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.writelines(parts)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({reason(error)}); see to disk and rights") from error
