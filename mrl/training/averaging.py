"""The mean of several epochs' weights (Izmailov et al., Stochastic Weight Averaging, arXiv 1803.05407)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrl.config import AverageConfig
from mrl.training.run_state import RunState, Weights
from mrl.training.selection import Rank


def keep_recent(state: RunState, average: AverageConfig, rank: Rank | None, weights: Weights) -> None:
    """Add this epoch's ``weights`` to ``state.recent``, and keep the epochs that ``average`` asks for.

    ``rank`` is None for an epoch that was not scored, which cannot be among the best.
    """
    if average.of == "best" and rank is None:
        return
    entries = [*state.recent, {"epoch": state.epoch, "rank": list(rank or ()), "weights": weights}]
    if average.of == "best":
        entries.sort(key=lambda entry: (entry["rank"], entry["epoch"]))
        state.recent = entries[: average.epochs]
    else:
        state.recent = entries[-average.epochs :]


def average_epochs(recent: Sequence[dict[str, Any]]) -> Weights:
    """The mean of the weights in ``recent``, module by module."""
    modules = recent[0]["weights"].keys()
    return {name: mean_of_states([entry["weights"][name] for entry in recent]) for name in modules}


def mean_of_states(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several state dicts with the same keys.

    Floating-point tensors are averaged in float64 and keep their type; others, such as counters, are the last
    state's.
    """
    assert states
    assert all(state.keys() == states[0].keys() for state in states)
    return {key: _mean([state[key] for state in states]) for key in states[0]}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    last = tensors[-1]
    if not last.is_floating_point():
        return last.clone()
    total = torch.zeros_like(last, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(last.dtype)
