"""The sliced loss against a naive loop over prefixes, and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mrl.loss import SlicedMarginClassifier, angular_margin, cosine_margin, prefix_cosines

DIMS = {8: 1.0, 16: 0.5, 24: 2.0}


def naive_loss(embeddings, class_vectors, labels, *, kind, margin, scale, subcenters=1, smoothing=0.0):
    """One full margin softmax per prefix, with a one-hot target, as plainly as it can be written."""
    total = 0.0
    for dim, weight in DIMS.items():
        unit_e = functional.normalize(embeddings[:, :dim], dim=1)
        unit_w = functional.normalize(class_vectors[:, :dim], dim=1)
        cosines = unit_e @ unit_w.T
        cosines = cosines.view(len(cosines), -1, subcenters).max(dim=2).values
        one_hot = functional.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
        if kind == "aam":
            angles = torch.acos(cosines.clamp(-1 + 1e-12, 1 - 1e-12))
            shifted = torch.cos(angles + margin)
            beyond = angles + margin > math.pi
            shifted = torch.where(beyond, cosines - margin * math.sin(margin), shifted)
        else:
            shifted = cosines - margin
        logits = scale * (one_hot * shifted + (1 - one_hot) * cosines)
        total = total + weight * functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["aam", "am"])
@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_naive_loop_in_value_and_gradient(dtype, kind, subcenters, smoothing):
    generator = torch.Generator().manual_seed(7)
    embeddings = torch.randn(12, 24, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 9, (12,), generator=generator)
    classifier = SlicedMarginClassifier(
        9, DIMS, kind=kind, scale=20.0, subcenters=subcenters, label_smoothing=smoothing
    ).to(dtype)
    terms = classifier(embeddings, labels, margin=0.3)
    ours = torch.autograd.grad(terms.total, [embeddings, classifier.class_vectors])
    expected = naive_loss(
        embeddings, classifier.class_vectors, labels,
        kind=kind, margin=0.3, scale=20.0, subcenters=subcenters, smoothing=smoothing,
    )  # fmt: skip
    naive = torch.autograd.grad(expected, [embeddings, classifier.class_vectors])
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(terms.total, expected, atol=tolerance, rtol=tolerance)
    for gradient, reference in zip(ours, naive, strict=True):
        torch.testing.assert_close(gradient, reference, atol=tolerance, rtol=tolerance)


def test_terms_and_weights_belong_to_their_prefix():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(5, 24), torch.arange(5)
    classifier = SlicedMarginClassifier(5, {24: 2.0, 8: 1.0, 16: 0.5})
    terms = classifier(embeddings, labels, margin=0.2)
    assert classifier.dims == (8, 16, 24)
    assert classifier.prefix_weights == (1.0, 0.5, 2.0)
    assert terms.total.item() == pytest.approx(
        (terms.per_prefix * torch.tensor([1.0, 0.5, 2.0])).sum().item()
    )
    alone = SlicedMarginClassifier(5, {8: 1.0})
    with torch.no_grad():
        alone.class_vectors.copy_(classifier.class_vectors[:, :8])
    assert alone(embeddings[:, :8], labels, margin=0.2).total.item() == pytest.approx(
        terms.per_prefix[0].item()
    )


def test_two_classes_by_hand():
    """Embedding (1, 0); class vectors (1, 0) and (0, 1): cosines 1 and 0, margin 0.5 by cosine, scale 2."""
    classifier = SlicedMarginClassifier(2, {2: 1.0}, kind="am", scale=2.0)
    with torch.no_grad():
        classifier.class_vectors.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))
    loss = classifier(torch.tensor([[5.0, 0.0]]), torch.tensor([0]), margin=0.5).total.item()
    assert loss == pytest.approx(math.log(1 + math.exp(0.0 - 1.0)), abs=1e-6)


def test_angular_margin_is_exact_and_keeps_falling():
    angles = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)
    shifted = angular_margin(torch.cos(angles), 0.4)
    inside = angles + 0.4 < math.pi
    torch.testing.assert_close(shifted[inside], torch.cos(angles[inside] + 0.4))
    assert (shifted.diff() < 0).all()
    assert cosine_margin(torch.tensor(0.9), 0.2).item() == pytest.approx(0.7)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_ends(cosine, dtype):
    value = torch.tensor([cosine], dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(angular_margin(value, 0.2).sum(), value)
    assert gradient.isfinite().all()


def test_zero_embeddings_and_class_vectors_give_finite_gradients():
    classifier = SlicedMarginClassifier(3, {4: 1.0, 8: 1.0})
    with torch.no_grad():
        classifier.class_vectors[:, :4] = 0
    embeddings = torch.zeros(2, 8, requires_grad=True)
    classifier(embeddings, torch.tensor([0, 1]), margin=0.2).total.backward()
    assert embeddings.grad.isfinite().all()
    assert classifier.class_vectors.grad.isfinite().all()


def test_float32_under_autocast():
    classifier = SlicedMarginClassifier(4, {8: 1.0})
    embeddings = torch.randn(3, 8)
    outside = classifier(embeddings, torch.tensor([0, 1, 2]), margin=0.2).total
    with torch.autocast("cpu", torch.bfloat16):
        inside = classifier(embeddings, torch.tensor([0, 1, 2]), margin=0.2).total
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


def test_prefix_cosines_equal_cosine_similarity():
    torch.manual_seed(1)
    embeddings, vectors = torch.randn(4, 24).double(), torch.randn(6, 24).double()
    for dim, cosines in zip(DIMS, prefix_cosines(embeddings, vectors, list(DIMS)), strict=True):
        expected = functional.cosine_similarity(embeddings[:, None, :dim], vectors[None, :, :dim], dim=2)
        torch.testing.assert_close(cosines, expected)


def test_subcenters_start_near_the_class_vector():
    classifier = SlicedMarginClassifier(3, {4: 1.0}, subcenters=2)
    vectors = torch.eye(3, 4)
    classifier.set_class_vectors(vectors, torch.Generator().manual_seed(0))
    distances = (classifier.class_vectors - vectors.repeat_interleave(2, dim=0)).norm(dim=1)
    torch.testing.assert_close(distances, torch.full((6,), 0.1))
