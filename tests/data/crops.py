"""What the tests of crops and of their batches share; their corpus is in conftest.py."""

from __future__ import annotations

import torch

from mrl.data.loading import Batch

SPEAKERS, UTTERANCES, SAMPLES = 4, 3, 800
"""Of the corpus, and the length of a crop."""


def assert_same(one: Batch, other: Batch) -> None:
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert torch.equal(mine, theirs)
    assert one.replaced == other.replaced
