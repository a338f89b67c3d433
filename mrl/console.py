"""What a run says: lines, tables and progress, on the console and, stamped, in ``training.log``.

On a terminal, tables are drawn and progress is a live bar; elsewhere (a file, a batch system's log) both are
plain text, progress at a bounded rate. A console or log that cannot be written to never stops the run.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TextIO

import rich.console
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from mrl.line_file import LineFile, reason
from mrl.progress import LiveBars, ProgressReport
from mrl.standard_streams import switch_off


class Console:
    """The console (``stream``, standard output by default, where there is one) and, where given, a log file."""

    def __init__(self, log: LineFile | None = None, *, stream: TextIO | None = None) -> None:
        self._log = log
        self._is_log_whole = True
        self._stream = _LenientStream(stream or sys.stdout or io.StringIO())
        self._rich = rich.console.Console(file=self._stream, soft_wrap=True)  # type: ignore[arg-type]
        self._bars = LiveBars(self._rich)

    @property
    def is_terminal(self) -> bool:
        return self._rich.is_terminal and not self._rich.is_dumb_terminal

    def say(self, text: str) -> None:
        """Print ``text``; the log gets one stamped line for each of its lines."""
        self._rich.print(text, markup=False, emoji=False, highlight=self.is_terminal)
        self.log(text)

    def log(self, text: str) -> None:
        """Write ``text`` to the log alone."""
        lost, self._stream.lost = self._stream.lost, None
        if lost:
            text = f"console: {lost}; switched off\n{text}"
        if self._log is None:
            return
        stamp = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        lines = text.splitlines() or [""]
        was_whole = self._is_log_whole
        try:
            for line in (
                lines if was_whole else ["(lines that could not be written are missing here)", *lines]
            ):
                self._log.write(f"{stamp}  {line}".rstrip())
            self._is_log_whole = True
        except OSError as error:
            self._is_log_whole = False
            if was_whole:
                self.say(
                    f"training.log: {reason(error)}; what finds no room is missing there, the run goes on"
                )

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; columns that hold only numbers are aligned to the right."""
        cells = [[str(cell) for cell in row] for row in rows]
        numeric = [all(_is_number(row[index]) for row in cells) for index in range(len(columns))]
        plain = _plain_table(title, columns, cells, numeric)
        if self.is_terminal:
            self._rich.print(_drawn_table(title, columns, cells, numeric), soft_wrap=False)
            self.log(plain)
        else:
            self.say(plain)

    @contextmanager
    def progress(self, description: str, total: int, initial: int = 0) -> Iterator[ProgressReport]:
        """Report progress through ``total`` items, of which ``initial`` are done already; may be nested."""
        emit = self.log if self.is_terminal else self.say
        with self._bars.bar(description, total, initial, live=self.is_terminal) as bar:
            report = ProgressReport(description, total, initial, bar=bar, emit=emit)
            try:
                yield report
            finally:
                report.end()

    def close(self) -> None:
        """Close the log; later words go to the console alone."""
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None


def silent_console() -> Console:
    """A console that prints nothing."""
    return Console(stream=io.StringIO())


class _LenientStream:
    """A text stream whose failures are kept in ``lost`` instead of raised.

    A reader that goes away (``| head``), a terminal that closes or a full disk would otherwise end the run,
    from any thread that draws. Characters that the encoding lacks are replaced.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_open = True
        self.lost: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._is_open:
            encoding = self._stream.encoding or "utf-8"
            encodable = text.encode(encoding, "replace").decode(encoding)
            try:
                self._stream.write(encodable)
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self._is_open:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._is_open, self.lost = False, reason(error)
        switch_off(self._stream)


def _drawn_table(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for column, is_numeric in zip(columns, numeric, strict=True):
        table.add_column(Text(column), justify="right" if is_numeric else "left")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _plain_table(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> str:
    widths = [max(cell_len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [title]
    for row in (columns, rule, *cells):
        padded = (
            " " * (width - cell_len(cell)) + cell if right else cell + " " * (width - cell_len(cell))
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text.strip().rstrip("%").replace(",", "") or "nan")
    except ValueError:
        return text.strip() in {"-", "–"}
    return True
