"""Which epochs' weights a mean takes in, and the mean."""

from __future__ import annotations

import torch

from mrl.config import AverageConfig
from mrl.training.averaging import average_epochs, keep_recent
from mrl.training.run_state import RunState
from mrl.training.selection import Rank


def weights(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"encoder": {"w": torch.tensor([value])}, "criterion": {"c": torch.tensor([2 * value])}}


def after_epochs(average: AverageConfig) -> RunState:
    state = RunState()
    for epoch, criterion in enumerate((0.3, 0.1, 0.2, 0.4), start=1):
        state.epoch = epoch
        keep_recent(state, average, Rank(0.0, criterion), weights(float(epoch)))
    return state


def test_the_last_epochs():
    state = after_epochs(AverageConfig(epochs=3, of="last"))
    assert [entry["epoch"] for entry in state.recent] == [2, 3, 4]
    mean = average_epochs(state.recent)
    assert mean["encoder"]["w"].item() == 3.0
    assert mean["criterion"]["c"].item() == 6.0


def test_the_best_epochs():
    state = after_epochs(AverageConfig(epochs=2, of="best"))
    assert sorted(entry["epoch"] for entry in state.recent) == [2, 3]
    assert average_epochs(state.recent)["encoder"]["w"].item() == 2.5
