"""The mean of several epochs' weights (Izmailov et al., Stochastic Weight Averaging, arXiv 1803.05407)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl.config import AverageConfig
from mrl.training.moving_average import mean_of_states
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
