"""Saved tensors that are not those of a module are named, two of them, in one line."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from mrl.training.fitting import load_fitting


def network(width: int, *, layers: int = 1) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(3, width) for _ in range(layers)))


def test_what_fits_is_loaded():
    there, here = network(2), network(2)
    load_fitting(here, there.state_dict())
    assert torch.equal(here[0].weight, there[0].weight)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (
            network(4),
            "0.weight is [4, 3] in the checkpoint, [2, 3] in the configuration, "
            "0.bias is [4] in the checkpoint, [2] in the configuration",
        ),
        (nn.Sequential(), "the checkpoint has no 0.weight [2, 3], the checkpoint has no 0.bias [2]"),
        (
            network(2, layers=3),
            "the configuration has no 1.weight [2, 3], the configuration has no 1.bias [2], and 2 more",
        ),
    ],
    ids=["shapes", "missing", "unknown"],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(there: nn.Sequential, words: str) -> None:
    here = network(2)
    before = here[0].weight.clone()
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        load_fitting(here, there.state_dict())
    assert torch.equal(here[0].weight, before)
