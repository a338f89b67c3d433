"""The record of a run: what it says, its metrics and its resolved configuration, in one folder.

    training.log   every line said, stamped           metrics.jsonl   one JSON object a step or epoch
    config.yaml    the resolved configuration         tensorboard/run-<n>/, wandb/   where switched on
    run.json       whose files these are

A record that cannot be kept (a missing package, no network) is said once and given up, and one that finds no room on
the disk waits for it; the run goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mrl.atomic import link_file
from mrl.config import LoggingConfig
from mrl.console import Console, silent_console
from mrl.errors import MRLError
from mrl.line_file import LineFile, reason
from mrl.progress import ProgressReport
from mrl.stopping import Stopped
from mrl.training.courses import RUN, Records, Resumption, begin, new_name, remember, take_up, unused_number
from mrl.training.retried import RetriedSink
from mrl.training.run_folder import (
    CONFIG,
    LOG,
    METRICS,
    last_recorded,
    make_folder,
    numbered,
    records_until,
    write_config,
    write_records_until,
)
from mrl.training.sinks import MetricsFile, Record, Sink, TensorBoardSink, Value, WandbSink, recorded

T = TypeVar("T")
S = TypeVar("S", bound=Sink)


class Tracker:
    """Console, log and metrics of one run; a context manager.

    The files of another run in the folder, or of another course of this one, are kept under numbered names
    (``metrics.1.jsonl``). A run that is ``resumed`` goes on after that point: its later metrics are dropped, the
    log is appended to, and so is the run of Weights & Biases where the folder says how far it was recorded.

    Args:
        courses: of the run, that from here on last; None where it begins.
        resumed: where it goes on; None where it begins.
        files: false keeps to the console.
        silent: to nothing at all, for all processes but the first.
    """

    def __init__(
        self,
        config: LoggingConfig,
        *,
        run_config: dict[str, Any],
        courses: Sequence[str] | None = None,
        resumed: Resumption | None = None,
        files: bool = True,
        silent: bool = False,
    ) -> None:
        self.courses = list(courses or [new_name()])
        """Of the run up to here, the present one last; for checkpoints."""
        self.course = self.courses[-1]
        self.wandb_run_id = None if resumed is None else resumed.wandb_run_id
        """Id of the Weights & Biases run, for checkpoints; None where there never was one."""
        self._directory = config.directory
        self._console = silent_console() if silent else Console()
        self._sinks: list[Sink] = []
        if silent or not files:
            return
        records = self._attempt(str(config.directory), lambda: self._records(resumed))
        if records is not None:
            self._open_log(run_config, records, resumed)
            self._open_sinks(config, records, resumed)
            self._open_service(config, run_config, records, resumed)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._console.log(_last_words(error))
        self.close(failed=error is not None)

    def say(self, text: str) -> None:
        """Print ``text`` and log it."""
        self._console.say(text)

    def note(self, text: str) -> None:
        """Log ``text`` without printing it."""
        self._console.log(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table and log it as aligned text; every row has a cell for each column."""
        self._console.table(title, columns, rows)

    def progress(
        self, description: str, total: int, initial: int = 0
    ) -> AbstractContextManager[ProgressReport]:
        """Report progress through ``total`` items: ``with ... as bar: bar.advance(1, loss="2.13")``.

        ``initial`` of them are done already. May be nested; ``say`` and ``table`` may be used meanwhile.
        """
        return self._console.progress(description, total, initial)

    def step(self, step: int, values: Mapping[str, Value]) -> None:
        """Record the values of one optimizer step."""
        self._record(Record("step", step, dict(values)))

    def epoch(self, epoch: int, step: int, values: Mapping[str, Value]) -> None:
        """Record the values of one epoch, which ended with ``step``."""
        self._record(Record("epoch", step, dict(values), epoch=epoch))

    def draw_plots(self) -> None:
        """Draw the curves of the recorded metrics as PNG files beside them."""

        def draw() -> list[Path]:
            # Here, because matplotlib is slow to import and most uses of this module draw nothing.
            from mrl.evaluation.plots import write_plots

            return write_plots(self._directory / METRICS, self._directory)

        for path in self._attempt("plots", draw) or []:
            self.say(f"plot: {path}")

    def close(self, *, failed: bool = False) -> None:
        """End all records; ``failed`` marks the run as such. A second call does nothing."""
        while self._sinks:
            sink = self._sinks.pop()
            try:
                sink.close(failed=failed)
            except Exception as error:  # see _record
                self.say(f"{sink.name}: {reason(error)} at its end; some of it may be missing")
        self._console.close()

    def _record(self, record: Record) -> None:
        for sink in list(self._sinks):
            try:
                sink.write(record)
            except Exception as error:  # days of training are worth more than their record, whatever fails
                self._sinks.remove(sink)
                self.say(f"{sink.name}: {reason(error)}; switched off, the run goes on")

    def _attempt(self, name: str, action: Callable[[], T]) -> T | None:
        """The result of ``action``; None, and one line, where it fails for whatever reason."""
        try:
            return action()
        except Exception as error:  # see _record
            self.say(f"{name}: {reason(error)}; switched off, the run goes on")
            return None

    def _open(self, name: str, factory: Callable[[], S]) -> S | None:
        sink = self._attempt(name, factory)
        if sink is not None:
            self._sinks.append(sink)
        return sink

    def _records(self, resumed: Resumption | None) -> Records:
        """What the folder, made where there is none, has of the run's course; other files are out of the way."""
        make_folder(self._directory)
        if resumed is None:
            return begin(self._directory, self.course)
        return take_up(self._directory, self.course, resumed.left)

    def _open_log(self, run_config: dict[str, Any], records: Records, resumed: Resumption | None) -> None:
        directory = self._directory
        self._console = Console(self._attempt(LOG, lambda: LineFile(directory / LOG)))
        if records.kept:
            whose = "an earlier run" if resumed is None else "another run, or another course of this one,"
            self.say(
                f"files of {whose} are kept: {', '.join(str(directory / name) for name in records.kept)}"
            )
        self._attempt(CONFIG, lambda: write_config(directory, run_config))
        self._attempt(RUN, lambda: remember(directory, records))

    def _open_sinks(self, config: LoggingConfig, records: Records, resumed: Resumption | None) -> None:
        metrics = self._directory / METRICS

        def open_metrics() -> MetricsFile:
            if resumed is not None and records.earlier is not None:
                if records.is_continued and last_recorded(metrics).epoch > (resumed.epoch or 0):
                    link_file(metrics, metrics.with_name(numbered(METRICS, unused_number(self._directory))))
                write_records_until(metrics, records.earlier, resumed.step, resumed.epoch)
            return MetricsFile(metrics)

        def open_tensorboard() -> TensorBoardSink:
            if resumed is None or records.earlier is None:
                return TensorBoardSink(records.tensorboard, None)
            sink = TensorBoardSink(records.tensorboard, resumed.step if records.is_continued else 0)
            try:
                for values in records_until(records.earlier, resumed.step, resumed.epoch):
                    # Of the last step some records stay and some come anew, which its purge cannot tell apart.
                    if not records.is_continued or values["step"] == resumed.step:
                        sink.write(recorded(values))
            except OSError:
                sink.discard()
                raise
            return sink

        self._open(METRICS, lambda: RetriedSink(METRICS, open_metrics, self.say))
        if config.tensorboard:
            name = TensorBoardSink.name
            self._open(name, lambda: RetriedSink(name, open_tensorboard, self.say))

    def _open_service(
        self,
        config: LoggingConfig,
        run_config: dict[str, Any],
        records: Records,
        resumed: Resumption | None,
    ) -> None:
        is_same = resumed is not None and resumed.left == self.course
        run_id = (
            self.wandb_run_id if is_same and records.is_continued else None
        )  # it cannot forget what it has
        is_known, self.wandb_run_id = run_id == self.wandb_run_id, run_id
        if config.wandb == "off":
            return
        if is_same and not is_known:
            self.say(f"{self._directory} does not say what {WandbSink.name} was sent: a new run begins there")
        sink = self._open(WandbSink.name, lambda: WandbSink(config, run_config, run_id, records.reached))
        if sink is not None:
            self.wandb_run_id = sink.run_id
            self.say(f"{sink.name}: {sink.status}")


def _last_words(error: BaseException) -> str:
    """How the log ends when the run does: a user's mistake in its own words, a defect with its traceback."""
    if isinstance(error, Stopped) and error.saved is not None:
        return f"stopped {error}; saved: {error.saved}; it goes on with --resume {error.resume}"
    if isinstance(error, MRLError) or not isinstance(error, Exception):
        return f"stopped: {str(error) or type(error).__name__}"
    return "".join(traceback.format_exception(error))
