"""TensorBoard's event files, written at once and in this thread.

PyTorch's writer leaves it to a thread of its own, where a full disk prints a traceback, and the run learns of it later
or at a close that fails. Format: ``event.proto`` and ``record_writer.py`` of TensorBoard.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from mrl.line_file import WholeWrites

_VERSION = "brain.Event:2"  # what TensorBoard looks for in the first event


class EventFile:
    """A new event file in ``folder``. With ``purge_step``, scalars from that step on of older files are forgotten."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{started:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._file = WholeWrites(self._path)
        self._records = RecordWriter(self._file)
        try:
            self._write(file_version=_VERSION)
            if purge_step is not None:
                self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        except OSError:
            self.discard()
            raise

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write ``values`` at ``step``."""
        named = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=named))

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Close and delete the file."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self, **content: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
