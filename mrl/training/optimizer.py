"""The optimizer of a stage: each trainable tensor in exactly one group, with the rate of its part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from mrl.config import StageConfig
from mrl.models.encoder import SpeakerEncoder
from mrl.training.network_blocks import block_of, distances_to_head
from mrl.training.stages import part_modules

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)

_Groups = list[dict[str, Any]]
_KEPT = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.SGD: {"momentum_buffer"}}
"""What each optimizer keeps of each tensor."""


def build_optimizer(
    encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig
) -> torch.optim.Optimizer:
    """The optimizer of a stage that has been entered, with fused kernels.

    Where its attribute ``found_inf`` is a tensor of 1, a step leaves weights and state as they are, without the
    host having to know; this is how GradScaler tells the fused optimizers of PyTorch.
    """
    return _BUILDERS[stage.optimizer](parameter_groups(encoder, classifier, stage), stage)


def parameter_groups(encoder: SpeakerEncoder, classifier: nn.Module, stage: StageConfig) -> _Groups:
    """Optimizer groups of a stage that has been entered: each trainable tensor in exactly one.

    A part has one group with weight decay and one without. Decayed are weights of at least two dimensions outside
    norms, low-rank adapters included. Not decayed are biases, norms and the whole part ``classifier``: class
    vectors and the map to a teacher count by their direction alone, and what else an objective learns is a bias.

    With ``stage.depth_decay`` the backbone has such a pair for each of its blocks, whose rate is the backbone's
    times depth_decay ** (blocks between it and the head): 0 for pooling, output layer and the sum of the
    stages, 1 for the last stage, and so on to the stem (layer-wise decay: Howard and Ruder, arXiv 1801.06146).

    Each group carries its ``part`` and its ``peak_rate``.
    """
    rates = stage.learning_rate.named()
    groups: dict[tuple[str, int, bool], dict[str, Any]] = {}
    for part, module in part_modules(encoder, classifier).items():
        depths = _depths(module) if part == "backbone" and stage.depth_decay < 1.0 else {}
        for name, parameter, may_decay in _trainable(module):
            depth = depths.get(name, 0)
            decays = may_decay and part != "classifier"
            rate = rates[part] * stage.depth_decay**depth
            options = {"lr": rate, "weight_decay": stage.weight_decay if decays else 0.0}
            labels = {"part": part, "peak_rate": rate}
            group = groups.setdefault((part, depth, decays), {"params": [], **options, **labels})
            group["params"].append(parameter)
    return list(groups.values())


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give ``optimizer`` the ``state_dict`` of an earlier one; peak rates, decay and the like stay its own.

    Raises ValueError where that was another kind of optimizer, or had other parameters.
    """
    expected = _KEPT[type(optimizer)]
    for kept in state["state"].values():
        if set(kept) != expected:
            names, others = ", ".join(sorted(expected)), ", ".join(sorted(map(str, kept)))
            raise ValueError(f"the optimizer keeps {names} of each tensor, that of the checkpoint {others}")
    # The configuration's, which may have been changed on purpose; the rate is a function of the step anyway.
    options = [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
        for parameter in group["params"]:
            for name, moment in optimizer.state.get(parameter, {}).items():
                if moment.shape not in (parameter.shape, torch.Size([])):
                    raise ValueError(
                        f"{name} is {list(moment.shape)} for a tensor of {list(parameter.shape)}"
                    )
    if isinstance(optimizer, torch.optim.SGD):
        _start_momentum(optimizer)


def _trainable(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Each trainable tensor once, with its name and whether weight decay does it good."""
    seen = set()
    for prefix, inner in module.named_modules():
        for name, parameter in inner.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield name, parameter, parameter.ndim >= 2 and not isinstance(inner, NORMS)


def _depths(backbone: nn.Module) -> dict[str, int]:
    """Blocks between each parameter and the head."""
    blocks = {name: block_of(name) for name, _ in backbone.named_parameters()}
    distances = distances_to_head(blocks.values())
    return {name: distances[block] for name, block in blocks.items()}


def _adamw(groups: _Groups, stage: StageConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(stage.momentum, 0.999), fused=True)


def _sgd(groups: _Groups, stage: StageConfig) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(groups, momentum=stage.momentum, nesterov=stage.nesterov, fused=True)
    _start_momentum(optimizer)
    return optimizer


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Zeros where there is no momentum yet.

    A fused first step that ``found_inf`` stops would leave it uninitialised, and later steps use it.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


_BUILDERS: dict[str, Callable[[_Groups, StageConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
}
