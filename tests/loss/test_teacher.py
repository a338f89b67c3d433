"""The teacher term by hand, against a loop, and its fitted map."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mrl.loss import TeacherTerm

DIMS = (4, 8, 12)


def naive(embeddings, teacher, dims, matrix=None):
    """One cosine at a time."""
    losses = []
    for dim in dims:
        for student, reference in zip(embeddings, teacher, strict=True):
            prefix = student[:dim]
            if matrix is None:
                shared = min(dim, len(reference))
                product = (prefix[:shared] * reference[:shared]).sum()
                lengths = prefix.norm() * reference[:shared].norm()
            else:
                mapped = matrix[:, :dim] @ prefix
                product = mapped @ reference
                lengths = mapped.norm() * reference.norm()
            losses.append(1 - product / lengths)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("teacher_dim", [6, 12, 20])
@pytest.mark.parametrize("is_mapped", [False, True], ids=["same space", "mapped"])
def test_equals_the_loop_in_value_and_gradient(dtype, teacher_dim, is_mapped):
    torch.manual_seed(0)
    embeddings = torch.randn(5, 12, dtype=dtype, requires_grad=True)
    teacher = torch.randn(5, teacher_dim, dtype=dtype)
    term = TeacherTerm(DIMS, teacher_dim, mapped=is_mapped).to(dtype)
    if is_mapped:
        torch.nn.init.normal_(term.map)
    ours, loop = term(embeddings, teacher), naive(embeddings, teacher, DIMS, term.map)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours, loop, atol=tolerance, rtol=tolerance)
    for variable in [embeddings, *term.parameters()]:
        torch.testing.assert_close(
            *(torch.autograd.grad(loss, variable, retain_graph=True)[0] for loss in (ours, loop)),
            atol=tolerance,
            rtol=tolerance,
        )


def test_same_space_by_hand():
    """Student (3, 4), teacher of one number: cosine 1 at prefix 1; 3/5 at prefix 2, where the teacher has a zero."""
    loss = TeacherTerm((1, 2), 1, mapped=False)(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]]))
    assert loss.item() == pytest.approx((0.0 + 0.4) / 2)


def test_a_mapped_prefix_meets_the_whole_teacher():
    """Student (1, 1), the map swaps: prefix 1 lands at (0, 1), prefix 2 at (1, 1); the teacher is (0, 1)."""
    term = TeacherTerm((1, 2), 2, mapped=True)
    with torch.no_grad():
        term.map.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    loss = term(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx((0.0 + 1 - math.sqrt(0.5)) / 2, abs=1e-6)


def test_a_teacher_of_itself_has_no_loss_and_the_scale_does_not_matter():
    torch.manual_seed(0)
    embeddings = torch.randn(6, 12)
    assert TeacherTerm(DIMS, 12, mapped=False)(3 * embeddings, embeddings).item() == pytest.approx(
        0, abs=1e-6
    )


def test_a_fitted_map_finds_the_turn_between_two_spaces():
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(12, 12)).Q
    embeddings = torch.randn(400, 12)
    term = TeacherTerm((12,), 12, mapped=True)
    untrained = term(embeddings, embeddings @ turn.T).item()
    term.fit(embeddings, embeddings @ turn.T)
    torch.testing.assert_close(term.map.detach(), turn, atol=5e-3, rtol=0)
    assert term(embeddings, embeddings @ turn.T).item() < 1e-4 < untrained


def test_the_fit_is_least_squares_over_all_prefixes():
    """Against the normal equations, solved with the prefixes stacked below each other as rows."""
    torch.manual_seed(0)
    embeddings, teacher = torch.randn(50, 12), torch.randn(50, 5)
    term = TeacherTerm(DIMS, 5, mapped=True).double()
    term.fit(embeddings, teacher)
    rows = torch.cat(
        [
            functional.pad(functional.normalize(embeddings[:, :dim].double(), dim=1), (0, 12 - dim))
            for dim in DIMS
        ]
    )
    wanted = functional.normalize(teacher.double(), dim=1).repeat(3, 1)
    ridge = 1e-3 * rows.square().sum(0).mean()
    rows = torch.cat([rows, ridge.sqrt() * torch.eye(12).double()])
    wanted = torch.cat([wanted, torch.zeros(12, 5).double()])
    torch.testing.assert_close(term.map.detach(), torch.linalg.lstsq(rows, wanted).solution.T)


def test_coordinates_that_are_all_zero_leave_the_fit_finite():
    torch.manual_seed(0)
    embeddings = functional.pad(torch.randn(40, 8), (0, 4))
    term = TeacherTerm(DIMS, 5, mapped=True)
    term.fit(embeddings, torch.randn(40, 5))
    assert term.map.isfinite().all()
    assert (term.map[:, 8:] == 0).all()


@pytest.mark.parametrize("is_mapped", [False, True], ids=["same space", "mapped"])
def test_zero_embeddings_give_finite_gradients(is_mapped):
    embeddings = torch.zeros(2, 12, requires_grad=True)
    loss = TeacherTerm(DIMS, 12, mapped=is_mapped)(embeddings, torch.ones(2, 12))
    loss.backward()
    assert loss.item() == 1.0
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("is_mapped", [False, True], ids=["same space", "mapped"])
def test_float32_under_autocast(is_mapped):
    torch.manual_seed(0)
    embeddings, teacher = torch.randn(4, 12).bfloat16(), torch.randn(4, 12).bfloat16()
    term = TeacherTerm(DIMS, 12, mapped=is_mapped)
    outside = term(embeddings.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = term(embeddings, teacher)
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


def test_only_a_map_is_a_parameter():
    assert list(TeacherTerm(DIMS, 6, mapped=False).state_dict()) == []
    assert list(TeacherTerm(DIMS, 6, mapped=True).state_dict()) == ["map"]
