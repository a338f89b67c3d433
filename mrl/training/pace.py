"""How fast an epoch goes, and how much of the time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mrl.training.step_module import StepBatch


class Speed(NamedTuple):
    """Of the epoch so far, over all processes."""

    utterances_per_second: float
    wait_share: float  # of the time, spent waiting for data


class Pace:
    """Measures an iteration over batches, of which each of ``num_processes`` has as many."""

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        self._started = time.perf_counter()
        self._waited, self._utterances = 0.0, 0

    def timed(self, batches: Iterable[StepBatch]) -> Iterator[StepBatch]:
        """``batches``, counted and waited for."""
        asked = self._started
        for batch in batches:
            self._waited += time.perf_counter() - asked
            self._utterances += self._num_processes * len(batch.inputs)
            yield batch
            asked = time.perf_counter()

    def speed(self) -> Speed:
        """Up to now."""
        elapsed = time.perf_counter() - self._started
        return Speed(self._utterances / elapsed, self._waited / elapsed)
