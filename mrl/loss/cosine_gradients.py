"""Gradients of embeddings and class vectors from those of the cosines at every prefix, tile by tile.

With cos = dot / (|e| |w|) and G = d loss / d cos at each prefix:

    d loss / d e = sum_c G / (|e| |w|) w - e / |e|^2 sum_c G cos        and w likewise, summed over the items.

A block of e and w is part of its own prefix and of all longer ones: one product serves the sum of their
G / (|e| |w|).
Shapes: B batch, C classes, D widest prefix, K prefixes, b rows and c classes of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrl.loss.tiles import Tile, Tiles


class CosineGradients:
    """Grows with every tile.

    Args:
        tiles: over ``embeddings`` [B, D] and ``vectors`` [C, D].
        wanted: whether the embeddings, and whether the class vectors, need a gradient.
    """

    def __init__(self, tiles: Tiles, embeddings: Tensor, vectors: Tensor, wanted: Sequence[bool]) -> None:
        self._tiles, self._embeddings, self._vectors = tiles, embeddings, vectors
        self._of_embeddings = torch.zeros_like(embeddings) if wanted[0] else None
        self._of_vectors = torch.zeros_like(vectors) if wanted[1] else None
        # Over the classes, of G cos.
        self._row_sums = embeddings.new_zeros(tiles.num_prefixes, len(embeddings))
        self._num_reached = 0  # up to the widest prefix that was taken; blocks beyond it have no gradient
        self._waiting: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def take(self, tile: Tile, k: int, slopes: Tensor, factors: Tensor, dots: Tensor) -> None:
        """G at prefix k is ``slopes`` [b, c] times |e| times ``factors`` [b]; ``dots`` [b, c] as the tile has them.

        ``slopes`` is changed, and belongs to this object until :meth:`spread`.
        """
        self._num_reached = max(self._num_reached, k + 1)
        slopes.mul_(tile.lengths[k])
        products = torch.mul(slopes, dots, out=self._tiles.buffer(tile, 0))
        self._row_sums[k, tile.rows] += products.sum(1).mul_(factors)
        self._waiting[k] = slopes, factors[:, None], torch.mv(products.T, factors).mul_(tile.shrinkage[k])

    def spread(self, tile: Tile) -> None:
        """Add what was taken of ``tile`` to the gradients."""
        slopes = self._tiles.buffer(tile, 0).zero_()
        shrinkage = torch.zeros_like(tile.shrinkage[0])
        rows = self._tiles.blocks(self._embeddings[tile.rows])
        columns = self._tiles.blocks(self._vectors[tile.classes])
        for k in reversed(range(self._num_reached)):
            if k in self._waiting:
                of_prefix, factors, shrunk = self._waiting.pop(k)
                slopes.addcmul_(of_prefix, factors)
                shrinkage += shrunk
            if self._of_embeddings is not None:
                self._tiles.blocks(self._of_embeddings[tile.rows])[k].addmm_(slopes, columns[k])
            if self._of_vectors is not None:
                block = self._tiles.blocks(self._of_vectors[tile.classes])[k]
                block.addmm_(slopes.T, rows[k]).addcmul_(columns[k], shrinkage[:, None], value=-1)

    def finish(self, shrinkage: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients, when every tile has been; ``shrinkage`` [K, B] of the embeddings."""
        if self._of_embeddings is not None:
            shrunk = torch.zeros_like(shrinkage[0])
            blocks = zip(
                self._tiles.blocks(self._of_embeddings), self._tiles.blocks(self._embeddings), strict=True
            )
            for k, (gradient, block) in reversed(list(enumerate(blocks))[: self._num_reached]):
                shrunk += self._row_sums[k] * shrinkage[k]
                gradient.addcmul_(block, shrunk[:, None], value=-1)
        return self._of_embeddings, self._of_vectors
