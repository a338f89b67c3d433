"""The record of a run: what it says, its metrics and its resolved configuration, in one folder.

    training.log   every line said, stamped           metrics.jsonl   one JSON object a step or epoch
    config.yaml    the resolved configuration         tensorboard/run-<n>/, wandb/   where switched on

A record that cannot be kept (a full disk, a missing package, no network) is said once and given up; the run
goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mrl.config import LoggingConfig
from mrl.console import Console, silent_console
from mrl.errors import MRLError
from mrl.line_file import LineFile, reason
from mrl.progress import ProgressReport
from mrl.stopping import Stopped
from mrl.training.run_folder import (
    CONFIG,
    LOG,
    METRICS,
    NON_FINITE,
    NOTHING_YET,
    REACHED,
    drop_records_after,
    make_folder,
    reached_by,
    records_at,
    set_aside,
    tensorboard_folder,
    write_config,
)
from mrl.training.sinks import (
    MetricsFile,
    Record,
    Sink,
    TensorBoardSink,
    Value,
    WandbSink,
    recorded,
)

T = TypeVar("T")
S = TypeVar("S", bound=Sink)


class Tracker:
    """Console, log and metrics of one run; a context manager.

    Without ``resume_step`` the files of an earlier run in the folder are kept under numbered names
    (``metrics.1.jsonl``). With it, the run in the folder goes on after that step (and ``resume_epoch``): later
    metrics are dropped, the log is appended to, and Weights & Biases goes on with ``wandb_run_id``.
    ``files=False`` keeps to the console, ``silent`` to nothing at all: for all processes but the first.
    """

    def __init__(
        self,
        config: LoggingConfig,
        *,
        run_config: dict[str, Any],
        resume_step: int | None = None,
        resume_epoch: int | None = None,
        wandb_run_id: str | None = None,
        files: bool = True,
        silent: bool = False,
    ) -> None:
        self.wandb_run_id = wandb_run_id
        """Id of the Weights & Biases run, for checkpoints; None where there never was one."""
        self._directory = config.directory
        self._console = silent_console() if silent else Console()
        self._sinks: list[Sink] = []
        self._reached = NOTHING_YET
        if silent or not files:
            return
        folder = self._attempt(str(config.directory), lambda: make_folder(config.directory))
        if folder is not None:
            if resume_step is not None and config.wandb != "off":  # before records are dropped
                known = self._attempt("Weights & Biases", lambda: reached_by(config.directory))
                self._reached = known or NOTHING_YET
            self._open_files(config.directory, run_config, resume_step, resume_epoch)
            self._open_services(config, run_config, resume_step)

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

    def _open_files(
        self,
        directory: Path,
        run_config: dict[str, Any],
        resume_step: int | None,
        resume_epoch: int | None,
    ) -> None:
        kept: list[str] | None = None
        if resume_step is None:
            kept = self._attempt(
                "earlier run's files", lambda: set_aside(directory, METRICS, LOG, CONFIG, NON_FINITE, REACHED)
            )
        self._console = Console(self._attempt(LOG, lambda: LineFile(directory / LOG)))
        if kept:
            self.say(f"an earlier run's files are kept: {', '.join(str(directory / name) for name in kept)}")
        self._attempt(CONFIG, lambda: write_config(directory, run_config))

        def open_metrics() -> MetricsFile:
            if resume_step is not None:
                drop_records_after(directory / METRICS, resume_step, resume_epoch)
            return MetricsFile(directory / METRICS)

        self._open(METRICS, open_metrics)

    def _open_services(
        self, config: LoggingConfig, run_config: dict[str, Any], resume_step: int | None
    ) -> None:
        def open_tensorboard() -> TensorBoardSink:
            folder = tensorboard_folder(config.directory, resumed=resume_step is not None)
            sink = TensorBoardSink(folder, resume_step)
            if resume_step is not None:
                # Of this step some records stay and some come anew, which its purge cannot tell apart.
                for values in records_at(config.directory / METRICS, resume_step):
                    sink.write(recorded(values))
            return sink

        if config.tensorboard:
            self._open(TensorBoardSink.name, open_tensorboard)
        if config.wandb != "off":
            sink = self._open(
                WandbSink.name, lambda: WandbSink(config, run_config, self.wandb_run_id, self._reached)
            )
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
