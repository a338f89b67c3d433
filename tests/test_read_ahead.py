"""Files read ahead: in order, few at a time, errors in their place."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.audio import SAMPLE_RATE, read
from mrl.errors import AudioError, DataError
from mrl.read_ahead import map_ahead, read_ahead
from mrl.stopping import Stopped, deferring, listening


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Twelve files of different lengths."""
    files = [tmp_path / f"{number}.{'flac' if number % 3 else 'wav'}" for number in range(12)]
    for number, path in enumerate(files):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 3000 + 100 * number)
        soundfile.write(path, samples.astype(np.float32), SAMPLE_RATE)
    return files


@pytest.mark.parametrize("workers", [0, 1, 3, 50])
def test_files_come_in_their_order(paths: list[Path], workers: int) -> None:
    for path, samples in zip(paths, read_ahead(paths, workers), strict=True):
        np.testing.assert_array_equal(samples, read(path))


def test_only_the_first_samples_are_read_where_asked(paths: list[Path]) -> None:
    assert [len(samples) for samples in read_ahead(paths, 2, max_samples=99)] == [99] * len(paths)
    assert list(read_ahead([], 2)) == []


def test_an_unreadable_file_is_an_error_in_its_place(paths: list[Path]) -> None:
    paths[5].unlink()
    reader = read_ahead(paths, 3)
    for _ in range(5):
        next(reader)
    with pytest.raises(AudioError, match="no such file"):
        next(reader)


def test_few_results_are_held_and_nothing_begins_after_the_end() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def slowly(number: int) -> int:
        with lock:
            begun.append(number)
        time.sleep(0.001)
        return -number

    results = map_ahead(slowly, range(100), workers=2)
    for taken in range(1, 6):
        assert next(results) == 1 - taken
        time.sleep(0.02)
        assert taken <= len(begun) <= taken + 4
    del results
    left = len(begun)
    time.sleep(0.02)
    assert len(begun) == left


def test_what_hangs_is_named_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for at the end either, nor at exit, since its thread is a daemon."""
    monkeypatch.setattr("mrl.read_ahead.HUNG_SECONDS", 0.6)
    monkeypatch.setattr("mrl.read_ahead._LAST_WAIT_SECONDS", 0.1)
    release = threading.Event()

    def hang_at_three(number: int) -> int:
        if number == 3:
            release.wait(60)
        return number

    results = map_ahead(hang_at_three, range(9), workers=2, name=lambda number: f"share/{number}.wav")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    started = time.monotonic()
    with pytest.raises(DataError, match=r"share/3\.wav: not read within 0\.6 s; look at the disk"):
        next(results)
    assert time.monotonic() - started < 10
    assert any(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    release.set()


def test_a_request_to_stop_is_heard_while_a_result_is_late() -> None:
    release = threading.Event()
    late = map_ahead(lambda _: release.wait(60), range(2), workers=1)
    timer = threading.Timer(2.0, release.set)  # after which the thread may end
    timer.start()
    with listening(), deferring():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            next(late)


def test_a_timeout_of_the_function_is_its_own_error() -> None:
    def late(_: int) -> int:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        next(map_ahead(late, range(3), workers=1))
