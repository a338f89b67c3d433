"""Weights that are not finite are found, counted and named."""

from __future__ import annotations

import pytest
import torch

from mrl.errors import CheckpointError
from mrl.models.finite import non_finite_tensor, require_finite_weights

SOUND = {
    "a": torch.ones(2, 3),
    "count": torch.tensor(3),
    "empty": torch.empty(0),
    "half": torch.ones(2).half(),
}


def test_finite_weights_pass():
    assert non_finite_tensor(SOUND) is None
    assert non_finite_tensor({}) is None
    assert non_finite_tensor({"count": torch.tensor(3)}) is None
    require_finite_weights(SOUND, "x.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_tensor_is_named_with_its_count(value):
    state = {name: tensor.clone() for name, tensor in SOUND.items()}
    state["a"][0, 1:] = value
    assert non_finite_tensor(state) == "a (2 of 6 numbers)"
    state["half"][0] = value
    assert non_finite_tensor(state) == "a (2 of 6 numbers; 1 further tensors likewise)"
    with pytest.raises(CheckpointError, match=r"^x\.pt: weights that are NaN or infinite, in a \(2 of 6"):
        require_finite_weights(state, "x.pt")
