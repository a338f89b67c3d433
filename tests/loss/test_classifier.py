"""The sliced classifier against a naive loop over prefixes, and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets
from mrl.loss.sphereface2 import SphereFace2

DIMS = (8, 16, 24)
SCALES = (10.0, 20.0, 15.0)
SETTINGS = PrefixSettings(margins=(0.3, 0.2, 0.1), weights=(1.0, 0.5, 2.0))
KINDS = ("aam", "am", "everything", "sphereface2")


def make_objectives(kind, num_classes=9):
    if kind == "sphereface2":
        return [SphereFace2(num_classes, 0.2, scale) for scale in SCALES]
    if kind == "everything":
        options = {"easy_margin": True, "label_smoothing": 0.1, "inter_top_k": 3, "inter_top_k_penalty": 0.1}
        return [MarginSoftmax("aam", **options)] * 3
    return [MarginSoftmax(kind)] * 3


def make(kind="aam", num_speakers=9, **options):
    torch.manual_seed(5)
    return SlicedClassifier(num_speakers, DIMS, make_objectives(kind), SCALES, **options)


def make_batch(num_classes=9, size=12, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    embeddings = torch.randn(size, DIMS[-1], generator=generator, dtype=dtype, requires_grad=True)
    return embeddings, torch.randint(0, num_classes, (size,), generator=generator)


def naive_losses(classifier, vectors, embeddings, targets, margins, subcenters=1):
    """Each prefix by itself: sliced, normalised, multiplied, the nearest sub-centre found; one item at a time."""
    losses = []
    for place, dim in enumerate(DIMS):
        unit_e = functional.normalize(embeddings[:, :dim], dim=1)
        unit_w = functional.normalize(vectors[:, :dim], dim=1)
        items = []
        for item, unit in enumerate(unit_e):
            cosines = torch.stack([(unit * w).sum() for w in unit_w]).view(-1, subcenters).max(1).values

            def loss(classes, cosines=cosines, item=item, place=place):
                objective = classifier._objectives[place]
                return objective(cosines[None], classes[item, None], margins[place], SCALES[place])[0]

            value = loss(targets.speakers)
            if targets.partners is not None:
                share = targets.shares[item]
                value = share * value + (1 - share) * loss(targets.partners)
            items.append(value)
        losses.append(torch.stack(items).mean())
    return losses


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("is_mixed", [False, True], ids=["pure", "mixed"])
def test_equals_the_naive_loop_in_value_and_gradient(dtype, kind, subcenters, is_mixed):
    classifier = make(kind, subcenters=subcenters).to(dtype)
    embeddings, speakers = make_batch(dtype=dtype)
    targets = Targets(speakers)
    if is_mixed:
        targets = Targets(speakers, speakers.roll(1), torch.linspace(0.0, 1.0, len(speakers), dtype=dtype))
    terms = classifier(embeddings, targets, SETTINGS)
    per_prefix = naive_losses(
        classifier, classifier.class_vectors, embeddings, targets, SETTINGS.margins, subcenters
    )
    expected = sum(weight * loss for weight, loss in zip(SETTINGS.weights, per_prefix, strict=True))
    tolerance = 1e-9 if dtype == torch.float64 else 5e-5
    torch.testing.assert_close(terms.total, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        terms.per_prefix, torch.stack(per_prefix).detach(), atol=tolerance, rtol=tolerance
    )
    variables = [embeddings, *classifier.parameters()]
    ours = torch.autograd.grad(terms.total, variables)
    naive = torch.autograd.grad(expected, variables)
    for gradient, reference in zip(ours, naive, strict=True):
        torch.testing.assert_close(gradient, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subcenters", [1, 2])
@pytest.mark.parametrize("blocks", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_blocks_in_use_are_all_the_classes_there_are(kind, subcenters, blocks):
    """Three speakers in three blocks: the same as a classifier of the blocks in use alone; the others rest."""
    classifier = make(kind, num_speakers=3, num_blocks=3, subcenters=subcenters)
    classifier.use_blocks(blocks)
    embeddings, speakers = make_batch(num_classes=3 * len(blocks))
    terms = classifier(embeddings, Targets(speakers), SETTINGS)
    terms.total.backward()
    in_use = torch.cat(
        [classifier.class_vectors[3 * subcenters * b : 3 * subcenters * (b + 1)] for b in blocks]
    )
    expected = naive_losses(
        classifier, in_use, embeddings, Targets(speakers), SETTINGS.margins, subcenters=subcenters
    )
    torch.testing.assert_close(terms.per_prefix, torch.stack(expected).detach(), atol=1e-4, rtol=1e-4)
    moved = classifier.class_vectors.grad.view(3, -1).abs().sum(1) > 0
    assert moved.tolist() == [block in blocks for block in range(3)]


def test_before_any_choice_the_first_block_is_in_use():
    classifier = make(num_speakers=3, num_blocks=2)
    embeddings, speakers = make_batch(num_classes=3)
    classifier(embeddings, Targets(speakers), SETTINGS).total.backward()
    assert classifier.class_vectors.grad[:3].abs().sum() > 0
    assert (classifier.class_vectors.grad[3:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_margin_and_scale_belong_to_their_prefix(kind):
    classifier = make(kind)
    embeddings, speakers = make_batch()
    before = classifier(embeddings, Targets(speakers), SETTINGS).per_prefix
    wider = SETTINGS._replace(margins=(0.3, 0.4, 0.1))
    after = classifier(embeddings, Targets(speakers), wider).per_prefix
    assert (after != before).tolist() == [False, True, False]
    alone = SlicedClassifier(9, DIMS[:1], [classifier._objectives[0]], SCALES[:1])
    with torch.no_grad():
        alone.class_vectors.copy_(classifier.class_vectors[:, :8])
    first = alone(embeddings[:, :8], Targets(speakers), PrefixSettings((0.3,), (1.0,)))
    assert first.total.item() == pytest.approx(before[0].item())


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_zero_leaves_a_prefix_out(kind):
    """Only the widest prefix reaches the last coordinates; its numbers are still measured."""
    classifier = make(kind)
    embeddings, speakers = make_batch()
    terms = classifier(embeddings, Targets(speakers), SETTINGS._replace(weights=(1.0, 0.5, 0.0)))
    terms.total.backward()
    assert (embeddings.grad[:, 16:] == 0).all()
    assert (classifier.class_vectors.grad[:, 16:] == 0).all()
    assert (embeddings.grad[:, :16] != 0).any()
    assert terms.per_prefix[2] > 0
    if kind == "sphereface2":
        assert [objective.bias.grad is None for objective in classifier.objectives] == [False, False, True]


def test_two_classes_by_hand():
    """Embedding (1, 0); class vectors (1, 0) and (0, 1): cosines 1 and 0, margin 0.5 by cosine, scale 2."""
    classifier = SlicedClassifier(2, [2], [MarginSoftmax("am")], [2.0])
    with torch.no_grad():
        classifier.class_vectors.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))
    settings = PrefixSettings(margins=(0.5,), weights=(1.0,))
    loss = classifier(torch.tensor([[5.0, 0.0]]), Targets(torch.tensor([0])), settings).total.item()
    assert loss == pytest.approx(math.log(1 + math.exp(0.0 - 1.0)), abs=1e-6)


def test_score_by_hand():
    """Prefix 1 sees cosines +-1, prefix 2 the angle; class 0 lies at (1, 0), class 1 at (-0.6, 0.8); scale 2."""
    classifier = SlicedClassifier(2, [1, 2], [MarginSoftmax("aam")] * 2, [2.0, 2.0])
    with torch.no_grad():
        classifier.class_vectors.copy_(torch.tensor([[1.0, 0.0], [-0.6, 0.8]]))
    losses, hits = classifier.score(torch.tensor([[0.0, 3.0], [2.0, 0.0]]), torch.tensor([1, 1]))
    # Item 0: cosines (0, 0) at prefix 1, where the first class comes first, and (0, 0.8) at prefix 2.
    # Item 1: cosines (1, -1), and (1, -0.6).
    expected = [
        [math.log(2), math.log(1 + math.exp(-1.6))],
        [math.log(1 + math.exp(4)), math.log(1 + math.exp(3.2))],
    ]
    torch.testing.assert_close(losses, torch.tensor(expected))
    assert hits.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_loss_without_margins(kind):
    classifier = make(kind, num_speakers=3, num_blocks=3, subcenters=2)
    classifier.use_blocks((0, 2))  # scoring takes the speakers at the true speed, whatever is in use
    embeddings, speakers = make_batch(num_classes=3)
    losses, hits = classifier.score(embeddings, speakers)
    classifier.use_blocks((0,))
    plain = classifier(embeddings, Targets(speakers), PrefixSettings((0.0,) * 3, (1.0,) * 3))
    torch.testing.assert_close(losses.mean(0), plain.per_prefix)
    assert losses.shape == hits.shape == (12, 3)
    assert not losses.requires_grad


def test_a_bias_of_each_prefix_is_a_parameter_and_a_shared_objective_counts_once():
    sphereface2, softmax = make("sphereface2"), make("aam")
    names = [name for name, _ in sphereface2.named_parameters()]
    assert names == ["class_vectors", "objectives.0.bias", "objectives.1.bias", "objectives.2.bias"]
    assert list(softmax.state_dict()) == ["class_vectors"]
    moved = {name: value + 1 for name, value in sphereface2.state_dict().items()}
    other = make("sphereface2")
    other.load_state_dict(moved)
    assert other._objectives[2].bias.item() == pytest.approx(sphereface2._objectives[2].bias.item() + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_embeddings_and_class_vectors_give_finite_gradients(kind):
    classifier = make(kind)
    with torch.no_grad():
        classifier.class_vectors[:, :8] = 0
    embeddings = torch.zeros(2, 24, requires_grad=True)
    classifier(embeddings, Targets(torch.tensor([0, 1])), SETTINGS).total.backward()
    assert embeddings.grad.isfinite().all()
    assert classifier.class_vectors.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_embeddings_on_and_opposite_their_class_vector_give_finite_gradients(kind, dtype):
    classifier = make(kind).to(dtype)
    embeddings = torch.cat([classifier.class_vectors[:2], -classifier.class_vectors[:2]]).detach()
    embeddings.requires_grad_()
    terms = classifier(embeddings, Targets(torch.tensor([0, 1, 0, 1])), SETTINGS)
    terms.total.backward()
    assert terms.per_prefix.isfinite().all()
    assert embeddings.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_float32_under_autocast_and_from_sixteen_bits(kind):
    classifier = make(kind)
    embeddings, speakers = make_batch()
    embeddings = embeddings.detach().bfloat16()
    outside = classifier(embeddings.float(), Targets(speakers), SETTINGS).total
    with torch.autocast("cpu", torch.bfloat16):
        inside = classifier(embeddings, Targets(speakers), SETTINGS).total
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()


def test_subcenters_start_near_the_class_vector():
    classifier = SlicedClassifier(3, [4], [MarginSoftmax()], [30.0], subcenters=2)
    vectors = torch.eye(3, 4)
    classifier.set_class_vectors(vectors, torch.Generator().manual_seed(0))
    distances = (classifier.class_vectors - vectors.repeat_interleave(2, dim=0)).norm(dim=1)
    torch.testing.assert_close(distances, torch.full((6,), 0.1))
