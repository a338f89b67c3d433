from __future__ import annotations

import errno

import pytest

from mrl.training import retried
from mrl.training.retried import RetriedSink
from mrl.training.sinks import Record


class Disk:
    """A sink, and the place that it opens on."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.opened = 0
        self.steps: list[int] = []
        self.closed = False

    def open(self) -> Disk:
        self._look()
        self.opened += 1
        return self

    def write(self, record: Record) -> None:
        self._look()
        self.steps.append(record.step)

    def close(self, *, failed: bool) -> None:
        self.closed = True

    def _look(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    name = "disk"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(retried.time, "monotonic", lambda: now[0])
    return now


def step(number: int) -> Record:
    return Record("step", number, {})


def test_records_wait_while_the_disk_is_full(clock: list[float]) -> None:
    disk, said = Disk(), []
    sink = RetriedSink("metrics.jsonl", disk.open, said.append)
    sink.write(step(1))
    disk.is_full = True
    sink.write(step(2))
    disk.is_full = False
    sink.write(step(3))  # it is not asked at each step
    assert disk.steps == [1]
    assert said == [
        "metrics.jsonl: [Errno 28] No space left on device; tried again each minute, the run goes on"
    ]
    clock[0] += 61
    sink.write(step(4))
    sink.write(step(5))
    assert disk.steps == [1, 2, 3, 4, 5]
    assert said[1:] == ["metrics.jsonl: written again"]
    sink.close(failed=False)
    assert disk.closed
    assert (disk.opened, len(said)) == (1, 2)


def test_what_cannot_be_opened_yet_is_opened_later(clock: list[float]) -> None:
    disk, said = Disk(), []
    disk.is_full = True
    sink = RetriedSink("metrics.jsonl", disk.open, said.append)
    sink.write(step(1))
    disk.is_full = False
    sink.close(failed=False)
    assert disk.steps == [1]
    assert disk.closed
    assert said[1:] == ["metrics.jsonl: written again"]


def test_what_is_lost_at_the_end_is_counted(clock: list[float]) -> None:
    disk, said = Disk(), []
    sink = RetriedSink("metrics.jsonl", disk.open, said.append)
    disk.is_full = True
    for number in range(3):
        sink.write(step(number))
    sink.close(failed=False)
    assert said[1:] == ["metrics.jsonl: the last 3 records could not be written"]
    assert disk.closed


def test_what_waits_too_long_is_lost_and_counted(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retried, "_MOST_WAITING", 3)
    disk, said = Disk(), []
    sink = RetriedSink("metrics.jsonl", disk.open, said.append)
    disk.is_full = True
    for number in range(5):
        sink.write(step(number))
    disk.is_full = False
    sink.close(failed=False)
    assert disk.steps == [2, 3, 4]
    assert said[1:] == ["metrics.jsonl: written again; 2 records are lost"]


def test_other_errors_are_raised(clock: list[float]) -> None:
    def fail() -> Disk:
        raise ImportError("no such package")

    with pytest.raises(ImportError):
        RetriedSink("TensorBoard", fail, print)
