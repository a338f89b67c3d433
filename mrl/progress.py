"""Progress through a known number of items: live bars on a terminal, bounded plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
SHARE_BETWEEN_LINES = 0.1
LONGEST_SILENCE_SECONDS = 60.0


class ProgressReport:
    """Counts items and says how far the work is.

    A plain line is due once both 10 seconds and 10 % have passed since the last one, or a minute has; one
    more ends the report. ``bar``, where given, is moved as well.
    """

    def __init__(
        self,
        description: str,
        total: int,
        initial: int,
        *,
        emit: Callable[[str], None],
        bar: Bar | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description, self._total, self._initial = description, total, initial
        self._emit, self._bar, self._clock = emit, bar, clock
        self._done = initial
        self._fields: dict[str, str] = {}
        self._started = self._line_time = clock()
        self._line_done = initial

    def advance(self, n: int = 1, **fields: str) -> None:
        """Count ``n`` more items as done; ``fields`` (loss, rate, ...) are shown until they change."""
        self._done += n
        self._fields.update(fields)
        if self._bar is not None:
            self._bar.move(n, self._fields_text())
        now = self._clock()
        silence, items = now - self._line_time, self._done - self._line_done
        is_due = silence >= SECONDS_BETWEEN_LINES and items >= SHARE_BETWEEN_LINES * self._total
        if self._done < self._total and (is_due or silence >= LONGEST_SILENCE_SECONDS):
            self._line_time, self._line_done = now, self._done
            self._emit(self._line(now))

    def end(self) -> None:
        """Say how far the work came and how long it took."""
        seconds = self._clock() - self._started
        stopped = "" if self._done >= self._total else "stopped at "
        parts = [f"{stopped}{self._done}/{self._total} in {_duration(seconds)}", self._rate_text(seconds)]
        self._emit(self._joined(parts))

    def _line(self, now: float) -> str:
        elapsed = now - self._started
        new, left = self._done - self._initial, self._total - self._done
        parts = [
            f"{self._done}/{self._total} ({100 * self._done / self._total:.0f} %)",
            self._rate_text(elapsed),
            f"{_duration(elapsed)} elapsed",
            f"{_duration(elapsed / new * left)} left" if new else "",
        ]
        return self._joined(parts)

    def _rate_text(self, seconds: float) -> str:
        return f"{(self._done - self._initial) / seconds:.1f}/s" if seconds > 0 else ""

    def _fields_text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._fields.items())

    def _joined(self, parts: list[str]) -> str:
        return f"{self._description}: " + ", ".join(part for part in (*parts, self._fields_text()) if part)


@dataclass(frozen=True)
class Bar:
    """One bar of a live display."""

    display: Progress
    task: TaskID

    def move(self, n: int, fields: str) -> None:
        self.display.update(self.task, advance=n, shown=fields)


class LiveBars:
    """The bars that are live now. A terminal has room for one live display, so nested bars share it."""

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        self._display: Progress | None = None

    @contextmanager
    def bar(self, description: str, total: int, initial: int, *, live: bool) -> Iterator[Bar | None]:
        """A bar that goes away when its work ends; None where ``live`` is false."""
        if not live:
            yield None
            return
        is_outermost = self._display is None
        display = self._display = self._display or _live_display(self._console)
        if is_outermost:
            display.start()
        task = display.add_task(description, total=total, completed=initial, shown="")
        try:
            yield Bar(display, task)
        finally:
            display.remove_task(task)
            if is_outermost:
                display.stop()
                self._display = None


class _RateColumn(ProgressColumn):
    """Items per second, over the last moments."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


def _live_display(console: rich.console.Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(min_width=8, ratio=1)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        _RateColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[shown]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        # Workers that are forked while a bar is live would inherit the redirection with a lock that nobody
        # releases, and hang at their first warning.
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
        refresh_per_second=4,
    )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
