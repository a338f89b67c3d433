from __future__ import annotations

import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from mrl.training.event_file import EventFile
from tests.full_disk import full_disk


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_reads_what_was_written_before_the_close(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "run-1", None)
    events.scalars(10, {"train/loss": 2.5, "train/margin": 0.25})
    events.scalars(20, {"train/loss": 1.5})
    there = read(tmp_path / "run-1")
    assert [(event.step, event.value) for event in there.Scalars("train/loss")] == [(10, 2.5), (20, 1.5)]
    assert [(event.step, event.value) for event in there.Scalars("train/margin")] == [(10, 0.25)]
    assert there.FirstEventTimestamp() > 1.7e9
    events.close()


def test_a_full_disk_is_an_error_at_the_write_and_what_was_written_can_be_read(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 64) as folder:
        events = EventFile(folder, None)
        events.scalars(1, {"train/loss": 1.0})
        events.scalars(2, {f"value/{number}": 1.0 for number in range(1000)})
        with pytest.raises(OSError, match=r"No space left|could be written"):
            events.scalars(3, {f"value/{number}": 1.0 for number in range(10_000)})
        events.close()
        assert read(folder).Scalars("train/loss")[0].value == 1.0


def test_files_of_a_folder_are_named_in_the_order_of_their_times(tmp_path: Path) -> None:
    for _ in range(3):
        EventFile(tmp_path, None).close()
    names = sorted(os.listdir(tmp_path), key=lambda name: (tmp_path / name).stat().st_mtime_ns)
    assert len(names) == 3
    assert names == sorted(names)


def test_a_file_that_finds_no_room_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        with pytest.raises(OSError, match="No space left"):
            EventFile(tmp_path, 4)
    assert list(tmp_path.iterdir()) == []
    events = EventFile(tmp_path, None)
    assert len(list(tmp_path.iterdir())) == 1
    events.discard()
    assert list(tmp_path.iterdir()) == []
