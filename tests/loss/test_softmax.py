"""Margin softmax and its options against a loop over items and classes, and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mrl.loss import MarginSoftmax


def naive(cosines, speakers, margin, scale, *, kind, smoothing, easy, top_k, penalty):
    """Losses [B], one logit at a time, with arc cosines."""
    losses = []
    for row, target in zip(cosines, speakers.tolist(), strict=True):
        wrong = [c for c in range(len(row)) if c != target]
        nearest = sorted(wrong, key=lambda c: -row[c].item())[:top_k]
        logits = list(row)
        if kind == "am":
            logits[target] = row[target] - margin
        elif not easy or row[target] > 0:
            angle = torch.acos(row[target])
            past = angle + margin > math.pi
            logits[target] = row[target] - margin * math.sin(margin) if past else torch.cos(angle + margin)
        for c in nearest:
            logits[c] = row[c] + penalty if kind == "am" else torch.cos(torch.acos(row[c]) - penalty)
        likelihoods = torch.log_softmax(scale * torch.stack(logits), 0)
        losses.append(-(1 - smoothing) * likelihoods[target] - smoothing * likelihoods.mean())
    return torch.stack(losses)


def random_cosines(dtype, rows=10, classes=7):
    generator = torch.Generator().manual_seed(3)
    cosines = 1.9 * torch.rand(rows, classes, generator=generator, dtype=torch.float64) - 0.95
    speakers = torch.randint(0, classes, (rows,), generator=generator)
    return cosines.to(dtype).requires_grad_(), speakers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("kind", "easy"), [("aam", False), ("aam", True), ("am", False)], ids=["aam", "easy aam", "am"]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("top_k", [0, 2, 6])
def test_every_mix_of_options_equals_the_loop_in_value_and_gradient(dtype, kind, easy, smoothing, top_k):
    cosines, speakers = random_cosines(dtype)
    softmax = MarginSoftmax(
        kind, label_smoothing=smoothing, easy_margin=easy, inter_top_k=top_k, inter_top_k_penalty=0.1
    )
    ours = softmax(cosines, speakers, 0.3, 10.0)
    loop = naive(
        cosines, speakers, 0.3, 10.0, kind=kind, smoothing=smoothing, easy=easy, top_k=top_k, penalty=0.1
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(ours, loop, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        *(torch.autograd.grad(losses.sum(), cosines)[0] for losses in (ours, loop)),
        atol=tolerance,
        rtol=tolerance,
    )


def test_the_penalty_by_hand():
    """Cosines 0.5, 0.4, 0.3, the first the target, scale 2: the nearest wrong class rises to 0.5."""
    softmax = MarginSoftmax("am", inter_top_k=1, inter_top_k_penalty=0.1)
    loss = softmax(torch.tensor([[0.5, 0.4, 0.3]]), torch.tensor([0]), 0.2, 2.0)
    expected = math.log(1 + math.exp(2 * (0.5 - 0.3)) + math.exp(2 * (0.3 - 0.3)))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_more_nearest_classes_than_there_are_means_all():
    cosines, speakers = random_cosines(torch.float64)
    many, all_wrong = (
        MarginSoftmax("aam", inter_top_k=k, inter_top_k_penalty=0.1)(cosines, speakers, 0.2, 10.0)
        for k in (50, 6)
    )
    torch.testing.assert_close(many, all_wrong)


def test_without_a_margin_nothing_is_penalised():
    cosines, speakers = random_cosines(torch.float64)
    plain = torch.nn.functional.cross_entropy(10.0 * cosines, speakers, reduction="none")
    for options in ({}, {"easy_margin": True}, {"inter_top_k": 3, "inter_top_k_penalty": 0.5}):
        torch.testing.assert_close(MarginSoftmax("aam", **options)(cosines, speakers, 0.0, 10.0), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["aam", "am"])
def test_gradients_are_finite_at_the_ends(dtype, kind):
    cosines = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], dtype=dtype, requires_grad=True)
    softmax = MarginSoftmax(kind, inter_top_k=1, inter_top_k_penalty=0.06)
    softmax(cosines, torch.tensor([0, 0]), 0.2, 30.0).sum().backward()
    assert cosines.grad.isfinite().all()
