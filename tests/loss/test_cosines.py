"""Cosines accumulated over the prefixes against cosines computed one by one."""

from __future__ import annotations

import torch
from torch.nn import functional

from mrl.loss.cosines import full_precision, paired_cosines, prefix_cosines, prefix_lengths

DIMS = (8, 16, 24)


def test_prefix_cosines_equal_cosine_similarity():
    torch.manual_seed(1)
    embeddings, vectors = torch.randn(4, 24).double(), torch.randn(6, 24).double()
    for dim, cosines in zip(DIMS, prefix_cosines(embeddings, vectors, DIMS), strict=True):
        expected = functional.cosine_similarity(embeddings[:, None, :dim], vectors[None, :, :dim], dim=2)
        torch.testing.assert_close(cosines, expected)


def test_paired_cosines_equal_cosine_similarity():
    torch.manual_seed(1)
    first, second = torch.randn(2, 4, 24).double()
    torch.testing.assert_close(paired_cosines(first, second), functional.cosine_similarity(first, second))


def test_a_zero_row_has_cosine_zero_and_a_finite_gradient():
    first = torch.zeros(1, 3, requires_grad=True)
    cosines = paired_cosines(first, torch.ones(1, 3))
    assert cosines.item() == 0.0
    cosines.sum().backward()
    assert first.grad.isfinite().all()


def test_full_precision_raises_sixteen_bits_and_keeps_sixty_four():
    types = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float64: torch.float64}
    for given, expected in types.items():
        assert full_precision(torch.ones(2, dtype=given)).dtype == expected


def test_lengths_of_prefixes_and_their_slopes_equal_those_of_autograd():
    torch.manual_seed(1)
    rows = torch.randn(5, 24, dtype=torch.float64)
    rows[0], rows[1, :16] = 0.0, 1e-9  # too short at all prefixes, at the first two
    rows.requires_grad_()
    inverse, slope = prefix_lengths(rows, DIMS)
    for dim, one_over, over in zip(DIMS, inverse, slope, strict=True):
        lengths = rows[:, :dim].norm(dim=1).clamp_min(1e-6)
        torch.testing.assert_close(one_over, 1 / lengths)
        (gradient,) = torch.autograd.grad(one_over.sum(), rows, retain_graph=True)
        torch.testing.assert_close(gradient[:, :dim], -(one_over * over)[:, None] * rows[:, :dim])
