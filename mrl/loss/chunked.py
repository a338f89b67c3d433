"""Any objective over cosines, loss and gradients together, a part of the batch at a time.

Shapes: B batch, C class vectors, D widest prefix, K prefixes, b items of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mrl.loss.precomputed import Computed

# Cosines that autograd keeps alive at once, over all prefixes; each takes part in about ten matrices of their size.
_NUMBERS = 1 << 24

ItemLosses = Callable[[Tensor, Tensor, slice], list[Tensor]]
"""(embeddings [b, D], class vectors [C, D], which items of the batch they are) -> losses [b] at each prefix."""


def compute_in_chunks(
    item_losses: ItemLosses,
    weights: Sequence[float],
    parameters: Sequence[Tensor],
    inputs: Sequence[Tensor],
    wanted: Sequence[bool],
) -> Computed:
    """Mean losses, and gradients of their sum with ``weights`` [K].

    Args:
        parameters: what else the losses depend on.
        inputs: embeddings [B, D], class vectors [C, D], then ``parameters``.
        wanted: for which inputs a gradient is wanted; one that the weighted sum does not reach gets None.
    """
    embeddings, vectors = inputs[0].detach(), inputs[1].detach().requires_grad_(wanted[1])
    sums: Tensor | int = 0
    of_embeddings: list[Tensor] = []
    of_shared: list[Tensor | None] = [None] * (len(inputs) - 1)
    for rows in _parts(len(embeddings), _NUMBERS // (len(weights) * len(vectors))):
        part = embeddings[rows].requires_grad_(wanted[0])
        with torch.set_grad_enabled(any(wanted)):
            losses = [loss.sum() / len(embeddings) for loss in item_losses(part, vectors, rows)]
            total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True) if weight)
        sums = sums + torch.stack([loss.detach() for loss in losses])
        of_part, *more = _gradients(total, [part, vectors, *parameters], wanted)
        of_embeddings += [] if of_part is None else [of_part]
        of_shared = [_added(gradient, new) for gradient, new in zip(of_shared, more, strict=True)]
    assert isinstance(sums, Tensor)
    return Computed(sums, (torch.cat(of_embeddings) if of_embeddings else None, *of_shared))


def _parts(count: int, most: int) -> list[slice]:
    """``count`` items in equal parts of at most ``most``, at least one item in each."""
    parts = -(-count // max(1, most))
    size = -(-count // parts)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _gradients(total: Tensor | int, sources: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """Of ``total`` for each of ``sources``; None where none is wanted, or where it does not depend on it."""
    chosen = [source for source, want in zip(sources, wanted, strict=True) if want]
    if not chosen or not isinstance(total, Tensor):
        return [None] * len(sources)
    found = iter(torch.autograd.grad(total, chosen, allow_unused=True))
    return [next(found) if want else None for want in wanted]


def _added(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if total is None or new is None else total.add_(new)
