"""Loading with workers near the limit of open files: no batch is lost, and the message says what to raise."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess

import pytest

from mrl.data.corpus import Corpus
from mrl.data.loader import BatchLoader, make_loader
from mrl.data.loading import Crop, CropDataset
from mrl.errors import DataError
from tests.data.crops import SAMPLES
from tests.file_limit import leave_room_for, room_for

PAIRS = [[(0, 2 * pair), (0, 2 * pair + 1)] for pair in range(6)]
ADVICE = "raise the limit of open files (`ulimit -n`)"
PATIENCE_SECONDS = 20.0


class _Short(CropDataset):
    """A worker has little room from its first file on."""

    room = 0
    _is_short = False

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        if multiprocessing.parent_process() is not None and not self._is_short:
            self._is_short = True
            leave_room_for(self.room)
        return super().__getitem__(key)


def outcome(loader: BatchLoader) -> str:
    """The message of the error, empty where all batches came."""
    try:
        assert len(list(loader)) == len(PAIRS)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("room", [0, 2, 4, 6, 8, 12, 16, 60])
def test_a_worker_near_the_limit_loses_no_batch(corpus: Corpus, room: int) -> None:
    dataset = _Short(corpus, SAMPLES, seed=7)
    dataset.room = room
    message = outcome(make_loader(dataset, PAIRS, 1, pin_memory=False, timeout_seconds=PATIENCE_SECONDS))
    assert ADVICE in message or (room > 8 and not message), message
    assert room < 60 or not message
    assert "shm" not in message


@pytest.mark.parametrize("room", [0, 1, 2, 4])
def test_a_main_process_near_the_limit_says_so(corpus: Corpus, room: int) -> None:
    dataset, said = CropDataset(corpus, SAMPLES, 7), []
    loader = make_loader(
        dataset, PAIRS, 1, pin_memory=False, timeout_seconds=PATIENCE_SECONDS, say=said.append
    )
    batches = iter(loader)
    kept = [next(batches)]
    with room_for(room):
        try:
            kept += batches
        except DataError as error:
            message = str(error)
        else:
            pytest.fail("no DataError was raised")
    assert ADVICE in message  # of this process, or of the worker, which may meet its end first
    assert not said


def test_workers_that_cannot_be_started_leave_no_complaint_of_torch(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started, complaints = BaseProcess.start, [], []

    def start_one(process: BaseProcess) -> None:
        if started:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        started.append(process)
        start(process)

    monkeypatch.setattr(BaseProcess, "start", start_one)
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    message = outcome(make_loader(CropDataset(corpus, SAMPLES, 7), PAIRS, 2, pin_memory=False))
    gc.collect()
    assert message == f"a data worker could not be started ([Errno 24] Too many open files); {ADVICE}"
    assert not complaints
    assert not started[0].is_alive()
