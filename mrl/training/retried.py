"""A sink of records that a full disk, or a share that is away, interrupts and does not end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from mrl.line_file import reason
from mrl.training.sinks import Record, Sink

_RETRY_SECONDS = 60.0
_MOST_WAITING = 20_000  # records, of some kilobytes each


class RetriedSink:
    """What ``factory`` opens, opened and written when that is possible: records wait in memory until then.

    An OSError is said once, and its end too; any other error is raised. ``factory`` is called until it succeeds.
    """

    def __init__(self, name: str, factory: Callable[[], Sink], say: Callable[[str], None]) -> None:
        self.name = name
        self._factory = factory
        self._say = say
        self._sink: Sink | None = None
        self._waiting: deque[Record] = deque(maxlen=_MOST_WAITING)
        self._num_lost = 0
        self._retry_at: float | None = None
        """When a failure is behind it."""
        self._try()

    def write(self, record: Record) -> None:
        self._num_lost += len(self._waiting) == _MOST_WAITING
        self._waiting.append(record)
        if self._retry_at is None or time.monotonic() >= self._retry_at:
            self._try()

    def close(self, *, failed: bool) -> None:
        self._try()
        if self._waiting:
            self._say(f"{self.name}: the last {len(self._waiting):,} records could not be written")
        if self._sink is not None:
            self._sink.close(failed=failed)

    def _try(self) -> None:
        """Open what is not open, write what waits."""
        try:
            if self._sink is None:
                self._sink = self._factory()
            while self._waiting:
                self._sink.write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if self._retry_at is None:
                self._say(f"{self.name}: {reason(error)}; tried again each minute, the run goes on")
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return
        if self._retry_at is not None:
            lost = f"; {self._num_lost:,} records are lost" if self._num_lost else ""
            self._say(f"{self.name}: written again{lost}")
            self._retry_at, self._num_lost = None, 0
