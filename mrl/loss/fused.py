"""Sliced margin softmax, loss and gradients together, in work memory that neither batch nor classes can grow.

Every tile of items and classes is visited twice: for the sums of the exponentials, and, when these are known, for the
gradients. Its dot products are computed anew then, which costs less than to write matrices [B, C] to memory and to
read them back. With z = scale * cos (the target's with its margin), p = softmax(z) and the targets' shares y,
each prefix has

    d loss / d cos = scale * (p - y)                      at the target times the margin's slope
    d loss / d dot = d loss / d cos / (|e| |w|)           which every block up to that prefix receives
    d loss / d e   = sum_c (d loss / d dot) w - e / |e|^2 sum_c (d loss / d cos) cos            and w likewise.

Shapes: B batch, C classes, D widest prefix, K prefixes, b rows and c classes of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from mrl.loss.cosine_gradients import CosineGradients
from mrl.loss.cosines import prefix_blocks, prefix_lengths
from mrl.loss.precomputed import Computed
from mrl.loss.softmax import MarginSoftmax
from mrl.loss.tiles import Tile, Tiles

LARGEST_SCALE = 64.0
"""Exponentials are summed as they are: exp(-64) and a hundred million times exp(64) are float32 numbers."""


class PrefixSoftmax(NamedTuple):
    """What one prefix asks for."""

    dim: int
    softmax: MarginSoftmax  # one that leaves wrong classes alone
    margin: float
    scale: float  # up to LARGEST_SCALE
    weight: float  # 0: the loss is measured, without a gradient


class _Targets(NamedTuple):
    """Of each item's own class, all [K, B]."""

    plain: Tensor  # scale * cos
    logits: Tensor  # scale * cos with its margin
    slopes: Tensor  # the margin's: d cos with margin / d cos


class _Slopes(NamedTuple):
    """What makes slopes (p - y) of exponentials, all [K, B].

    p is exp(z - shift) over a unit near 1, so that no digits are lost in the logarithm of the sum: a shift is a whole
    number. Slopes are computed times that unit, and their factors divided by it.
    """

    shifts: Tensor
    spreads: Tensor  # y of a wrong class, times the unit
    at_targets: Tensor  # to add at the target, where 0 - spread stands
    factors: Tensor  # (d loss / d cos) / |e| over the slopes


def fused_softmax(
    prefixes: Sequence[PrefixSoftmax], speakers: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool]
) -> Computed:
    """Mean losses of ``prefixes`` (ascending, up to D), and gradients of their weighted sum.

    Args:
        speakers: int64 [B], the classes.
        inputs: embeddings [B, D] and class vectors [C, D], of one floating type.
        wanted: for which of them a gradient is wanted.
    """
    embeddings, vectors = inputs
    return _FusedSoftmax(embeddings, vectors, speakers, prefixes).compute(wanted)


class _FusedSoftmax:
    """One batch against all classes."""

    def __init__(
        self, embeddings: Tensor, vectors: Tensor, speakers: Tensor, prefixes: Sequence[PrefixSoftmax]
    ) -> None:
        assert all(prefix.softmax.leaves_wrong_classes for prefix in prefixes)
        assert all(prefix.scale <= LARGEST_SCALE for prefix in prefixes)
        self._embeddings, self._vectors = embeddings.detach(), vectors.detach()
        self._prefixes = tuple(prefixes)
        self._dims = [prefix.dim for prefix in prefixes]
        self._tiles = Tiles(self._embeddings, self._vectors, speakers, self._dims)
        self._lengths, self._shrinkage = prefix_lengths(self._embeddings, self._dims)  # [K, B]
        self._smoothing = [prefix.softmax.label_smoothing for prefix in prefixes]
        self._scales = [prefix.scale for prefix in prefixes]
        self._factors = _each(self._scales, self._lengths)
        self._targets = self._measure_targets(self._vectors[speakers])

    def compute(self, wanted: Sequence[bool]) -> Computed:
        exponentials, sums = self._sum_over_classes()
        targets, share = self._targets, 1.0 / len(self._vectors)
        gap = exponentials.log() - targets.logits
        # -log p of the target, also where that is nearly 0.
        surprise = torch.logaddexp(gap, torch.zeros_like(gap))
        means = share * (sums - targets.plain + targets.logits)
        losses = surprise + _each(self._smoothing, targets.logits - means)
        if not any(wanted):
            return Computed(losses.mean(1), (None, None))
        return Computed(losses.mean(1), self._gradients(wanted, exponentials))

    def _measure_targets(self, own: Tensor) -> _Targets:
        """From each item's ``own`` class vector [B, D]; the slopes are autograd's, over [B]."""
        products = prefix_blocks(self._embeddings * own, self._dims)
        dots = torch.stack(list(accumulate(block.sum(1) for block in products)))
        cosines = dots * self._lengths * prefix_lengths(own, self._dims)[0]
        logits, slopes = [], []
        for prefix, values in zip(self._prefixes, cosines, strict=True):
            with torch.enable_grad():
                leaf = values.detach().requires_grad_()
                lowered = prefix.softmax.with_margin(leaf, prefix.margin)
                (slope,) = torch.autograd.grad(lowered.sum(), leaf)
            logits.append(prefix.scale * lowered.detach())
            slopes.append(slope)
        return _Targets(_each(self._scales, cosines), torch.stack(logits), torch.stack(slopes))

    def _sum_over_classes(self) -> tuple[Tensor, Tensor]:
        """Sums [K, B] of exp(z) over the wrong classes, and of z over all where labels are smoothed."""
        exponentials, sums = torch.zeros_like(self._lengths), torch.zeros_like(self._lengths)
        for tile in self._tiles:
            hidden = tile.hidden_targets()
            for k, dots in enumerate(self._tiles.dots(tile)):
                logits = self._logits(tile, k, dots, out=self._tiles.buffer(tile, 0))
                if self._smoothing[k]:
                    sums[k, tile.rows] += logits.sum(1)
                logits.scatter_add_(1, tile.place, hidden)
                exponentials[k, tile.rows] += logits.exp_().sum(1)
        return exponentials, sums

    def _logits(self, tile: Tile, k: int, dots: Tensor, out: Tensor) -> Tensor:
        """scale * cos [b, c] at prefix k, without a margin."""
        return torch.mul(dots, tile.lengths[k], out=out).mul_(self._factors[k][tile.rows, None])

    def _scales_of_slopes(self, exponentials: Tensor) -> _Slopes:
        """From the sums of exp(z) over the wrong classes, [K, B]."""
        targets, share = self._targets, 1.0 / len(self._vectors)
        # At least a number that can be divided by; that all of it is smaller takes a single class.
        whole = (exponentials + targets.logits.exp()).clamp_min(torch.finfo(exponentials.dtype).tiny)
        shifts = whole.log().round()
        units = whole * (-shifts).exp()
        ones = torch.ones_like(units)
        smoothed = _each([smoothing * (1.0 - share) for smoothing in self._smoothing], ones)
        spreads = _each([smoothing * share for smoothing in self._smoothing], units)
        # p - y: 1 - p of the target is what the wrong classes have, and its y 1 - smoothing + smoothing / C.
        at_targets = (smoothed - exponentials / whole) * targets.slopes * units
        weights = [prefix.weight / len(self._embeddings) for prefix in self._prefixes]
        return _Slopes(shifts, spreads, at_targets + spreads, _each(weights, self._factors) / units)

    def _gradients(self, wanted: Sequence[bool], exponentials: Tensor) -> tuple[Tensor | None, Tensor | None]:
        scales = self._scales_of_slopes(exponentials)
        gradients = CosineGradients(self._tiles, self._embeddings, self._vectors, wanted)
        for tile in self._tiles:
            rows, hidden = tile.rows, tile.hidden_targets()
            for k, dots in enumerate(self._tiles.dots(tile)):
                if not self._prefixes[k].weight:
                    continue
                slopes = self._logits(tile, k, dots, out=self._tiles.buffer(tile, 1 + k))
                slopes.sub_(scales.shifts[k][rows, None]).scatter_add_(1, tile.place, hidden).exp_()
                if self._smoothing[k]:
                    slopes.sub_(scales.spreads[k][rows, None])
                slopes.scatter_add_(1, tile.place, tile.at_targets(scales.at_targets[k][rows]))
                gradients.take(tile, k, slopes, scales.factors[k][rows], dots)
            gradients.spread(tile)
        return gradients.finish(self._shrinkage)


def _each(numbers: Sequence[float], rows: Tensor) -> Tensor:
    """``numbers`` [K] times ``rows`` [K, B], without a copy to the device, which a GPU would wait for."""
    return torch.stack([number * row for number, row in zip(numbers, rows, strict=True)])
