"""Schedules as pure functions of the step within a stage.

Steps are updates, counted from 0 within the stage. A rate is the peak rate times a factor, 1 at the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mrl.config import Config, StageConfig
from mrl.data.corpus import Corpus
from mrl.data.epoch_batches import steps_per_epoch
from mrl.data.sampling import stage_sampling
from mrl.errors import TrainingError
from mrl.loss import PrefixSettings

ONE_CYCLE_START = 1 / 25
"""Where one_cycle's rise begins: the usual divisor of the one-cycle policy."""


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

    @property
    def warmup_steps(self) -> int:
        """Updates before the peak rate, whichever way they are configured."""
        if self.stage.warmup_steps is not None:
            return self.stage.warmup_steps
        return round(self.stage.warmup_epochs * self.steps_per_epoch)


def plan_stages(config: Config, corpus: Corpus) -> list[StagePlan]:
    """The stages in order, with the number of full batches that an epoch over ``corpus`` gives in each.

    Raises TrainingError where a stage has fewer updates than its ``warmup_steps``, and DataError where ``corpus``
    cannot give it the batches that it asks for.
    """
    plans = [
        plan_stage(
            config,
            stage,
            index,
            steps_per_epoch(stage_sampling(config, stage, corpus).size, stage.batch_size),
        )
        for index, stage in enumerate(config.stages)
    ]
    problems = [
        f"stages.{plan.stage.name}: warmup_steps {plan.warmup_steps} is more than its {plan.total_steps} updates"
        for plan in plans
        if plan.warmup_steps > plan.total_steps
    ]
    if problems:
        raise TrainingError("; ".join(problems))
    return plans


def plan_stage(config: Config, stage: StageConfig, index: int, steps: int) -> StagePlan:
    """``stage`` at place ``index``, ``steps`` updates an epoch; a prefix's own margin goes before the stage's."""
    default = config.loss.margin if stage.margin is None else stage.margin
    margins = tuple(default if prefix.margin is None else prefix.margin for prefix in config.prefixes)
    weights = tuple(prefix.weight for prefix in config.prefixes)
    return StagePlan(stage, index, steps, config.dims, PrefixSettings(margins, weights))


def rate_factor_at(step: int, plan: StagePlan, plateau_reductions: int = 0) -> float:
    """Factor on the peak learning rates at ``step``: the warm-up, then what ``stage.schedule`` says.

    All schedules but constant and plateau come down to ``stage.final_rate_share`` at the last step of the stage;
    cosine_restarts at the last step of each cycle. Momentum stays as it is, in one_cycle too.

    Args:
        step: within the stage.
        plan: of the stage.
        plateau_reductions: how often schedule plateau has lowered the rates so far; see
            :func:`plateau_reductions`.
    """
    if step < plan.warmup_steps:
        rise = _rise_of_one_cycle if plan.stage.schedule == "one_cycle" else _linear_rise
        return rise(step, plan.warmup_steps)
    return _FALLS[plan.stage.schedule](step, plan, plateau_reductions)


def plateau_reductions(mean_eers: Sequence[float], patience: int) -> int:
    """How often schedule plateau lowers the rates, given the mean EER at each validation of the stage.

    Each time that ``patience`` validations in a row were not below the lowest one, and then counting from 0
    again. PyTorch's ReduceLROnPlateau tolerates one validation more: its patience is one less for the same.
    """
    lowest, stale, reductions = math.inf, 0, 0
    for eer in mean_eers:
        stale = 0 if eer < lowest else stale + 1
        lowest = min(lowest, eer)
        if stale == patience:
            stale, reductions = 0, reductions + 1
    return reductions


def settings_at(step: int, plan: StagePlan) -> PrefixSettings:
    """Margins and weights at ``step``.

    Margins rise from 0 to the peak over their warm-up; the exponential rise is 1 - 0.001^share of the way, that
    of WeSpeaker's margin scheduler. A prefix has weight 0 before the epoch that ``stage.prefix_start`` gives it.
    """
    stage = plan.stage
    warmup_steps = round(stage.margin_warmup_epochs * plan.steps_per_epoch)
    risen = _MARGIN_RISES[stage.margin_rise](step / warmup_steps) if step < warmup_steps else 1.0
    epoch = 1 + step // plan.steps_per_epoch
    weights = (
        0.0 if epoch < stage.prefix_start.get(dim, 1) else weight
        for dim, weight in zip(plan.dims, plan.peak.weights, strict=True)
    )
    return PrefixSettings(tuple(risen * margin for margin in plan.peak.margins), tuple(weights))


def _linear_rise(step: int, steps: int) -> float:
    return (step + 1) / steps


def _rise_of_one_cycle(step: int, steps: int) -> float:
    """Along a cosine, at the peak on the last step of the warm-up (Smith and Topin, arXiv 1708.07120)."""
    return _along_cosine(ONE_CYCLE_START, 1.0, step / (steps - 1) if steps > 1 else 1.0)


def _cosine(step: int, plan: StagePlan, reductions: int) -> float:
    return _along_cosine(1.0, plan.stage.final_rate_share, _way(step, plan.warmup_steps, plan.total_steps))


def _cosine_restarts(step: int, plan: StagePlan, reductions: int) -> float:
    """Each cycle from the peak (SGDR: Loshchilov and Hutter, arXiv 1608.03983)."""
    assert plan.stage.restart_epochs is not None
    length = max(1, round(plan.stage.restart_epochs * plan.steps_per_epoch))
    within = (step - plan.warmup_steps) % length
    return _along_cosine(1.0, plan.stage.final_rate_share, _way(within, 0, length))


def _exponential(step: int, plan: StagePlan, reductions: int) -> float:
    return plan.stage.final_rate_share ** _way(step, plan.warmup_steps, plan.total_steps)


def _fall_of_one_cycle(step: int, plan: StagePlan, reductions: int) -> float:
    start = max(0, plan.warmup_steps - 1)  # the step of the peak
    return _along_cosine(1.0, plan.stage.final_rate_share, _way(step, start, plan.total_steps))


def _plateau(step: int, plan: StagePlan, reductions: int) -> float:
    return max(plan.stage.final_rate_share, plan.stage.plateau_factor**reductions)


def _constant(step: int, plan: StagePlan, reductions: int) -> float:
    return 1.0


_FALLS: dict[str, Callable[[int, StagePlan, int], float]] = {
    "cosine": _cosine,
    "cosine_restarts": _cosine_restarts,
    "exponential": _exponential,
    "one_cycle": _fall_of_one_cycle,
    "plateau": _plateau,
    "constant": _constant,
}

_MARGIN_RISES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "exponential": lambda share: 1.0 - 0.001**share,
}


def _way(step: int, start: int, end: int) -> float:
    """Share of the way from step ``start`` to the last step before ``end``."""
    return min(1.0, (step - start) / max(1, end - 1 - start))


def _along_cosine(start: float, end: float, way: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * way))
