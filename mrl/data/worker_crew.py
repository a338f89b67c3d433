"""torch's DataLoader in a thread of its own, so that it can be given up when its workers die or hang.

Whoever takes over a batch waits without a limit for a worker that dies or hangs just then. And in the main thread
torch would install a handler of SIGCHLD, which raises wherever that thread is when a worker dies, within an update too.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mrl.errors import DataError
from mrl.line_file import reason
from mrl.open_files import ADVICE, is_at_limit

NO_TASK, STARTING, PREPARING = -1, -2, -3
"""Places of a worker that reads none of its task's items: it has no task; before the first item; after the last one."""

_AHEAD = 2  # tasks of each worker that DataLoader wants to have before it gives a result
_LEAVE_SECONDS = 0.3  # for a worker to end by itself, which it does where it leaves no shared memory behind
_LAST_WAIT_SECONDS = 3.0  # for processes that have been killed
_WATCH_SECONDS = 0.5
# A cluster or a terminal signals every process of a job; the main process is to finish and save first.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_IGNORED = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]

Work = Callable[[Any, Callable[[int], None]], Any]
"""From the items of a task to its result; tells the callback the place of each item before it reads it."""


class Task(NamedTuple):
    """Items to read; ``number`` tells tasks apart."""

    number: int
    items: Any


class Death(NamedTuple):
    """The exit code of a worker, and the number of the task, and the place in it, that it was at."""

    exit_code: int
    number: int
    place: int


class Crew:
    """``count`` workers that do ``work`` for tasks.

    They use one thread each, ignore the signals that ask a process to end, and end when this process does.
    """

    def __init__(self, work: Work, count: int) -> None:
        # A forked worker shares the corpus's arrays and starts at once; it must leave CUDA alone, and does.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.results: SimpleQueue[Any] = SimpleQueue()
        """One for each task, in the order of the tasks; an Exception instead is the last one."""
        self.tasks_ahead = _AHEAD * count + 1
        """A result comes when so many tasks are submitted from its own on, or their end is."""
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._notes = context.RawArray("q", [0, 0, NO_TASK] * count)
        self._processes: list[BaseProcess] = []
        self._owner = os.getpid()
        self._has_started, self._has_ended = threading.Event(), threading.Event()
        reader = _Reader(work, self._notes, self._owner)
        loader: DataLoader[Any] = DataLoader(
            reader,
            sampler=_Draw(self._tasks),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=count,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            multiprocessing_context=context,
            worker_init_fn=reader.start,
            generator=torch.Generator(),  # a start would draw from the random numbers of the run otherwise
        )
        threading.Thread(target=self._serve, args=(loader,), daemon=True, name="data loader").start()

    def submit(self, task: Task | None) -> None:
        """Hand ``task`` over; None: there are no more until all their results have been given."""
        self._tasks.put(task)

    def deaths(self, timeout: float = 0.0) -> list[Death]:
        """The workers that have died, or do within ``timeout`` seconds."""
        dead = wait([process.sentinel for process in self._processes], timeout)
        deaths, until = [], time.monotonic() + _LAST_WAIT_SECONDS
        for process in self._processes:
            if process.sentinel in dead:
                _await_exit_code(process, until)
            if process.exitcode is not None:
                at = [note[1:] for note in self._noted() if note[0] == process.pid]
                deaths.append(Death(process.exitcode, *(at[0] if at else (0, NO_TASK))))
        return deaths

    def place_in(self, task: Task) -> int:
        """Where the worker that reads ``task`` is."""
        return next((place for _, number, place in self._noted() if number == task.number), STARTING)

    def end(self) -> None:
        """Kill the workers, which have nothing to lose; waits a few seconds at most."""
        if os.getpid() != self._owner:  # in a fork of this process it is a copy
            return
        self._has_ended.set()
        self.submit(None)
        self._has_started.wait(_LAST_WAIT_SECONDS)
        _kill(self._processes)
        _running.difference_update(self._processes)

    def _noted(self) -> list[tuple[int, int, int]]:
        notes = iter(self._notes[:])
        return list(zip(notes, notes, notes, strict=True))

    def _serve(self, loader: DataLoader[Any]) -> None:
        """The life of the thread; it alone holds DataLoader's iterator, whose deletion may wait without a limit."""
        # Workers inherit it, so that none of these signals finds this process's handlers in them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        others = set(multiprocessing.active_children())
        try:
            results = iter(loader)
        except Exception as error:
            what = f"a data worker could not be started ({error})"
            is_short = isinstance(error, OSError)
            advice = ADVICE if is_at_limit(error) else "lower data.workers, or free memory and processes"
            _forget_iterator(error)
            self.results.put(DataError(f"{what}; {advice}") if is_short else RuntimeError(what))
            return
        finally:
            self._processes += set(multiprocessing.active_children()) - others
            _running.update(self._processes)
            self._has_started.set()
        try:
            while not self._has_ended.is_set():
                for result in results:
                    self.results.put(result)
                    del result  # its memory, which would wait for the next one
                results = iter(loader)
        except Exception as error:  # as a text alone, since its traceback would hold the iterator
            if is_at_limit(error):
                what = "the batches of the data workers cannot be taken over"
                self.results.put(DataError(f"{what} ({reason(error)}); {ADVICE}, or lower data.workers"))
            else:
                self.results.put(RuntimeError(f"in a data worker: {type(error).__name__}: {error}"))


class _Reader(Dataset[Any]):
    """What a worker has: the work, and three numbers that the main process sees: its pid, its task, its place."""

    def __init__(self, work: Work, notes: Any, owner: int) -> None:
        self._work, self._notes, self._owner = work, notes, owner

    def start(self, worker: int) -> None:
        """At the start of each worker."""
        self._notes[3 * worker] = os.getpid()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        # Never while torch has memory under a name, which is within one step of Python's.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        threading.Thread(target=_end_with, args=(self._owner,), daemon=True).start()

    def __getitem__(self, task: Task) -> Any:
        info = get_worker_info()
        assert info is not None
        first = 3 * info.id

        def note(place: int) -> None:
            self._notes[first + 2] = place

        self._notes[first + 1] = task.number
        note(STARTING)
        result = self._work(task.items, note)
        note(NO_TASK)
        return result


class _Draw(Iterable[Task]):
    """The tasks as they are submitted, up to the end of an iteration."""

    def __init__(self, tasks: SimpleQueue[Task | None]) -> None:
        self._tasks = tasks

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.get, None)


def _forget_iterator(error: Exception) -> None:
    """Torch's iterator, which could not be made whole, is not to complain of what it lacks when it is deleted."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(made := frame.f_locals.get("self"), _MultiProcessingDataLoaderIter):
            made._shutdown = True


def _unchanged(result: Any) -> Any:
    return result


def _end_with(owner: int) -> None:
    """End this worker when its main process is gone, also in the middle of a read that never returns."""
    while os.getppid() == owner:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGALRM)
    time.sleep(_LEAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _kill(processes: Iterable[BaseProcess]) -> None:
    processes, started = list(processes), time.monotonic()
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGALRM)
    for process in processes:
        process.join(max(0.0, started + _LEAVE_SECONDS - time.monotonic()))
    until = started + _LAST_WAIT_SECONDS
    for process in processes:
        process.kill()
        process.join(max(0.0, until - time.monotonic()))
        _await_exit_code(process, until)


def _await_exit_code(process: BaseProcess, until: float) -> None:
    """The system tells one thread that a process has ended; the others know when that thread has noted it."""
    while process.exitcode is None and time.monotonic() < until:
        time.sleep(0.001)


_running: set[BaseProcess] = set()
# Runs before multiprocessing's own, which asks by SIGTERM and then waits without a limit.
atexit.register(_kill, _running)
