"""How far the gradient reaches: its size in each block, and which blocks get none or far too much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mrl.models.encoder import SpeakerEncoder
from mrl.training.network_blocks import named_blocks

DEAD = 1e-12
"""A block is dead where its gradient is smaller than this times its weights: nothing but rounding reaches it."""
EXPLODING = 100.0
"""A block explodes where its gradient, relative to its weights, is so many times that of the median block."""


class Flow(NamedTuple):
    """``metrics`` are "gradient/<block>": norm of the gradient over norm of the weights; ``messages`` name trouble."""

    metrics: dict[str, float]
    messages: list[str]


def measure_flow_of(encoder: SpeakerEncoder, classifier: nn.Module) -> Flow:
    """The flow after a backward pass, before clipping: of stem, stages, pooling, head and classifier.

    Only what learns is measured; a trainable tensor without a gradient has one of 0. A block whose weights are all
    0 is measured as if their norm were 1. Non-finite gradients count as exploding and are left out of the median.
    Reading the norms waits for the device once.
    """
    blocks: dict[str, list[nn.Parameter]] = {}
    for block, parameter in _trainable(encoder, classifier):
        blocks.setdefault(block, []).append(parameter)
    if not blocks:
        return Flow({}, [])
    norms = [_norm(parameters) for parameters in blocks.values()]
    gradients = [_norm([p.grad for p in parameters if p.grad is not None]) for parameters in blocks.values()]
    device = norms[0].device
    table = torch.stack([*(n.to(device) for n in norms), *(g.to(device) for g in gradients)]).tolist()
    pairs = zip(blocks, table[: len(blocks)], table[len(blocks) :], strict=True)
    relative = {block: gradient / (norm or 1.0) for block, norm, gradient in pairs}
    return Flow({f"gradient/{block}": value for block, value in relative.items()}, _messages(relative))


def _trainable(encoder: SpeakerEncoder, classifier: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    parts = {"head": encoder.head, "classifier": classifier}
    named = [
        *named_blocks(encoder.backbone),
        *((part, parameter) for part, module in parts.items() for parameter in module.parameters()),
    ]
    return ((block, parameter) for block, parameter in named if parameter.requires_grad)


def _norm(tensors: list[nn.Parameter] | list[Tensor]) -> Tensor:
    """Over all of ``tensors``, float32; 0 of none."""
    if not tensors:
        return torch.zeros(())
    return torch.stack([torch.linalg.vector_norm(t.detach(), dtype=torch.float32) for t in tensors]).norm()


def _messages(relative: dict[str, float]) -> list[str]:
    messages = []
    finite = [value for value in relative.values() if math.isfinite(value)]
    dead = [block for block, value in relative.items() if value < DEAD]
    if dead:
        messages.append(f"no gradient reaches {', '.join(dead)}")
    broken = [block for block, value in relative.items() if not math.isfinite(value)]
    if broken:
        messages.append(f"the gradient is not finite in {', '.join(broken)}")
    usual = median(finite) if finite else 0.0
    large = [b for b, v in relative.items() if math.isfinite(v) and usual > 0.0 and v > EXPLODING * usual]
    if large:
        times = ", ".join(f"{block} ({relative[block] / usual:.0f} times)" for block in large)
        messages.append(f"the gradient, relative to the weights, is far above the median block's in {times}")
    return messages
