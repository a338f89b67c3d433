"""Losses over pairs of a batch: supervised contrastive by loops and by hand, and what all of them share."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mrl.loss import PrefixSettings, SlicedPairLoss, Targets
from mrl.loss.pairs import SupervisedContrastive, pairs_of
from mrl.loss.triplet import MINING

DIMS = (4, 8, 12)
SETTINGS = PrefixSettings(margins=(0.2, 0.5, 1.0), weights=(1.0, 0.5, 2.0))
OBJECTIVES = {**MINING, "supcon": SupervisedContrastive(0.2)}
SPEAKERS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 2])  # speaker 3 is alone


def naive_contrastive(cosines, speakers, temperature):
    anchors = []
    count = len(speakers)
    for i in range(count):
        positives = [p for p in range(count) if p != i and speakers[p] == speakers[i]]
        if not positives:
            continue
        everything = sum(torch.exp(cosines[i, a] / temperature) for a in range(count) if a != i)
        terms = [torch.log(torch.exp(cosines[i, p] / temperature) / everything) for p in positives]
        anchors.append(-sum(terms) / len(positives))
    return sum(anchors) / len(anchors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_supervised_contrastive_equals_the_loops_at_every_prefix(dtype):
    torch.manual_seed(0)
    embeddings = torch.randn(8, 12, dtype=dtype, requires_grad=True)
    terms = SlicedPairLoss(DIMS, SupervisedContrastive(0.2))(embeddings, Targets(SPEAKERS), SETTINGS)
    expected = torch.zeros((), dtype=dtype)
    for dim, weight in zip(DIMS, SETTINGS.weights, strict=True):
        unit = functional.normalize(embeddings[:, :dim], dim=1)
        expected = expected + weight * naive_contrastive(unit @ unit.T, SPEAKERS, 0.2)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(terms.total, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        *(torch.autograd.grad(total, embeddings)[0] for total in (terms.total, expected)),
        atol=tolerance,
        rtol=tolerance,
    )


def test_supervised_contrastive_by_hand():
    """Anchors 0 and 1 at cosine 1, item 2 across: each has log(e^2 / (e^2 + 1)) at temperature 1/2."""
    embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    loss = SlicedPairLoss([2], SupervisedContrastive(0.5))
    terms = loss(embeddings, Targets(torch.tensor([4, 4, 7])), PrefixSettings((0.0,), (1.0,)))
    assert terms.total.item() == pytest.approx(math.log(1 + math.exp(-2.0)), abs=1e-6)


def test_pairs_by_hand():
    pairs = pairs_of(torch.tensor([5, 9, 5]))
    assert pairs.same.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    assert pairs.different.tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert list(zip(pairs.anchors.tolist(), pairs.positives.tolist(), strict=True)) == [(0, 2), (2, 0)]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("speakers", [[0, 1, 2, 3], [0]], ids=["no positives", "one item"])
def test_a_batch_without_an_anchor_gives_zero_and_a_zero_gradient(name, speakers):
    embeddings = torch.randn(len(speakers), 12, requires_grad=True)
    targets = Targets(torch.tensor(speakers, dtype=torch.long))
    terms = SlicedPairLoss(DIMS, OBJECTIVES[name])(embeddings, targets, SETTINGS)
    terms.total.backward()
    assert terms.total.item() == 0.0
    assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("name", MINING)
def test_triplets_need_negatives_too(name):
    embeddings = torch.randn(3, 12, requires_grad=True)
    terms = SlicedPairLoss(DIMS, OBJECTIVES[name])(embeddings, Targets(torch.zeros(3)), SETTINGS)
    terms.total.backward()
    assert terms.total.item() == 0.0
    assert (embeddings.grad == 0).all()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_opposite_and_zero_embeddings_give_finite_gradients(name, dtype):
    torch.manual_seed(0)
    one = torch.randn(12, dtype=dtype)
    embeddings = torch.stack([one, one, one, -one, torch.zeros_like(one), -one]).requires_grad_()
    targets = Targets(torch.tensor([0, 0, 1, 1, 2, 2]))
    terms = SlicedPairLoss(DIMS, OBJECTIVES[name])(embeddings, targets, SETTINGS)
    terms.total.backward()
    assert terms.per_prefix.isfinite().all()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_weight_of_zero_leaves_a_prefix_out(name):
    torch.manual_seed(0)
    embeddings = torch.randn(8, 12, requires_grad=True)
    settings = SETTINGS._replace(weights=(1.0, 0.5, 0.0))
    SlicedPairLoss(DIMS, OBJECTIVES[name])(embeddings, Targets(SPEAKERS), settings).total.backward()
    assert (embeddings.grad[:, 8:] == 0).all()
    assert (embeddings.grad[:, :8] != 0).any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_float32_under_autocast_and_from_sixteen_bits(name):
    torch.manual_seed(0)
    embeddings = torch.randn(8, 12).bfloat16()
    loss = SlicedPairLoss(DIMS, OBJECTIVES[name])
    outside = loss(embeddings.float(), Targets(SPEAKERS), SETTINGS).total
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(embeddings, Targets(SPEAKERS), SETTINGS).total
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


def test_there_is_nothing_to_train_and_blocks_are_all_the_same_to_it():
    torch.manual_seed(0)
    loss = SlicedPairLoss(DIMS, SupervisedContrastive(0.2))
    embeddings = torch.randn(8, 12)
    before = loss(embeddings, Targets(SPEAKERS), SETTINGS).total
    loss.use_blocks([0, 2])
    assert loss(embeddings, Targets(SPEAKERS), SETTINGS).total.item() == before.item()
    assert loss.state_dict() == {}
