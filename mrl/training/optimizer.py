"""The optimizer of a stage: each trainable tensor in exactly one group, with the rate of its part."""

from __future__ import annotations

import torch
from torch import nn

from mrl.config import StageConfig
from mrl.models.encoder import SpeakerEncoder
from mrl.training.stages import part_modules

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def build_optimizer(
    encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """The optimizer of a stage that has been entered. ``fused`` picks the kernels for GPUs."""
    return torch.optim.AdamW(parameter_groups(encoder, classifier, stage), betas=(0.9, 0.999), fused=fused)


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
