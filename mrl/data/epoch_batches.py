"""The batches of an epoch as keys of crops, in the order that a sampling gives. N utterances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Key = tuple[int, int] | tuple[int, int, int]
"""(epoch, utterance), or (epoch, utterance, n) where it comes for the n-th time again in that epoch.

A crop is fixed by its key and the seed."""


def steps_per_epoch(num_utterances: int, batch_size: int) -> int:
    """Full batches in an epoch; a corpus smaller than a batch is one batch."""
    return max(1, num_utterances // batch_size)


class Epochs(Protocol):
    """Which utterances come in each epoch, and in which order; see :class:`mrl.data.sampling.Sampling`."""

    size: int

    def order(self, epoch: int) -> NDArray[np.int64]: ...


class EpochBatches(Sampler[list[Key]]):
    """Batches of keys: the order of each epoch, cut into full batches.

    What remains beyond the last full batch is left out of that epoch; an epoch smaller than a batch is one
    batch. With ``world_size`` processes, each gets its contiguous part of every batch. An utterance that comes
    several times in an epoch has a key of its own each time, and so other crops.

    Args:
        epochs: their size and order.
        batch_size: over all processes.
        rank: of this process.
        world_size: number of processes; ValueError where a batch cannot be cut into so many equal parts.
    """

    def __init__(self, epochs: Epochs, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} cannot be cut into {world_size} equal parts")
        if epochs.size < world_size:
            raise ValueError(f"{epochs.size} utterances are too few for {world_size} processes")
        self.batch_size = min(batch_size, epochs.size - epochs.size % world_size)
        self.steps_per_epoch = steps_per_epoch(epochs.size, batch_size)
        self._epochs = epochs
        part = self.batch_size // world_size
        self._part = slice(rank * part, (rank + 1) * part)
        self._epoch = 0
        self._start_step = 0

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """What the next iteration gives: the batches of ``epoch`` from ``start_step`` on."""
        assert 0 <= start_step <= self.steps_per_epoch
        self._epoch, self._start_step = epoch, start_step

    def __len__(self) -> int:
        return self.steps_per_epoch - self._start_step

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self._epoch
        order = self._epochs.order(epoch)
        again = _times_before(order)
        for step in range(self._start_step, self.steps_per_epoch):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            utterances, repeats = order[batch][self._part].tolist(), again[batch][self._part].tolist()
            yield [
                (epoch, utterance, repeat) if repeat else (epoch, utterance)
                for utterance, repeat in zip(utterances, repeats, strict=True)
            ]


def _times_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry of ``order`` stands before its place."""
    if np.bincount(order).max() == 1:
        return np.zeros_like(order)
    by_utterance = np.argsort(order, kind="stable")
    ordered = order[by_utterance]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
    times = np.empty_like(order)
    times[by_utterance] = np.arange(len(order)) - np.repeat(firsts, np.diff(firsts, append=len(order)))
    return times
