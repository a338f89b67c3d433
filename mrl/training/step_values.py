"""What is known of an update when its numbers have been read, and what processes wish for meanwhile."""

from __future__ import annotations

from typing import NamedTuple

from mrl.errors import TrainingError
from mrl.loss import PrefixSettings
from mrl.training.gradient_flow import Flow


class NonFiniteError(TrainingError):
    """A loss or gradient of update ``run_step`` that is NaN or infinite, for which the run must stop.

    Weights, moments and BatchNorm statistics are those from before it.
    """

    def __init__(self, message: str, run_step: int) -> None:
        super().__init__(message)
        self.run_step = run_step


class Requests(NamedTuple):
    """What a process wishes for after a step; it happens if any of them does, in all at the same step."""

    save: bool = False
    stop: bool = False


NO_REQUESTS = Requests()


class StepValues(NamedTuple):
    """What one update measured. ``gradient_norm`` is that of the whole batch, unscaled, before clipping."""

    run_step: int
    loss: float  # what was minimised
    loss_per_prefix: list[float]
    teacher_loss: float  # 1 - cosine to the teacher, 0 without one
    gradient_norm: float
    settings: PrefixSettings
    rates: dict[str, float]
    overflowed: bool  # fp16 only: the gradient did, and the loss scale was lowered instead
    fault: str | None  # why the update was left out, where it is no overflow
    replaced: int  # utterances that could not be read, in all processes
    requests: Requests  # of any process
    flow: Flow | None  # where it was asked for

    @property
    def skipped(self) -> bool:
        """Whether the update did not happen."""
        return self.overflowed or self.fault is not None
