"""Dot products of a batch with all classes at every prefix, tile by tile in buffers of a fixed size.

Shapes: B batch, C classes, D widest prefix, K prefixes, b rows and c classes of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrl.loss.cosines import prefix_blocks, prefix_lengths

# Numbers in a buffer. A processor keeps a tile's few buffers in its cache; a GPU wants more work per call.
_CPU_NUMBERS = 1 << 19
_GPU_NUMBERS = 1 << 23
_MOST_ROWS = 512


class Tile(NamedTuple):
    """Some items against some classes."""

    rows: slice
    classes: slice
    lengths: Tensor  # [K, c], one over the length of the class vectors at each prefix
    shrinkage: Tensor  # [K, c], as of :func:`prefix_lengths`
    place: Tensor  # int64 [b, 1], the column of each item's target; any column where it is not in this tile
    inside: Tensor  # bool [b, 1], whether it is in this tile

    def at_targets(self, values: Tensor) -> Tensor:
        """[b, 1] to add at ``place``: of ``values`` [b] those whose target is in this tile, 0 for the others."""
        return values[:, None].masked_fill(~self.inside, 0.0)

    def hidden_targets(self) -> Tensor:
        """[b, 1] to add at ``place``: minus infinity for targets in this tile."""
        return self.lengths.new_zeros(self.inside.shape).masked_fill_(self.inside, -torch.inf)


class Tiles:
    """Walks over ``embeddings`` [B, D] and ``vectors`` [C, D] with targets ``speakers`` [B] int64.

    Args:
        dims: prefixes, ascending, up to D.
    """

    def __init__(self, embeddings: Tensor, vectors: Tensor, speakers: Tensor, dims: Sequence[int]) -> None:
        self._embeddings, self._vectors, self._speakers = embeddings, vectors, speakers
        self._dims = tuple(dims)
        self.num_prefixes = len(self._dims)
        self._height = max(1, min(len(embeddings), _MOST_ROWS))
        numbers = _CPU_NUMBERS if embeddings.device.type == "cpu" else _GPU_NUMBERS
        self._width = max(1, min(len(vectors), numbers // self._height))
        self._buffers = embeddings.new_empty(2 + self.num_prefixes, self._height * self._width)

    def __iter__(self) -> Iterator[Tile]:
        for first in range(0, len(self._vectors), self._width):
            classes = slice(first, min(first + self._width, len(self._vectors)))
            lengths, shrinkage = prefix_lengths(self._vectors[classes], self._dims)
            last = classes.stop - first - 1
            for start in range(0, len(self._embeddings), self._height):
                rows = slice(start, min(start + self._height, len(self._embeddings)))
                place = self._speakers[rows, None] - first
                within = place.clamp(0, last)
                yield Tile(rows, classes, lengths, shrinkage, within, place == within)

    def buffer(self, tile: Tile, number: int) -> Tensor:
        """Matrix [b, c] number 0 to K, as it was left; its memory serves every tile."""
        return self._view(tile, 1 + number)

    def dots(self, tile: Tile) -> Iterator[Tensor]:
        """The dot products [b, c] at each prefix, one buffer that grows; not to be written to."""
        dots = self._view(tile, 0)
        of_prefix = zip(
            self.blocks(self._embeddings[tile.rows]), self.blocks(self._vectors[tile.classes]), strict=True
        )
        for place, (rows, columns) in enumerate(of_prefix):
            yield torch.mm(rows, columns.T, out=dots) if place == 0 else dots.addmm_(rows, columns.T)

    def blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """``rows`` [N, D] cut where a prefix ends."""
        return prefix_blocks(rows, self._dims)

    def _view(self, tile: Tile, number: int) -> Tensor:
        height, width = tile.rows.stop - tile.rows.start, tile.classes.stop - tile.classes.start
        return self._buffers[number, : height * width].view(height, width)
