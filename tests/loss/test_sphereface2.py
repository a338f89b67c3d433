"""SphereFace2 against a loop over items and classes, its starting bias, and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mrl.loss.sphereface2 import SphereFace2


def naive(cosines, speakers, margin, scale, bias, *, kind, share, curvature):
    """Losses [B], one binary cross-entropy at a time, with arc cosines."""

    def adjusted(cosine):
        return 2 * ((cosine + 1) / 2) ** curvature - 1

    losses = []
    for row, target in zip(cosines, speakers.tolist(), strict=True):
        loss = 0.0
        for place, cosine in enumerate(row):
            sign = 1 if place == target else -1
            if kind == "c":
                similarity = adjusted(cosine) - sign * margin
            else:
                similarity = adjusted(torch.cos(torch.acos(cosine) + sign * margin))
            cost = torch.log1p(torch.exp(-sign * (scale * similarity + bias)))
            loss = loss + (share if place == target else 1 - share) * cost
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["c", "a"])
@pytest.mark.parametrize("share", [0.7, 0.3])
@pytest.mark.parametrize("curvature", [1, 2, 3])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_equals_the_loop_in_value_and_gradients(dtype, kind, share, curvature, margin):
    generator = torch.Generator().manual_seed(3)
    cosines = (1.8 * torch.rand(10, 7, generator=generator, dtype=torch.float64) - 0.9).to(dtype)
    cosines.requires_grad_()
    speakers = torch.randint(0, 7, (10,), generator=generator)
    loss = SphereFace2(7, 0.2, 12.0, kind=kind, positive_share=share, curvature=curvature).to(dtype)
    ours = loss(cosines, speakers, margin, 12.0)
    loop = naive(
        cosines, speakers, margin, 12.0, 12.0 * loss.bias, kind=kind, share=share, curvature=curvature
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(ours, loop, atol=tolerance, rtol=tolerance)
    for variable in (cosines, loss.bias):
        torch.testing.assert_close(
            *(torch.autograd.grad(losses.sum(), variable, retain_graph=True)[0] for losses in (ours, loop)),
            atol=tolerance,
            rtol=tolerance,
        )


def test_two_classes_by_hand():
    """Cosines 0 and 1, t = 2, scale 2: g is -0.5 and 1, and with the margin of 0.25 the logits are -1.5 and 2.5."""
    loss = SphereFace2(2, 0.25, 2.0, positive_share=0.6, curvature=2)
    torch.nn.init.zeros_(loss.bias)
    expected = 0.6 * math.log(1 + math.exp(1.5)) + 0.4 * math.log(1 + math.exp(2.5))
    assert loss(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), 0.25, 2.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["c", "a"])
@pytest.mark.parametrize("classes", [2, 3, 5994])
@pytest.mark.parametrize("scale", [5.0, 60.0])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_bias_starts_where_targets_and_the_others_balance(kind, classes, scale, margin):
    """Least loss at all cosines 0: no gradient on the bias, while either side alone has one."""
    loss = SphereFace2(classes, margin, scale, kind=kind).double()
    cosines = torch.zeros(1, classes, dtype=torch.float64)
    total = loss(cosines, torch.tensor([0]), margin, scale).sum()
    (balance,) = torch.autograd.grad(total, loss.bias)
    with torch.no_grad():
        right = loss._of_target(cosines[0, 0], margin) + loss.bias
        pull = 0.7 * scale * torch.sigmoid(-scale * right)
    assert pull > 1e-3
    assert abs(balance) < 1e-5 * pull


def test_the_bias_by_hand_without_a_margin():
    """Every logit is s g(0) + b and must have odds lambda / ((1 - lambda) (N - 1)); g(0) = -3/4 for t = 3."""
    loss = SphereFace2(101, 0.0, 20.0, positive_share=0.75, curvature=3)
    assert 20.0 * loss.bias.item() == pytest.approx(math.log(3 / 100) + 15.0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["c", "a"])
@pytest.mark.parametrize("curvature", [1, 2, 3])
def test_gradients_are_finite_at_the_ends(dtype, kind, curvature):
    cosines = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], dtype=dtype, requires_grad=True)
    loss = SphereFace2(3, 0.2, 60.0, kind=kind, curvature=curvature).to(dtype)
    losses = loss(cosines, torch.tensor([0, 0]), 0.2, 60.0)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert cosines.grad.isfinite().all()
    assert loss.bias.grad.isfinite()


def test_a_target_past_pi_does_not_gain_by_an_even_power():
    loss = SphereFace2(2, 0.5, 10.0, kind="a", curvature=2)
    angles = torch.linspace(2.0, math.pi, 50)
    cosines = torch.stack([torch.cos(angles), torch.zeros(50)], 1)
    losses = loss(cosines, torch.zeros(50, dtype=torch.long), 0.5, 10.0)
    assert (losses.diff() >= 0).all()


def test_the_target_has_no_part_among_the_wrong_classes():
    """A target far on the right side: its term as a wrong class would be about 50."""
    loss = SphereFace2(3, 0.0, 30.0)
    value = loss(torch.tensor([[1.0, -1.0, -1.0]]), torch.tensor([0]), 0.0, 30.0)
    assert value.item() < 1e-2
