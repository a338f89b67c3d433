"""The fused softmax against autograd through whole matrices of cosines, tile by tile and at the edges."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets, classifier, fused, tiles
from mrl.loss.cosines import prefix_cosines
from mrl.loss.fused import PrefixSoftmax, fused_softmax

DIMS = (8, 16, 24)
SOFTMAXES = {
    "aam": MarginSoftmax("aam"),
    "am": MarginSoftmax("am"),
    "easy": MarginSoftmax("aam", easy_margin=True),
    "smoothed": MarginSoftmax("aam", label_smoothing=0.1),
}


def make_prefixes(
    softmax, dims=DIMS, margins=(0.3, 0.2, 0.0), scales=(10.0, 64.0, 30.0), weights=(1.0, 0.5, 2.0)
):
    per_prefix = zip(dims, [softmax] * 3, margins, scales, weights, strict=True)
    return [PrefixSoftmax(*of_prefix) for of_prefix in per_prefix]


def make_batch(size=13, classes=29, width=DIMS[-1], dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(size, width, generator=generator, dtype=dtype)
    vectors = torch.randn(classes, width, generator=generator, dtype=dtype)
    return embeddings, vectors, torch.randint(0, classes, (size,), generator=generator)


def plain(prefixes, embeddings, vectors, speakers):
    """Losses and gradients by autograd."""
    leaves = [embeddings.clone().requires_grad_(), vectors.clone().requires_grad_()]
    cosines = prefix_cosines(*leaves, [prefix.dim for prefix in prefixes])
    losses = [
        p.softmax(c, speakers, p.margin, p.scale).mean() for c, p in zip(cosines, prefixes, strict=True)
    ]
    total = sum(p.weight * loss for loss, p in zip(losses, prefixes, strict=True))
    return torch.stack(losses).detach(), torch.autograd.grad(total, leaves)


@pytest.fixture(params=["one tile", "many tiles"])
def tiling(request, monkeypatch):
    """Four items against five classes at a time leave odd rests of 13 and 29."""
    if request.param == "many tiles":
        monkeypatch.setattr(tiles, "_CPU_NUMBERS", 20)
        monkeypatch.setattr(tiles, "_MOST_ROWS", 4)


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("softmax", SOFTMAXES.values(), ids=SOFTMAXES)
@pytest.mark.parametrize("weights", [(1.0, 0.5, 2.0), (0.0, 3.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_equals_autograd_in_value_and_gradient(softmax, weights):
    batch = make_batch()
    prefixes = make_prefixes(softmax, weights=weights)
    found = fused_softmax(prefixes, batch[2], batch[:2], [True, True])
    if not any(weights):
        assert all((gradient == 0).all() for gradient in found.gradients)
        return
    losses, gradients = plain(prefixes, *batch)
    torch.testing.assert_close(found.per_prefix, losses)
    torch.testing.assert_close(found.gradients, gradients, atol=1e-12, rtol=1e-9)


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("softmax", SOFTMAXES.values(), ids=SOFTMAXES)
def test_float32_is_as_near_to_float64_as_autograd_is(softmax):
    single = make_batch(size=32, classes=120, dtype=torch.float32)
    prefixes = make_prefixes(softmax)
    exact_losses, exact = plain(prefixes, single[0].double(), single[1].double(), single[2])
    _, rounded = plain(prefixes, *single)
    found = fused_softmax(prefixes, single[2], single[:2], [True, True])
    torch.testing.assert_close(found.per_prefix.double(), exact_losses, atol=1e-4, rtol=1e-5)
    for ours, theirs, reference in zip(found.gradients, rounded, exact, strict=True):
        error, usual = (ours - reference).norm(), (theirs - reference).norm()
        assert error <= 1.5 * usual


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    size=st.integers(1, 9),
    classes=st.integers(1, 12),
    kind=st.sampled_from(sorted(SOFTMAXES)),
    margin=st.floats(0.0, 0.8),
    scale=st.floats(0.5, 64.0),
    numbers=st.integers(1, 40),
)
def test_any_prefixes_and_sizes_equal_autograd(widths, size, classes, kind, margin, scale, numbers):
    dims = list(accumulate(widths))
    batch = make_batch(size, classes, dims[-1])
    prefixes = [PrefixSoftmax(dim, SOFTMAXES[kind], margin, scale, 1.0 + dim) for dim in dims]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_CPU_NUMBERS", numbers)
        found = fused_softmax(prefixes, batch[2], batch[:2], [True, True])
    losses, gradients = plain(prefixes, *batch)
    torch.testing.assert_close(found.per_prefix, losses, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.gradients, gradients, atol=1e-9, rtol=1e-7)


def test_rows_too_short_for_a_direction_get_the_gradient_of_autograd():
    embeddings, vectors, speakers = make_batch()
    embeddings[0] = vectors[3] = 0.0
    embeddings[1, :8] = vectors[4, :8] = 1e-8
    prefixes = make_prefixes(SOFTMAXES["aam"])
    found = fused_softmax(prefixes, speakers, [embeddings, vectors], [True, True])
    _, gradients = plain(prefixes, embeddings, vectors, speakers)
    torch.testing.assert_close(found.gradients, gradients, atol=1e-9, rtol=1e-7)


def test_a_nearly_certain_target_keeps_the_digits_of_its_loss_and_gradient():
    """1 - p is 4e-11 here: it would vanish beside a p of 1 in float32."""
    vectors = torch.eye(2) * 3.0
    embeddings = torch.tensor([[2.0, 0.1]])
    prefixes = [PrefixSoftmax(2, MarginSoftmax("am"), 0.2, 32.0, 1.0)]
    speakers = torch.tensor([0])
    found = fused_softmax(prefixes, speakers, [embeddings, vectors], [True, True])
    losses, gradients = plain(prefixes, embeddings.double(), vectors.double(), speakers)
    assert 1e-11 < losses.item() < 1e-10
    torch.testing.assert_close(found.per_prefix.double(), losses, atol=0, rtol=1e-4)
    torch.testing.assert_close(found.gradients[0].double(), gradients[0], atol=0, rtol=1e-4)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_a_gradient_that_is_not_wanted_is_none_and_the_other_the_same(wanted):
    batch = make_batch()
    prefixes = make_prefixes(SOFTMAXES["aam"])
    both = fused_softmax(prefixes, batch[2], batch[:2], [True, True]).gradients
    found = fused_softmax(prefixes, batch[2], batch[:2], wanted).gradients
    for gradient, expected, want in zip(found, both, wanted, strict=True):
        assert gradient is None if not want else torch.equal(gradient, expected)


def make_classifier(kind="aam", scales=(10.0, 20.0, 15.0), dtype=torch.float32, **options):
    torch.manual_seed(5)
    return SlicedClassifier(29, DIMS, [SOFTMAXES[kind]] * 3, scales, **options).to(dtype)


SETTINGS = PrefixSettings(margins=(0.3, 0.2, 0.1), weights=(1.0, 0.5, 2.0))


@pytest.mark.parametrize("kind", SOFTMAXES)
def test_gradcheck_of_the_classifier(kind):
    module = make_classifier(kind, dtype=torch.float64)
    embeddings, _, speakers = make_batch(size=3)

    def total(embeddings, vectors):
        return torch.func.functional_call(
            module, {"class_vectors": vectors}, (embeddings, Targets(speakers), SETTINGS)
        ).total

    vectors = module.class_vectors.detach().requires_grad_()
    assert torch.autograd.gradcheck(total, (embeddings.requires_grad_(), vectors), fast_mode=True)


def test_the_same_bits_again():
    embeddings, _, speakers = make_batch(size=64, dtype=torch.float32)
    module = make_classifier()
    results = []
    for _ in range(2):
        leaf = embeddings.clone().requires_grad_()
        module.class_vectors.grad = None
        terms = module(leaf, Targets(speakers), SETTINGS)
        terms.total.backward()
        results.append((terms.total.detach(), leaf.grad, module.class_vectors.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_without_gradients_only_the_loss_is_computed(monkeypatch):
    embeddings, _, speakers = make_batch(dtype=torch.float32)
    module = make_classifier()
    expected = module(embeddings, Targets(speakers), SETTINGS).total.item()
    monkeypatch.setattr(fused, "CosineGradients", None)
    with torch.no_grad():
        assert module(embeddings, Targets(speakers), SETTINGS).total.item() == expected
    module.requires_grad_(False)
    terms = module(embeddings, Targets(speakers), SETTINGS)
    assert terms.total.item() == expected
    assert not terms.total.requires_grad


def test_frozen_class_vectors_still_give_the_embeddings_their_gradient():
    embeddings, _, speakers = make_batch(dtype=torch.float32)
    gradients = []
    for frozen in (False, True):
        leaf = embeddings.clone().requires_grad_()
        module = make_classifier().requires_grad_(not frozen)
        module(leaf, Targets(speakers), SETTINGS).total.backward()
        gradients.append(leaf.grad)
        assert (module.class_vectors.grad is None) == frozen
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kind", SOFTMAXES)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["embedding", "target's vector", "another's vector"])
def test_a_number_that_is_none_makes_the_loss_not_finite(kind, number, where):
    module = make_classifier(kind)
    embeddings, _, _ = make_batch(dtype=torch.float32)
    speakers = torch.zeros(len(embeddings), dtype=torch.long)
    with torch.no_grad():
        broken = embeddings[2] if where == "embedding" else module.class_vectors[0 if where[0] == "t" else 7]
        broken[3] = number
    terms = module(embeddings.requires_grad_(), Targets(speakers), SETTINGS)
    terms.total.backward()
    assert not terms.total.isfinite()
    assert not terms.per_prefix.isfinite().any()


def test_a_number_that_is_none_in_a_prefix_of_weight_zero_stays_there():
    module = make_classifier()
    embeddings, _, speakers = make_batch(dtype=torch.float32)
    embeddings[2, 20] = float("inf")
    embeddings.requires_grad_()
    terms = module(embeddings, Targets(speakers), SETTINGS._replace(weights=(1.0, 1.0, 0.0)))
    terms.total.backward()
    assert terms.per_prefix.isfinite().tolist() == [True, True, False]
    assert embeddings.grad.isfinite().all()
    assert module.class_vectors.grad.isfinite().all()


class Called(Exception):
    """The fused softmax was asked."""


@pytest.mark.parametrize(
    ("options", "softmax", "is_mixed", "is_fused"),
    [
        ({}, SOFTMAXES["smoothed"], False, True),
        ({}, SOFTMAXES["aam"], True, False),
        ({"subcenters": 2}, SOFTMAXES["aam"], False, False),
        ({}, MarginSoftmax(inter_top_k=2, inter_top_k_penalty=0.1), False, False),
        ({"scales": (10.0, 100.0, 10.0)}, SOFTMAXES["aam"], False, False),
    ],
    ids=["plain", "mixed", "sub-centres", "top k", "steep"],
)
def test_it_is_asked_only_for_what_it_computes(monkeypatch, options, softmax, is_mixed, is_fused):
    def refuse(*arguments):
        raise Called

    monkeypatch.setattr(classifier, "fused_softmax", refuse)
    torch.manual_seed(0)
    module = SlicedClassifier(29, DIMS, [softmax] * 3, **{"scales": (10.0, 20.0, 15.0), **options})
    embeddings, _, speakers = make_batch(dtype=torch.float32)
    mixed = (speakers.roll(1), torch.full((len(speakers),), 0.6)) if is_mixed else ()
    if is_fused:
        with pytest.raises(Called):
            module(embeddings, Targets(speakers, *mixed), SETTINGS)
    else:
        assert module(embeddings, Targets(speakers, *mixed), SETTINGS).total.isfinite()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", SOFTMAXES)
def test_a_gpu_computes_the_same_without_waiting(kind):
    embeddings, vectors, speakers = make_batch(size=64, classes=300, dtype=torch.float32)
    prefixes = make_prefixes(SOFTMAXES[kind])
    expected = fused_softmax(prefixes, speakers, [embeddings, vectors], [True, True])
    on_gpu = [tensor.cuda() for tensor in (embeddings, vectors, speakers)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = fused_softmax(prefixes, on_gpu[2], on_gpu[:2], [True, True])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.per_prefix.cpu(), expected.per_prefix, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=1e-3)
