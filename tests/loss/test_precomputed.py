"""Gradients that come with the loss: any scalar upstream, any number of backwards."""

from __future__ import annotations

import pytest
import torch

from mrl.loss.precomputed import Computed, precomputed_terms


class Product:
    """Losses a b and a^2, weights 1 and 3, counting how often they were computed."""

    weights = (1.0, 3.0)

    def __init__(self):
        self.wanted = []

    def __call__(self, inputs, wanted):
        self.wanted.append(list(wanted))
        a, b = (tensor.detach() for tensor in inputs)
        gradients = (b + 6 * a, a.clone())
        return Computed(
            torch.stack([a * b, a * a]),
            tuple(g if w else None for g, w in zip(gradients, wanted, strict=True)),
        )


def leaves(needs=(True, True)):
    return [torch.tensor(x, requires_grad=need) for x, need in zip((2.0, 5.0), needs, strict=True)]


@pytest.mark.parametrize("factor", [1.0, 0.25, 65536.0, 0.0])
def test_value_and_gradients_under_any_scalar(factor):
    inputs = leaves()
    terms = precomputed_terms(Product(), Product.weights, inputs)
    (factor * terms.total).backward()
    assert terms.total.item() == 10.0 + 3 * 4.0
    assert terms.per_prefix.tolist() == [10.0, 4.0]
    assert not terms.per_prefix.requires_grad
    assert [tensor.grad.item() for tensor in inputs] == [17.0 * factor, 2.0 * factor]


def test_a_retained_graph_gives_the_same_again_and_leaves_earlier_gradients_alone():
    inputs, product = leaves(), Product()
    total = precomputed_terms(product, Product.weights, inputs).total
    first = torch.autograd.grad(2.0 * total, inputs, retain_graph=True)
    second = torch.autograd.grad(3.0 * total, inputs)
    assert [g.item() for g in first] == [34.0, 4.0]
    assert [g.item() for g in second] == [51.0, 6.0]
    assert len(product.wanted) == 2
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_only_what_needs_a_gradient_is_wanted():
    for needs in [(True, False), (False, True)]:
        inputs, product = leaves(needs), Product()
        precomputed_terms(product, Product.weights, inputs).total.backward()
        assert product.wanted == [list(needs)]
        assert [tensor.grad is not None for tensor in inputs] == list(needs)
    product = Product()
    with torch.no_grad():
        assert not precomputed_terms(product, Product.weights, leaves()).total.requires_grad
    assert product.wanted == [[False, False]]


def test_a_prefix_of_weight_zero_has_no_part_in_the_sum_even_if_infinite():
    def compute(inputs, wanted):
        return Computed(torch.tensor([1.0, float("inf")]), (torch.ones(()),))

    total = precomputed_terms(compute, (2.0, 0.0), leaves()[:1]).total
    assert total.item() == 2.0


def test_an_input_changed_before_the_backward_pass_is_an_error():
    inputs = leaves()
    total = precomputed_terms(Product(), Product.weights, inputs).total
    with torch.no_grad():
        inputs[0].add_(1.0)
    with pytest.raises(RuntimeError, match="inplace"):
        total.backward()


def test_there_is_no_gradient_of_the_gradient():
    inputs = leaves()
    total = precomputed_terms(Product(), Product.weights, inputs).total
    (gradient,) = torch.autograd.grad(total, inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.backward()
