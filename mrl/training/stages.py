"""A stage as data: what learns, at which rates, with which margin; schedules are pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from mrl.config import StageConfig
from mrl.data.loading import steps_per_epoch
from mrl.models.encoder import SpeakerEncoder

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PARTS = ("backbone", "head", "classifier")


@dataclass(frozen=True)
class StagePlan:
    """A stage with its place in the run. Steps are updates, counted from 0 within the stage."""

    stage: StageConfig
    index: int
    steps_per_epoch: int
    peak_margin: float

    @property
    def total_steps(self) -> int:
        return self.stage.epochs * self.steps_per_epoch


def plan_stages(
    stages: tuple[StageConfig, ...], num_utterances: int, default_margin: float
) -> list[StagePlan]:
    """The stages in order, with the number of full batches that ``num_utterances`` give per epoch."""
    plans = []
    for index, stage in enumerate(stages):
        steps = steps_per_epoch(num_utterances, stage.batch_size)
        margin = default_margin if stage.margin is None else stage.margin
        plans.append(StagePlan(stage, index, steps, margin))
    return plans


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


def margin_at(step: int, plan: StagePlan) -> float:
    """Margin at ``step``: a linear rise from 0 over the margin's warm-up, then the peak."""
    warmup_steps = round(plan.stage.margin_warmup_epochs * plan.steps_per_epoch)
    return plan.peak_margin * min(1.0, step / warmup_steps) if warmup_steps else plan.peak_margin


def part_modules(encoder: SpeakerEncoder, classifier: nn.Module) -> dict[str, nn.Module]:
    """The parts that a stage may train, by name."""
    return dict(zip(PARTS, (encoder.backbone, encoder.head, classifier), strict=True))


def enter_stage(encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig) -> None:
    """Freeze and thaw: frozen parts get no gradient and stay in eval mode, so their BatchNorms do not move.

    With ``norm_statistics: frozen`` the BatchNorms of trained parts are in eval mode too: their gain and bias
    learn, their statistics stay those of the pretrained model, and a sample's embedding does not depend on the
    rest of its batch.
    """
    for part, module in part_modules(encoder, classifier).items():
        learns = part == "classifier" or part in stage.train
        module.train(learns)
        module.requires_grad_(learns)
        if stage.norm_statistics == "frozen":
            for inner in module.modules():
                if isinstance(inner, BATCH_NORMS):
                    inner.eval()


def parameter_groups(
    encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig
) -> list[dict[str, object]]:
    """Optimizer groups of a stage that has been entered: each trainable tensor in exactly one.

    A part has one group with weight decay and one without (biases, norms, class vectors). Each group carries its
    ``part`` and its ``peak_rate``.
    """
    rates = stage.learning_rate.named()
    groups: list[dict[str, object]] = []
    for part, module in part_modules(encoder, classifier).items():
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for inner in module.modules():
            exempt = isinstance(inner, NORMS) or part == "classifier"
            for parameter in inner.parameters(recurse=False):
                if parameter.requires_grad:
                    (plain if exempt or parameter.ndim < 2 else decayed).append(parameter)
        for parameters, decay in ((decayed, stage.weight_decay), (plain, 0.0)):
            if parameters:
                rate = rates[part]
                group = {"params": parameters, "lr": rate, "weight_decay": decay}
                groups.append({**group, "part": part, "peak_rate": rate})
    return groups
