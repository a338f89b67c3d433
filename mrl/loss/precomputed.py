"""A loss that comes with its gradients, handed to autograd.

Where the gradient needs the same large matrices as the loss, computing both part by part in the forward pass keeps
none of them alive until the backward pass. Shapes: K prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mrl.loss.terms import LossTerms


class Computed(NamedTuple):
    """Losses, and the gradients of their weighted sum."""

    per_prefix: Tensor  # [K], unweighted
    gradients: tuple[Tensor | None, ...]  # one for each input; None where none was wanted or there is none


Compute = Callable[[Sequence[Tensor], Sequence[bool]], Computed]
"""(inputs, for which of them a gradient is wanted) -> losses and gradients; the same numbers each time."""


def precomputed_terms(compute: Compute, weights: Sequence[float], inputs: Sequence[Tensor]) -> LossTerms:
    """``weights`` [K] times what ``compute`` finds for ``inputs``; backward hands its gradients to them."""
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs]
    return LossTerms(*_Precomputed.apply(compute, tuple(weights), wanted, *inputs))


class _Precomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Compute, weights: Sequence[float], wanted: Sequence[bool], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        per_prefix, gradients = compute(inputs, wanted)
        weighted = (weight * loss for weight, loss in zip(weights, per_prefix, strict=True) if weight)
        ctx.save_for_backward(*inputs)
        ctx.compute, ctx.wanted, ctx.gradients = compute, wanted, gradients
        ctx.mark_non_differentiable(per_prefix)
        ctx.set_materialize_grads(False)
        return sum(weighted, start=per_prefix.new_zeros(())), per_prefix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors
        if upstream is None:
            return None, None, None, *(None for _ in inputs)
        # The gradients are given away and scaled where they lie, as those of a million classes fill a gigabyte.
        # A graph that is retained and asked again computes them anew.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = ctx.compute(inputs, ctx.wanted).gradients
        return None, None, None, *(None if g is None else g.mul_(upstream) for g in gradients)
