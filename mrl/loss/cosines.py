"""Cosines at every prefix for the price of one.

Shapes: B batch, D widest prefix, C class vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Squared lengths below this count as this: an all-zero prefix then has cosine 0 and a finite gradient.
_SMALLEST_SQUARE = 1e-12


def prefix_cosines(embeddings: Tensor, class_vectors: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """Cosines [B, C] of ``embeddings`` [B, D] with ``class_vectors`` [C, D], for each prefix in ``dims`` (ascending).

    Dot products and squared lengths over a prefix are those over the prefix before plus those over the block
    between, so all prefixes together cost one D-wide product.
    """
    dots = embeddings.new_zeros(())
    squares_e = embeddings.new_zeros(())
    squares_w = embeddings.new_zeros(())
    start = 0
    for dim in dims:
        block_e, block_w = embeddings[:, start:dim], class_vectors[:, start:dim]
        dots = dots + block_e @ block_w.T
        squares_e = squares_e + block_e.square().sum(1)
        squares_w = squares_w + block_w.square().sum(1)
        yield dots * _one_over_length(squares_e)[:, None] * _one_over_length(squares_w)[None, :]
        start = dim


def paired_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines [B] of each row of ``first`` [B, D] with the same row of ``second`` [B, D]."""
    lengths = _one_over_length(first.square().sum(1)) * _one_over_length(second.square().sum(1))
    return (first * second).sum(1) * lengths


def full_precision(values: Tensor) -> Tensor:
    """``values`` in float32 at least: angles near |cos| = 1 do not survive the sixteen bits of an autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _one_over_length(squares: Tensor) -> Tensor:
    return squares.clamp_min(_SMALLEST_SQUARE).rsqrt()
