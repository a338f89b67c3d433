"""Margins against angles worked out with arc cosines."""

from __future__ import annotations

import math

import pytest
import torch

from mrl.loss.margins import (
    angular_lift,
    angular_margin,
    cosine_lift,
    cosine_margin,
    easy_angular_margin,
)

ANGLES = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)


def test_angular_margin_is_exact_and_keeps_falling():
    shifted = angular_margin(torch.cos(ANGLES), 0.4)
    inside = (ANGLES + 0.4).lt(math.pi)
    torch.testing.assert_close(shifted[inside], torch.cos(ANGLES[inside] + 0.4))
    assert (shifted.diff() < 0).all()


def test_angular_lift_is_exact_and_keeps_falling_without_a_step():
    lifted = angular_lift(torch.cos(ANGLES), 0.4)
    inside = ANGLES > 0.4
    torch.testing.assert_close(lifted[inside], torch.cos(ANGLES[inside] - 0.4))
    assert (lifted.diff() < 0).all()
    assert lifted.diff().abs().max() < 2 * ANGLES.diff().max()


def test_the_easy_margin_leaves_wide_angles_alone():
    cosines = torch.tensor([0.8, 0.1, -0.1, -0.9], dtype=torch.float64)
    expected = [math.cos(math.acos(0.8) + 0.3), math.cos(math.acos(0.1) + 0.3), -0.1, -0.9]
    torch.testing.assert_close(easy_angular_margin(cosines, 0.3), torch.tensor(expected, dtype=torch.float64))


def test_cosine_margin_and_lift_add():
    assert cosine_margin(torch.tensor(0.9), 0.2).item() == pytest.approx(0.7)
    assert cosine_lift(torch.tensor(0.5), 0.2).item() == pytest.approx(0.7)


@pytest.mark.parametrize("function", [angular_margin, easy_angular_margin, angular_lift])
@pytest.mark.parametrize("cosine", [1.0, 1.0 + 1e-6, -1.0, -1.0 - 1e-6, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_ends(function, cosine, dtype):
    value = torch.tensor([cosine], dtype=dtype, requires_grad=True)
    shifted = function(value, 0.2)
    (gradient,) = torch.autograd.grad(shifted.sum(), value)
    assert shifted.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "function", [angular_margin, easy_angular_margin, angular_lift, cosine_margin, cosine_lift]
)
def test_a_margin_of_zero_changes_nothing(function):
    cosines = torch.cos(ANGLES)
    torch.testing.assert_close(function(cosines, 0.0), cosines)
