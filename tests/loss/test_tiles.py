"""Tiles cover every pair once, in buffers that neither batch nor classes can grow."""

from __future__ import annotations

import pytest
import torch

from mrl.loss import tiles
from mrl.loss.tiles import Tiles


def test_every_item_meets_every_class_once_and_its_target_where_it_is(monkeypatch):
    monkeypatch.setattr(tiles, "_CPU_NUMBERS", 12)
    monkeypatch.setattr(tiles, "_MOST_ROWS", 3)
    embeddings, vectors, speakers = torch.randn(7, 5), torch.randn(10, 5), torch.tensor([0, 3, 4, 9, 9, 5, 8])
    walk = Tiles(embeddings, vectors, speakers, [2, 5])
    dots, targets = torch.zeros(2, 7, 10), torch.zeros(7, 10)
    for tile in walk:
        for k, product in enumerate(walk.dots(tile)):
            dots[k, tile.rows, tile.classes] += product
        targets[tile.rows, tile.classes] = torch.zeros_like(product).scatter_add_(
            1, tile.place, tile.at_targets(1.0 + speakers[tile.rows])
        )
    torch.testing.assert_close(dots[0], embeddings[:, :2] @ vectors[:, :2].T)
    torch.testing.assert_close(dots[1], embeddings @ vectors.T)
    assert torch.equal(targets, torch.nn.functional.one_hot(speakers, 10) * (1.0 + speakers[:, None]))


def test_hidden_targets_are_minus_infinity_and_nothing_else_changes():
    walk = Tiles(torch.randn(2, 3), torch.randn(4, 3), torch.tensor([1, 3]), [3])
    (tile,) = walk
    logits = torch.zeros(2, 4).scatter_add_(1, tile.place, tile.hidden_targets())
    none = -float("inf")
    assert logits.tolist() == [[0, none, 0, 0], [0, 0, 0, none]]


@pytest.mark.parametrize("batch", [1, 64, 100_000])
@pytest.mark.parametrize("classes", [1, 5_994, 50_000_000])
def test_buffers_do_not_grow_with_batch_or_classes(batch, classes):
    """Views of one row: nothing of this size is in memory."""
    embeddings, vectors = torch.zeros(1, 4).expand(batch, 4), torch.zeros(1, 4).expand(classes, 4)
    walk = Tiles(embeddings, vectors, torch.zeros(1, dtype=torch.long).expand(batch), [2, 4])
    tile = next(iter(walk))
    assert walk.buffer(tile, 2).numel() <= tiles._CPU_NUMBERS
    assert walk.buffer(tile, 2).untyped_storage().nbytes() <= 4 * 4 * tiles._CPU_NUMBERS
