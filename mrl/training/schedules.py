"""Schedules as pure functions of the step within a stage.

Steps are updates, counted from 0 within the stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mrl.config import Config, StageConfig
from mrl.data.loading import steps_per_epoch
from mrl.loss import PrefixSettings


@dataclass(frozen=True)
class StagePlan:
    """A stage with its place in the run. ``peak`` are the margins after their rise and the configured weights."""

    stage: StageConfig
    index: int
    steps_per_epoch: int
    dims: tuple[int, ...]
    peak: PrefixSettings

    @property
    def total_steps(self) -> int:
        return self.stage.epochs * self.steps_per_epoch


def plan_stages(config: Config, num_utterances: int) -> list[StagePlan]:
    """The stages in order, with the number of full batches that ``num_utterances`` give per epoch."""
    return [
        plan_stage(config, stage, index, steps_per_epoch(num_utterances, stage.batch_size))
        for index, stage in enumerate(config.stages)
    ]


def plan_stage(config: Config, stage: StageConfig, index: int, steps: int) -> StagePlan:
    """``stage`` at place ``index``, ``steps`` updates an epoch; a prefix's own margin goes before the stage's."""
    default = config.loss.margin if stage.margin is None else stage.margin
    margins = tuple(default if prefix.margin is None else prefix.margin for prefix in config.prefixes)
    weights = tuple(prefix.weight for prefix in config.prefixes)
    return StagePlan(stage, index, steps, config.dims, PrefixSettings(margins, weights))


def rate_factor_at(step: int, plan: StagePlan) -> float:
    """Factor on the peak learning rates at ``step``: linear warm-up, then cosine to the final share, or constant."""
    warmup_steps = round(plan.stage.warmup_epochs * plan.steps_per_epoch)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if plan.stage.schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, plan.total_steps - 1 - warmup_steps)
    floor = plan.stage.final_rate_share
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def settings_at(step: int, plan: StagePlan) -> PrefixSettings:
    """Margins and weights at ``step``: margins rise from 0 over their warm-up to the peak."""
    warmup_steps = round(plan.stage.margin_warmup_epochs * plan.steps_per_epoch)
    risen = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return PrefixSettings(tuple(risen * margin for margin in plan.peak.margins), plan.peak.weights)
