"""Where a run stands: everything besides weights and optimizer that it needs to go on exactly."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mrl.training.selection import Rank

Weights = dict[str, dict[str, Tensor]]  # {"encoder": state_dict, "criterion": state_dict}, on the CPU


@dataclass
class Best:
    """The best epoch so far, with its weights: every stage starts from them."""

    rank: Rank
    epoch: int
    stage: str
    weights: Weights


@dataclass
class RunState:
    """Counters are of completed work. ``stage`` and ``stage_epoch`` say where the run goes on."""

    reference: float = 0.0
    """Full-size EER (a share) that best.pt is held to."""
    stage: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    """Updates done of the epoch that has not been counted yet."""
    stale: int = 0
    """Validations of this stage since a new best."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record per validation: epoch, stage, metrics, is_best."""
    recent: list[dict[str, Any]] = field(default_factory=list)
    """Weights that the stage's average may take in: epoch, criterion and weights of each."""
    skipped: int = 0
    """Updates left out because their loss or gradient was not finite."""
    overflowed: int = 0
    """Updates left out because the gradient overflowed fp16, so that the loss scale was lowered."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why a training utterance could not be read, by its path."""

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        # Deep, but for the weights: they are never changed in place.
        return {
            **values,
            "history": deepcopy(self.history),
            "recent": list(self.recent),
            "unreadable": dict(self.unreadable),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunState:
        return cls(**values)
