"""Lines, tables and progress: on a terminal, elsewhere, and where writing fails."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import pytest
from rich.errors import LiveError

from mrl.console import Console
from mrl.line_file import LineFile
from mrl.progress import ProgressReport

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        """What was written, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


@pytest.fixture
def log(tmp_path: Path) -> LineFile:
    return LineFile(tmp_path / "training.log")


def words(tmp_path: Path) -> list[str]:
    """The log without its stamps."""
    lines = (tmp_path / "training.log").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(f"^{STAMP}(  )?", "", line) for line in lines]


def test_each_line_of_a_text_is_one_stamped_line(log: LineFile, tmp_path: Path) -> None:
    stream = io.StringIO()
    Console(log, stream=stream).say("first\nsecond [bold]x[/bold] :smile:\r\nthird\u2028fourth")
    assert words(tmp_path) == ["first", "second [bold]x[/bold] :smile:", "third", "fourth"]
    assert "second [bold]x[/bold] :smile:" in stream.getvalue()


def test_long_lines_are_not_wrapped_where_nobody_looks(log: LineFile) -> None:
    stream = io.StringIO()
    Console(log, stream=stream).say("word " * 100)
    assert stream.getvalue().count("\n") == 1


def test_a_plain_table_is_aligned(log: LineFile, tmp_path: Path) -> None:
    stream = io.StringIO()
    Console(log, stream=stream).table(
        "epoch 3: new best", ["list", "dim", "EER %"], [["vox1-o", 64, "1.25"], ["far", 256, "10.50"]]
    )
    expected = [
        "epoch 3: new best",
        "list    dim  EER %",
        "------  ---  -----",
        "vox1-o   64   1.25",
        "far     256  10.50",
    ]
    assert stream.getvalue().splitlines() == expected
    assert words(tmp_path) == expected


def test_a_drawn_table_is_plain_in_the_log(terminal: Terminal, log: LineFile, tmp_path: Path) -> None:
    Console(log, stream=terminal).table("scores", ["dim", "EER %"], [[64, "[red]1.25"]])
    assert "┃" in terminal.shown()
    assert "[red]1.25" in terminal.shown()
    assert words(tmp_path)[1:] == ["dim  EER %", "---  ---------", " 64  [red]1.25"]


def test_characters_that_the_console_lacks_are_replaced(log: LineFile, tmp_path: Path) -> None:
    raw = io.BytesIO()
    console = Console(log, stream=io.TextIOWrapper(raw, encoding="ascii"))
    console.say("sprecher Müller")
    console.say("next")
    assert raw.getvalue().decode("ascii").splitlines() == ["sprecher M?ller", "next"]
    assert words(tmp_path) == ["sprecher Müller", "next"]


def test_a_reader_that_goes_away_costs_the_console_only(log: LineFile, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        console = Console(log, stream=stream)
        console.say("first")
        console.say("second")
        with console.progress("scoring", 2) as bar:
            bar.advance(2)
    assert words(tmp_path)[:3] == ["console: [Errno 32] Broken pipe; switched off", "first", "second"]
    assert words(tmp_path)[3].startswith("scoring: 2/2")


def test_a_terminal_that_goes_away_does_not_end_a_live_bar(terminal: Terminal, log: LineFile) -> None:
    console = Console(log, stream=terminal)
    with console.progress("epoch", 2) as bar:
        terminal.close()
        bar.advance()
        console.say("still here")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here to play a full disk")
def test_a_full_disk_costs_the_log_only() -> None:
    stream = io.StringIO()
    console = Console(LineFile(Path("/dev/full")), stream=stream)
    console.say("first")
    console.say("second")
    lines = stream.getvalue().splitlines()
    assert [lines[0], lines[-1]] == ["first", "second"]
    assert lines[1].startswith("training.log: ")
    assert "No space left" in lines[1]
    assert len(lines) == 3


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def report_lines(steps: int, seconds_per_step: float, initial: int = 0) -> list[str]:
    clock, lines = Clock(), []
    report = ProgressReport("epoch 1", steps, initial, emit=lines.append, clock=clock)
    for step in range(initial, steps):
        clock.now += seconds_per_step
        report.advance(1, loss=f"{step:.1f}")
    report.end()
    return lines


def test_a_short_work_says_its_end_only() -> None:
    assert report_lines(steps=100, seconds_per_step=0.05) == [
        "epoch 1: 100/100 in 0:00:05, 20.0/s, loss 99.0"
    ]


def test_a_long_work_says_each_tenth() -> None:
    lines = report_lines(steps=100, seconds_per_step=2.0)
    assert [line.split()[2] for line in lines] == [
        *(f"{tenth}0/100" for tenth in range(1, 10)),
        "100/100",
    ]
    assert lines[0] == "epoch 1: 10/100 (10 %), 0.5/s, 0:00:20 elapsed, 0:03:00 left, loss 9.0"


def test_a_very_long_work_is_not_silent_for_more_than_a_minute() -> None:
    assert len(report_lines(steps=7200, seconds_per_step=1.0)) == 120


def test_rate_and_time_left_do_not_count_what_was_done_before() -> None:
    lines = report_lines(steps=100, seconds_per_step=2.0, initial=80)
    assert lines[0].startswith("epoch 1: 90/100 (90 %), 0.5/s, 0:00:20 elapsed, 0:00:20 left")
    assert lines[-1].startswith("epoch 1: 100/100 in 0:00:40, 0.5/s")


def test_work_that_is_cut_short_says_where() -> None:
    stream = io.StringIO()
    console = Console(stream=stream)

    def work() -> None:
        with console.progress("epoch 1", 8) as bar:
            bar.advance(n=3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue().startswith("epoch 1: stopped at 3/8 in 0:00:00")


def test_nothing_to_do_is_no_error() -> None:
    stream = io.StringIO()
    with Console(stream=stream).progress("scoring", 0):
        pass
    assert stream.getvalue().startswith("scoring: 0/0")


def test_live_bars_nest_and_repeat(terminal: Terminal, log: LineFile, tmp_path: Path) -> None:
    console = Console(log, stream=terminal)
    for epoch in (1, 2):
        try:
            with console.progress(f"epoch {epoch}", 10, initial=4) as outer:
                outer.advance(2, loss="1.5", lr="1e-03")
                with console.progress(f"scoring {epoch}", 3) as inner:
                    inner.advance(3)
                    console.say(f"said in {epoch}")
                    console.table("table", ["a"], [["1"]])
                outer.advance(4)
        except LiveError:
            pytest.fail("a second live display was started")
    shown = terminal.shown()
    assert "6/10" in shown
    assert "loss 1.5, lr 1e-03" in shown
    assert re.search(r"\rsaid in 1 *\n", shown), "a bar shares the line of a text"
    said = words(tmp_path)
    assert [line.split(" in ")[0] for line in said if "in 0:00" in line] == [
        "scoring 1: 3/3",
        "epoch 1: 10/10",
        "scoring 2: 3/3",
        "epoch 2: 10/10",
    ]


def test_a_live_bar_fits_a_narrow_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with Console(stream=terminal).progress("head epoch 12/15", 2500) as bar:
        bar.advance(1200, loss="12.345", speed="1234 utt/s")
        deadline = time.monotonic() + 5.0
        while "1200/2500" not in terminal.shown() and time.monotonic() < deadline:
            time.sleep(0.05)  # the bar is redrawn four times a second
    drawn = [line for line in re.split(r"[\r\n]+", terminal.shown()) if "epoch 12/15" in line]
    assert all(len(line) <= 80 for line in drawn)
    assert any("1200/2500" in line and "loss 12.345" in line for line in drawn)
