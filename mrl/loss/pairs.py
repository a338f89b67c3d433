"""Losses over the pairs of a batch at every prefix; there are no class vectors.

Shapes: B batch, D widest prefix, P pairs of an anchor and a positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrl.loss.cosines import full_precision, prefix_cosines
from mrl.loss.terms import SlicedLoss, Targets


class Pairs(NamedTuple):
    """Who is of one class with whom in a batch."""

    same: Tensor  # bool [B, B], False on the diagonal
    different: Tensor  # bool [B, B]
    anchors: Tensor  # int64 [P], of every pair of one class whose anchor has a negative too
    positives: Tensor  # int64 [P]


PairObjective = Callable[[Tensor, Pairs, float], Tensor]
"""(cosines [B, B], pairs, margin) -> mean loss; 0, with a gradient of 0, where no anchor is of use."""


class SlicedPairLoss(SlicedLoss):
    """``objective`` over the cosines within a batch, at each prefix of the embeddings.

    Anchors without a positive in the batch are left out. Items of mixed classes have no place here.

    Example:
        >>> loss = SlicedPairLoss([64, 256], SupervisedContrastive(temperature=0.07))
        >>> settings = PrefixSettings(margins=(0.0, 0.0), weights=(1.0, 1.0))
        >>> loss(torch.randn(4, 256), Targets(torch.tensor([0, 0, 1, 1])), settings).total
    """

    def __init__(self, dims: Sequence[int], objective: PairObjective) -> None:
        super().__init__(dims)
        self._objective = objective

    def losses(self, embeddings: Tensor, targets: Targets, margins: Sequence[float]) -> list[Tensor]:
        assert targets.partners is None
        pairs = pairs_of(targets.speakers)
        precise = full_precision(embeddings)
        per_prefix = zip(prefix_cosines(precise, precise, self.dims), margins, strict=True)
        return [self._objective(cosines, pairs, margin) for cosines, margin in per_prefix]


def pairs_of(speakers: Tensor) -> Pairs:
    """The pairs of a batch of classes ``speakers`` [B]."""
    one_class = speakers[:, None] == speakers[None, :]
    different = ~one_class
    same = one_class.fill_diagonal_(False)
    anchors, positives = (same & different.any(1, keepdim=True)).nonzero(as_tuple=True)
    return Pairs(same, different, anchors, positives)


class SupervisedContrastive:
    """Each positive of an anchor against all other items of the batch.

    Mean over an anchor's positives outside the logarithm, then over the anchors that have any: L_out of Khosla
    et al., arXiv 2004.11362. The margin is not used.
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, cosines: Tensor, pairs: Pairs, margin: float) -> Tensor:
        itself = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        # The lowest finite number, not minus infinity: an item alone in its batch would meet NaN on the way.
        logits = (cosines / self._temperature).masked_fill(itself, torch.finfo(cosines.dtype).min)
        likelihoods = logits.log_softmax(1).masked_fill(~pairs.same, 0.0)
        counts = pairs.same.sum(1)
        per_anchor = -likelihoods.sum(1) / counts.clamp_min(1)
        return per_anchor.sum() / (counts > 0).sum().clamp_min(1)
