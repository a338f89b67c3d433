"""Epochs cut into batches of keys: full, shared by processes, resumed at a step, repeats told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mrl.data.epoch_batches import EpochBatches
from mrl.randomness import numpy_generator


class Permutations:
    """Each epoch a permutation."""

    def __init__(self, size: int) -> None:
        self.size = size

    def order(self, epoch: int) -> NDArray[np.int64]:
        return numpy_generator(1, "order", epoch).permutation(self.size)


class Fixed(Permutations):
    """Each epoch the same."""

    def __init__(self, *order: int) -> None:
        super().__init__(len(order))
        self._order = np.array(order)

    def order(self, epoch: int) -> NDArray[np.int64]:
        return self._order


def test_an_epoch_holds_each_utterance_once() -> None:
    batches = EpochBatches(Permutations(12), 4)
    batches.set_epoch(5)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(5, utterance) for utterance in range(12)]
    assert all(type(number) is int for key in keys for number in key)
    batches.set_epoch(6)
    assert [key[1] for batch in batches for key in batch] != [key[1] for key in keys]


def test_repeats_have_keys_of_their_own() -> None:
    batches = EpochBatches(Fixed(2, 0, 2, 2, 1, 0, 9), 2)
    batches.set_epoch(4)
    assert list(batches) == [[(4, 2), (4, 0)], [(4, 2, 1), (4, 2, 2)], [(4, 1), (4, 0, 1)]]
    batches.set_epoch(4, start_step=2)
    assert list(batches) == [[(4, 1), (4, 0, 1)]]


@given(
    num_utterances=st.integers(1, 60),
    part=st.integers(1, 8),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_parts_of_all_processes_make_the_batches(
    num_utterances: int, part: int, world_size: int, epoch: int, data: st.DataObject
) -> None:
    batch_size = part * world_size
    if num_utterances < world_size:
        with pytest.raises(ValueError, match="too few"):
            EpochBatches(Permutations(num_utterances), batch_size, world_size=world_size)
        return
    steps = max(1, num_utterances // batch_size)
    start = data.draw(st.integers(0, steps))
    of_ranks = []
    for rank in range(world_size):
        batches = EpochBatches(Permutations(num_utterances), batch_size, rank=rank, world_size=world_size)
        assert batches.steps_per_epoch == steps
        batches.set_epoch(epoch)
        whole_epoch = list(batches)
        assert len(whole_epoch) == len(batches) == steps
        batches.set_epoch(epoch, start)
        assert len(batches) == steps - start
        assert list(batches) == whole_epoch[start:]
        of_ranks.append(whole_epoch)
    united = [[key for part in parts for key in part] for parts in zip(*of_ranks, strict=True)]
    order = numpy_generator(1, "order", epoch).permutation(num_utterances).tolist()
    size = min(batch_size, num_utterances - num_utterances % world_size)
    assert united == [
        [(epoch, utterance) for utterance in order[step * size : (step + 1) * size]] for step in range(steps)
    ]
    assert len({len(part) for parts in of_ranks for part in parts}) == 1


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 10 cannot be cut into 4"):
        EpochBatches(Permutations(100), 10, world_size=4)
