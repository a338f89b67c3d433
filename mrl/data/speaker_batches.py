"""Batches of different speakers with several utterances each, as pair losses need them.

Systematic sampling: speakers lie on a line, each as long as the groups (of K utterances) that it is to give in an
epoch, none longer than there are batches. The whole numbers on the line are the epoch's groups; shifted a little
from epoch to epoch, they give each speaker its length in the long run, and never more than one group less or
more. S speakers, T batches, Q groups in a batch, K utterances in a group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrl.errors import DataError
from mrl.randomness import numpy_generator

_UNIT = 1 << 24  # a group's length, in whole numbers, so that all sums are exact
_SHIFT = 10_368_889  # the golden ratio's part of a unit, odd: shifts fill the unit evenly, whenever one stops


class SpeakerBatches:
    """How the groups of an epoch are shared among speakers and batches.

    Args:
        amounts: utterances that each speaker would give in an epoch without such batches: [S].
        size: utterances in such an epoch.
        utterances_per_speaker: K.
        batch_size: Q * K.
        seed: of the run.

    Raises:
        DataError: fewer than Q speakers.
    """

    def __init__(
        self,
        amounts: NDArray[np.float64],
        size: int,
        utterances_per_speaker: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self._seed = seed
        self._per_group = utterances_per_speaker
        self._per_batch = batch_size // utterances_per_speaker
        self._batches = max(1, size // batch_size)
        if len(amounts) < self._per_batch:
            raise DataError(
                f"a batch of {batch_size} with utterances_per_speaker {utterances_per_speaker} needs "
                f"{self._per_batch} speakers, data.train has {len(amounts)}; lower batch_size or raise "
                "utterances_per_speaker"
            )
        lengths = _shared_out(amounts, self._per_batch * self._batches, self._batches)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def taken(self, epoch: int) -> NDArray[np.int64]:
        """Utterances that each speaker has given before ``epoch``: [S], multiples of K."""
        total = np.zeros(len(self._ends), dtype=np.int64)
        for past in range(epoch):
            total += self._groups(past)
        return total * self._per_group

    def places(self, epoch: int) -> NDArray[np.int64]:
        """The order of the epoch's utterances [T * Q * K], which are numbered speaker by speaker.

        Each batch is of Q different speakers: one who has n groups, n <= T, is in n batches next to each other
        before they are shuffled.
        """
        generator = numpy_generator(self._seed, "order", epoch)
        groups = self._groups(epoch)
        speakers = generator.permutation(len(groups))
        counts = groups[speakers]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        line = np.repeat((np.cumsum(groups) - groups)[speakers], counts) + within
        batches = line.reshape(self._per_batch, self._batches).T[generator.permutation(self._batches)]
        return (batches.reshape(-1, 1) * self._per_group + np.arange(self._per_group)).reshape(-1)

    def _groups(self, epoch: int) -> NDArray[np.int64]:
        """Groups of each speaker in ``epoch``: [S], T * Q in all."""
        shift = epoch * _SHIFT % _UNIT
        return (self._ends + shift) // _UNIT - (self._starts + shift) // _UNIT


def _shared_out(amounts: NDArray[np.float64], total: int, most: int) -> NDArray[np.int64]:
    """``total`` groups shared out in proportion to ``amounts`` [S], at most ``most`` to each; in _UNITs: [S]."""
    descending = np.sort(amounts)[::-1]
    rest = np.cumsum(descending[::-1])[::-1]  # of the k-th and all smaller ones
    left = total - most * np.arange(len(amounts))  # for them, where all larger ones get the most
    first = int(np.argmax(descending * left <= most * rest))
    exact = np.minimum(amounts * (left[first] / rest[first]), most)
    lengths = np.maximum(np.floor(exact * _UNIT).astype(np.int64) - 1, 0)  # less, never more, than there is
    gaps = most * _UNIT - lengths
    missing = total * _UNIT - int(lengths.sum())
    return lengths + np.clip(missing - (np.cumsum(gaps) - gaps), 0, gaps)
