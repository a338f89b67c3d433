"""Batches of crops, read by worker processes ahead of who needs them, and what is done about the workers' failures.

What a batch holds depends on its keys alone: not on who reads it, and not on how often. B batch, T samples.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty
from typing import Any, Protocol

import torch
from torch import Tensor

from mrl.data.augment import Augmenter
from mrl.data.epoch_batches import Key
from mrl.data.loading import Batch, CropDataset, collate
from mrl.data.worker_crew import NO_TASK, PREPARING, STARTING, Crew, Death, Task
from mrl.errors import DataError
from mrl.line_file import reason
from mrl.open_files import ADVICE, is_at_limit, require_room
from mrl.stopping import heed

MAX_DEATHS = 3
"""Workers that may die at the same batch."""
MAX_HANGS = 2
"""Times that the same batch may be late."""
_LOOK_SECONDS = 0.5  # between looks at the clock and the workers while nothing arrives
_STOP_SECONDS = 5.0  # a run that is to end does not wait longer for what may hang
_SPARE_FILES = 4  # what handing a batch over opens besides its parts
_NAMED = 4  # files of a batch that a message names
_HINTS = {
    "SIGKILL": "out of memory? lower data.workers",
    "SIGSEGV": "its decoder crashed",
    "SIGABRT": "its decoder crashed",
    "SIGBUS": "a file was cut while it was read, or memory is short",
}
_PLACES = {
    NO_TASK: " between two batches",
    STARTING: " before the first file of a batch",
    PREPARING: " at the augmentation of a batch",
}
_AFTER_DEATHS = (
    f"and so did {MAX_DEATHS - 1} before it at the same batch; take the file out of the corpus, or lower data.workers "
    "where memory is short"
)
_AFTER_HANGS = (
    "and did not the time before; look at the disk or network share, take the file out of the corpus, or raise "
    "data.worker_timeout_seconds"
)


class Batches(Protocol):
    """The keys of each batch, an :class:`mrl.data.epoch_batches.EpochBatches` or a list of lists."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Any]]: ...


def make_loader(
    dataset: CropDataset,
    batches: Batches,
    workers: int,
    pin_memory: bool,
    augmenter: Augmenter | None = None,
    *,
    timeout_seconds: float | None = None,
    say: Callable[[str], None] | None = None,
) -> BatchLoader:
    """A loader of :class:`Batch`; it may be iterated again and again, and its workers stay.

    Args:
        dataset: where the crops come from.
        batches: their keys.
        workers: processes that read; 0 reads in this one, where a read that hangs cannot be given up.
        pin_memory: put batches where a copy to a GPU need not wait for.
        augmenter: plans what to do to each batch, and prepares it, so that clips are read, and codecs run, in the
            workers too. ``dataset`` must then give crops of its `source_samples`.
        timeout_seconds: when a batch is late for so long, the workers are replaced, once; None: wait for ever.
        say: told of workers that are replaced; standard error where there is none.
    """
    if workers > 0:
        dataset.load_decoder()
    return BatchLoader(
        _Reader(dataset, augmenter), batches, workers, pin_memory, timeout_seconds, say or _to_stderr
    )


@dataclass(eq=False)
class BatchLoader:
    """Gives the batches of some keys in their order. One iteration at a time: a new one ends that before it.

    Raises DataError where files cannot be read, or workers die or hang at the same batch again and again; Stopped
    where the run was asked to end while a batch is late.
    """

    reader: _Reader
    batches: Batches
    workers: int
    pin_memory: bool
    timeout_seconds: float | None
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._bad_clips: set[str] = set()
        self._troubles: Counter[tuple[int, int]] = Counter()
        self._replaced = 0
        self._crew: Crew | None = None
        self._owed: deque[Task | None] = deque()  # submitted, and not given yet; None after the last

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._by_workers() if self.workers else map(self.reader, self.batches):
            if isinstance(batch, str):
                raise DataError(batch)
            for message in batch.bad_clips:
                if message not in self._bad_clips:  # another worker may have met it before
                    self._bad_clips.add(message)
                    self.say(f"clip replaced: {message}")
            yield _each_tensor(batch, Tensor.pin_memory) if self.pin_memory else batch

    def _by_workers(self) -> Iterator[Batch | str]:
        if self._owed:
            self._end()
        owed = self._owed = deque()
        tasks = itertools.chain((Task(next(self._numbers), keys) for keys in self.batches), [None])

        def submit(count: int) -> None:
            for task in itertools.islice(tasks, count):
                owed.append(task)
                crew.submit(task)

        crew = self._crew or self._start()
        try:
            submit(crew.tasks_ahead)
            while (due := owed[0]) is not None:
                batch, crew = self._result(crew, due)
                owed.popleft()
                submit(1)
                yield batch
                assert owed is self._owed, "another iteration has begun"
            owed.clear()
        finally:
            if owed is self._owed and owed:
                self._end()

    def _result(self, crew: Crew, due: Task) -> tuple[Batch | str, Crew]:
        """The batch that is due, and who gave it, ``crew`` or a later one."""
        started = time.monotonic()
        while True:
            try:
                result = crew.results.get(timeout=_LOOK_SECONDS)
            except Empty:
                result = None
            if result is not None and not isinstance(result, Exception):
                return result, crew
            if isinstance(result, DataError):  # no death, which would be looked for, is the reason
                raise result
            waited = time.monotonic() - started
            if waited > _STOP_SECONDS:
                heed()
            if deaths := crew.deaths(_LOOK_SECONDS if result else 0.0):
                crew = self._after_death(deaths[0], due)
            elif result is not None:
                raise result
            elif self.timeout_seconds is not None and waited > self.timeout_seconds:
                what = f"a data worker has not answered for {self.timeout_seconds:g} s"
                crew = self._replaced_after(what, due, crew.place_in(due), MAX_HANGS, _AFTER_HANGS)
            else:
                continue
            started = time.monotonic()

    def _after_death(self, death: Death, due: Task) -> Crew:
        how = f"exit code {death.exit_code}"
        if death.exit_code < 0:
            name = signal.Signals(-death.exit_code).name
            how = f"killed by {name}{f': {_HINTS[name]}' if name in _HINTS else ''}"
        task = next((task for task in self._owed if task and task.number == death.number), None)
        place = NO_TASK if task is None else death.place
        return self._replaced_after(
            f"a data worker died ({how})", task or due, place, MAX_DEATHS, _AFTER_DEATHS
        )

    def _replaced_after(self, what: str, task: Task, place: int, limit: int, advice: str) -> Crew:
        """New workers, which have been given what is owed, after trouble at ``task`` that may come ``limit`` times."""
        files = self.reader.names(task.items)
        what += _PLACES.get(place) or f" at {files[place]}"
        self._troubles[task.number, limit] += 1
        if self._troubles[task.number, limit] >= limit:
            more = f", and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            raise DataError(f"{what}, {advice}; the batch's files: {', '.join(files[:_NAMED])}{more}")
        self._end()
        crew = self._start()
        for each in self._owed:
            crew.submit(each)
        self._replaced += 1
        self.say(
            f"{what}; the workers are replaced, and the batch is read again (replacement {self._replaced})"
        )
        return crew

    def _start(self) -> Crew:
        crew = self._crew = Crew(self.reader, self.workers)
        self._finalizer = weakref.finalize(self, crew.end)
        return crew

    def _end(self) -> None:
        if self._crew is not None:
            self._finalizer()
            self._crew = None


class _Reader:
    """Whole batches of crops, or the message of the DataError that there is instead."""

    def __init__(self, crops: CropDataset, augmenter: Augmenter | None) -> None:
        self._crops = crops
        self._augmenter = augmenter

    def names(self, keys: list[Key]) -> list[str]:
        """The file of each key."""
        return [str(self._crops.path(key)) for key in keys]

    def __call__(self, keys: list[Key], note: Callable[[int], None] | None = None) -> Batch | str:
        """``note`` is told in a worker what it is at."""
        try:
            batch = collate([self._crop(place, key, note) for place, key in enumerate(keys)])
            if note is not None:
                note(PREPARING)
            if self._augmenter is not None:
                batch = self._augmented(self._augmenter, keys, batch)
            return batch if note is None else _shared(batch)
        except DataError as error:
            return str(error)

    def _crop(self, place: int, key: Key, note: Callable[[int], None] | None) -> Any:
        if note is not None:
            note(place)
        return self._crops[key]

    def _augmented(self, augmenter: Augmenter, keys: list[Key], batch: Batch) -> Batch:
        epoch, num_samples = keys[0][0], batch.waveforms.shape[1]
        again = torch.tensor([key[2] if len(key) == 3 else 0 for key in keys])
        names = batch.utterances + len(self._crops) * again  # so that a repeat is augmented in its own way
        plan = augmenter.plan(names, batch.speakers, epoch=epoch, num_samples=num_samples)
        waveforms, bad_clips = augmenter.prepare(batch.waveforms, plan), tuple(augmenter.newly_unreadable())
        return batch._replace(waveforms=waveforms, plan=plan, bad_clips=bad_clips)


def _shared(batch: Batch) -> Batch:
    """``batch`` in memory that the main process sees. Torch, left to do it, would lose a batch that finds no room."""
    parts = 0

    def share(tensor: Tensor) -> Tensor:
        nonlocal parts
        parts += 1
        return tensor.share_memory_()

    try:
        shared: Batch = _each_tensor(batch, share)
        # A thread of torch's is to open each part once more, and at this moment perhaps those of the batch before.
        require_room(2 * parts + _SPARE_FILES)
        return shared
    except (RuntimeError, OSError) as error:
        if is_at_limit(error):
            raise DataError(f"a data worker cannot hand a batch over ({reason(error)}); {ADVICE}") from None
        raise DataError(
            f"a batch finds no room in shared memory ({error}); give /dev/shm more (docker run --shm-size), or lower "
            "data.workers or the batch size"
        ) from None


def _each_tensor(content: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``content``, and the tuples in it, with ``change`` done to all tensors."""
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, tuple):
        fields = [_each_tensor(field, change) for field in content]
        return type(content)(*fields) if hasattr(content, "_fields") else tuple(fields)
    return content


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
