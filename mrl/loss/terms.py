"""What goes into a loss over sliced embeddings, and what comes out of it.

Shapes: B batch, D widest prefix, K prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Targets(NamedTuple):
    """The classes of a batch. With ``partners``, an item is ``shares`` of its speaker and the rest of its partner."""

    speakers: Tensor  # int64 [B]
    partners: Tensor | None = None  # int64 [B], classes of what was mixed in
    shares: Tensor | None = None  # [B], in [0, 1]

    def part(self, rows: slice) -> Targets:
        """The targets of some items."""
        partners, shares = self.partners, self.shares
        return Targets(
            self.speakers[rows],
            None if partners is None else partners[rows],
            None if shares is None else shares[rows],
        )

    def split(self, sizes: Sequence[int]) -> list[Targets]:
        """The targets of each part of the batch, cut into parts of these ``sizes``."""
        columns = [[None] * len(sizes) if field is None else field.split(list(sizes)) for field in self]
        return [Targets(*part) for part in zip(*columns, strict=True)]


class PrefixSettings(NamedTuple):
    """What holds at one step for each prefix, in the order of ``dims``. A weight of 0 leaves a prefix out."""

    margins: tuple[float, ...]  # [K]
    weights: tuple[float, ...]  # [K]


class LossTerms(NamedTuple):
    """``total`` is the weighted sum; ``per_prefix`` [K] holds its terms, unweighted, detached."""

    total: Tensor
    per_prefix: Tensor


class SlicedLoss(nn.Module):
    """A loss at every prefix of an embedding, computed in float32 whatever the autocast.

    Subclasses give :meth:`losses`, or :meth:`terms` where the sum comes with gradients of its own. ``dims`` are the
    prefixes, ascending.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        assert list(dims) == sorted(set(dims))
        self.dims = tuple(dims)

    def use_blocks(self, blocks: Sequence[int]) -> None:
        """The blocks of classes in use from now on; only a loss that has vectors for them needs to know."""

    def losses(self, embeddings: Tensor, targets: Targets, margins: Sequence[float]) -> list[Tensor]:
        """The mean loss over ``embeddings`` [B, D] at each prefix, K scalars."""
        raise NotImplementedError

    def terms(self, embeddings: Tensor, targets: Targets, settings: PrefixSettings) -> LossTerms:
        """Loss of ``embeddings`` [B, D], outside autocast."""
        losses = self.losses(embeddings, targets, settings.margins)
        weighted = (weight * loss for weight, loss in zip(settings.weights, losses, strict=True) if weight)
        total = sum(weighted, start=embeddings.new_zeros((), dtype=losses[0].dtype))
        return LossTerms(total, torch.stack([loss.detach() for loss in losses]))

    def forward(self, embeddings: Tensor, targets: Targets, settings: PrefixSettings) -> LossTerms:
        """Loss of ``embeddings`` [B, D]."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.terms(embeddings, targets, settings)
