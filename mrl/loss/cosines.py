"""Cosines at every prefix for the price of one.

Shapes: B batch, D widest prefix, C class vectors, K prefixes, N rows of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

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
    for block_e, block_w in zip(
        prefix_blocks(embeddings, dims), prefix_blocks(class_vectors, dims), strict=True
    ):
        dots = dots + block_e @ block_w.T
        squares_e = squares_e + block_e.square().sum(1)
        squares_w = squares_w + block_w.square().sum(1)
        yield dots * _one_over_length(squares_e)[:, None] * _one_over_length(squares_w)[None, :]


def prefix_blocks(rows: Tensor, dims: Sequence[int]) -> tuple[Tensor, ...]:
    """``rows`` [N, D] cut where a prefix ends: what each prefix adds to the one before."""
    return rows.split([end - start for start, end in pairwise((0, *dims))], dim=1)


def prefix_lengths(rows: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of ``rows`` x [N, D] at each prefix: l, one over the length [K, N], and s [K, N] with ``dl / dx = -l s x``.

    s is the square of l; or 0, where the length is so small that l does not follow it.
    """
    blocks = (torch.linalg.vector_norm(block, dim=1).square() for block in prefix_blocks(rows, dims))
    squares = torch.stack(list(accumulate(blocks)))
    inverse = _one_over_length(squares)
    return inverse, inverse.square().masked_fill(squares < _SMALLEST_SQUARE, 0.0)


def paired_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines [B] of each row of ``first`` [B, D] with the same row of ``second`` [B, D]."""
    lengths = _one_over_length(first.square().sum(1)) * _one_over_length(second.square().sum(1))
    return (first * second).sum(1) * lengths


def full_precision(values: Tensor) -> Tensor:
    """``values`` in float32 at least: angles near |cos| = 1 do not survive the sixteen bits of an autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _one_over_length(squares: Tensor) -> Tensor:
    return squares.clamp_min(_SMALLEST_SQUARE).rsqrt()
