"""Weights that no checkpoint may hold, since they are not finite."""

from __future__ import annotations

from mrl.errors import TrainingError
from mrl.models.finite import non_finite_tensor
from mrl.training.run_state import Weights


class WeightsError(TrainingError):
    """Weights that are not finite."""


def require_finite(weights: Weights) -> None:
    """Raise WeightsError, which names the first tensor, for ``weights`` that are not finite."""
    for state in weights.values():
        if (broken := non_finite_tensor(state)) is not None:
            raise WeightsError(f"weights are NaN or infinite, in {broken}; the rates may be too high")
