"""The data of a run: long scans say how far they are; lists that a run made are found again."""

from __future__ import annotations

from pathlib import Path

from mrl.data.assemble import _ScanReport


def test_a_long_scan_says_how_far_it_is():
    times = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    lines: list[str] = []
    report = _ScanReport(Path("speech"), lines.append, clock=lambda: next(times))
    for found in (1000, 2000, 10, 9000):
        report(found)
    assert lines == [
        "scanning speech: 3,000 utterances so far, 500/s",
        "scanning speech: 12,010 utterances so far, 1,001/s",
    ]
