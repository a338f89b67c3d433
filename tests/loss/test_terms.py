"""Targets cut into parts, and the weighted sum over prefixes."""

from __future__ import annotations

import torch

from mrl.loss import PrefixSettings, SlicedLoss, Targets


class Squares(SlicedLoss):
    """The mean square of each prefix, times its margin."""

    def losses(self, embeddings, targets, margins):
        return [
            m * embeddings[:, :dim].square().sum(1).mean() for m, dim in zip(margins, self.dims, strict=True)
        ]


def test_total_is_the_weighted_sum_and_the_terms_are_not_weighted():
    loss = Squares([1, 2])
    embeddings = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    terms = loss(embeddings, Targets(torch.tensor([0, 1])), PrefixSettings((1.0, 2.0), (3.0, 0.5)))
    assert terms.per_prefix.tolist() == [5.0, 14.0]  # (1 + 9) / 2, and twice (5 + 9) / 2
    assert terms.total.item() == 3.0 * 5.0 + 0.5 * 14.0
    assert not terms.per_prefix.requires_grad


def test_a_weight_of_zero_leaves_even_an_infinite_prefix_out():
    embeddings = torch.tensor([[1.0, float("inf")]], requires_grad=True)
    settings = PrefixSettings((1.0, 1.0), (2.0, 0.0))
    terms = Squares([1, 2])(embeddings, Targets(torch.tensor([0])), settings)
    terms.total.backward()
    assert terms.total.item() == 2.0
    assert embeddings.grad.tolist() == [[4.0, 0.0]]


def test_targets_are_cut_with_their_partners():
    whole = Targets(torch.arange(5), torch.arange(5, 10), torch.linspace(0, 1, 5))
    parts = whole.split([3, 2])
    assert [part.speakers.tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert [part.partners.tolist() for part in parts] == [[5, 6, 7], [8, 9]]
    assert torch.equal(parts[1].shares, whole.shares[3:])
    assert Targets(torch.arange(5)).split([3, 2])[1].partners is None
