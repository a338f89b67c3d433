"""Triplet losses against triple loops, torch's own triplet loss, and distances worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mrl.loss import PrefixSettings, SlicedPairLoss, Targets
from mrl.loss.pairs import pairs_of
from mrl.loss.triplet import MINING

DIMS = (2, 4, 6)


def naive(embeddings, speakers, margin, mining):
    """Squared distances of unit vectors, and every triple looked at."""
    unit = functional.normalize(embeddings, dim=1)
    count = len(unit)
    apart = [[(unit[i] - unit[j]).square().sum() for j in range(count)] for i in range(count)]
    losses = []
    for a in range(count):
        positives = [apart[a][p] for p in range(count) if p != a and speakers[p] == speakers[a]]
        negatives = [apart[a][n] for n in range(count) if speakers[n] != speakers[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            losses.append((max(positives) - min(negatives) + margin).relu())
            continue
        for positive in positives:
            if mining == "semi_hard":
                beyond = [negative for negative in negatives if negative > positive]
                negative = min(beyond) if beyond else max(negatives)
                losses.append((positive - negative + margin).relu())
            else:
                all_of_them = [positive - negative + margin for negative in negatives]
                losses += [loss for loss in all_of_them if loss > 0]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("margin", [0.1, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_triple_loop_in_value_and_gradient(mining, dtype, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(12, 6, generator=generator, dtype=dtype, requires_grad=True)
    speakers = torch.randint(0, 5, (12,), generator=generator)
    settings = PrefixSettings((margin, 2 * margin, margin), (1.0, 0.5, 2.0))
    ours = SlicedPairLoss(DIMS, MINING[mining])(embeddings, Targets(speakers), settings).total
    expected = sum(
        weight * naive(embeddings[:, :dim], speakers, m, mining)
        for dim, m, weight in zip(DIMS, settings.margins, settings.weights, strict=True)
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        *(torch.autograd.grad(total, embeddings)[0] for total in (ours, expected)),
        atol=tolerance,
        rtol=tolerance,
    )


def test_hard_mining_equals_torch_on_the_triplets_it_finds():
    torch.manual_seed(0)
    embeddings, speakers = torch.randn(8, 6, dtype=torch.float64), torch.arange(8) // 2
    unit = functional.normalize(embeddings, dim=1)
    apart = torch.cdist(unit, unit).square()
    positives = torch.arange(8) ^ 1
    negatives = (apart + 100 * (speakers[:, None] == speakers)).argmin(1)
    expected = functional.triplet_margin_with_distance_loss(
        unit,
        unit[positives],
        unit[negatives],
        distance_function=lambda x, y: (x - y).square().sum(1),
        margin=0.7,
    )
    loss = SlicedPairLoss([6], MINING["hard"])
    ours = loss(embeddings, Targets(speakers), PrefixSettings((0.7,), (1.0,))).total
    torch.testing.assert_close(ours, expected)


def at_cosines(*cosines):
    """An anchor (1, 0) and unit vectors at these cosines from it."""
    others = [[c, (1 - c * c) ** 0.5] for c in cosines]
    return torch.tensor([[1.0, 0.0], *others])


@pytest.mark.parametrize(
    ("mining", "expected"),
    [
        # Distances from the anchor: positive 0.8, negatives 0.4, 1.0 and 2.0; margin 0.5.
        ("hard", 0.8 - 0.4 + 0.5),
        ("semi_hard", 0.8 - 1.0 + 0.5),
        ("all", ((0.8 - 0.4 + 0.5) + (0.8 - 1.0 + 0.5)) / 2),
    ],
)
def test_one_anchor_by_hand(mining, expected):
    cosines = at_cosines(0.6, 0.8, 0.5, 0.0)
    cosines = cosines @ cosines.T
    pairs = pairs_of(torch.tensor([0, 0, 1, 1, 1]))
    rows = pairs.anchors == 0
    only = torch.zeros_like(pairs.same)
    only[0] = True
    pairs = pairs._replace(
        same=pairs.same & only,
        different=pairs.different & only,
        anchors=pairs.anchors[rows],
        positives=pairs.positives[rows],
    )
    assert MINING[mining](cosines, pairs, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_a_pair_further_than_every_negative_still_pulls():
    """Positives opposite each other, negatives between them: semi-hard mining takes the furthest negative."""
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    loss = SlicedPairLoss([2], MINING["semi_hard"])
    terms = loss(embeddings, Targets(torch.tensor([0, 0, 1, 2])), PrefixSettings((0.0,), (1.0,)))
    # Anchor 0: positive at 4, negatives at 2 and 0.8. Anchor 1: positive at 4, negatives at 2 and 3.2.
    assert terms.total.item() == pytest.approx(((4 - 2) + (4 - 3.2)) / 2, abs=1e-6)
